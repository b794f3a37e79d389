// A failure: what failed, the remedy, the evidence, and the runbook.

import { FOR_OPERATOR } from "./causes.js";
import { byId, el, withLinks } from "./elements.js";
import { retryText } from "./failure.js";

/** @typedef {import("./failure.js").Failure} Failure */

/** What only the operator of a relay can change. */
const SETTING = /\b(?:RELAY|OPENAI)_[A-Z]|python -m service/;

/**
 * @param {Failure} failure
 * @param {boolean} isFatal whether the call is over
 * @param {{again: () => void, silent: () => void}} actions
 * @param {readonly string[]} operatorReasons reasons whose remedy is the operator's
 */
export function showFailure(failure, isFatal, actions, operatorReasons) {
  const isOperators = FOR_OPERATOR.has(failure.code) || operatorReasons.includes(failure.code) || SETTING.test(failure.remedy);
  const evidence = failure.evidence.flatMap(([name, value]) => [el("dt", null, name), el("dd", null, value)]);
  const buttons = isFatal ? [el("button", { type: "button", click: actions.again }, "Try again")] : [el("button", { type: "button", click: clearFailure }, "Dismiss")];
  if (isFatal && failure.code.startsWith("microphone_")) buttons.push(el("button", { type: "button", click: actions.silent }, "Call without the microphone"));
  const runbook = el("a", { href: `#runbook/${failure.code}`, click: (event) => show(event, failure.code) }, `Runbook: ${failure.code}`);
  byId("failure").replaceChildren(
    el("section", { class: `failure ${isFatal ? "" : "warning"}`, "aria-labelledby": "failure-title", "data-code": failure.code },
      el("p", { class: "code" }, failure.code),
      el("h2", { id: "failure-title" }, failure.message),
      failure.remedy && el("p", { class: "remedy" }, ...withLinks(failure.remedy)),
      isOperators && el("p", { class: "operator" }, el("strong", null, "Not the operator of this relay?"), " Send its operator the reason and the details below; settings and the provider's account are theirs to change."),
      el("p", { class: "retry" }, retryText(failure.retry)),
      evidence.length > 0 && el("dl", { class: "evidence" }, ...evidence),
      el("div", { class: "actions" }, ...buttons, runbook),
    ),
  );
  byId("failure").scrollIntoView({ block: "nearest" });
}

export function clearFailure() {
  byId("failure").replaceChildren();
}

/** @param {Event} event @param {string} code */
function show(event, code) {
  event.preventDefault();
  void import("./runbook.js").then(({ openRunbook }) => openRunbook(code));
}
