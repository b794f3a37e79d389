// A failure: what failed, the remedy, the evidence, and the runbook.

import { byId, el, link } from "./elements.js";
import { retryText } from "./failure.js";

/** @typedef {import("./failure.js").Failure} Failure */

const ADDRESS = /(https:\/\/[a-z0-9.-]+(?:\/[a-z0-9/_-]*)?[a-z0-9/])/i;

/**
 * @param {Failure} failure
 * @param {boolean} isFatal whether the call is over
 * @param {{again: () => void, silent: () => void}} actions
 */
export function showFailure(failure, isFatal, actions) {
  const evidence = failure.evidence.flatMap(([name, value]) => [el("dt", null, name), el("dd", null, value)]);
  const buttons = isFatal ? [el("button", { type: "button", click: actions.again }, "Try again")] : [el("button", { type: "button", click: clearFailure }, "Dismiss")];
  if (isFatal && failure.code.startsWith("microphone_")) buttons.push(el("button", { type: "button", click: actions.silent }, "Call without the microphone"));
  const runbook = el("a", { href: `#runbook/${failure.code}`, click: (event) => show(event, failure.code) }, `Runbook: ${failure.code}`);
  byId("failure").replaceChildren(
    el("section", { class: `failure ${isFatal ? "" : "warning"}`, "aria-labelledby": "failure-title", "data-code": failure.code },
      el("p", { class: "code" }, failure.code),
      el("h2", { id: "failure-title" }, failure.message),
      failure.remedy && el("p", { class: "remedy" }, ...linked(failure.remedy)),
      el("p", { class: "retry" }, retryText(failure.retry)),
      evidence.length > 0 && el("dl", { class: "evidence" }, ...evidence),
      el("div", { class: "actions" }, ...buttons, runbook),
    ),
  );
  byId("failure").scrollIntoView({ block: "nearest" });
}

/** A text whose addresses are links. @param {string} text */
function linked(text) {
  return text.split(ADDRESS).map((part, at) => (at % 2 ? link(part, null, part) : part));
}

export function clearFailure() {
  byId("failure").replaceChildren();
}

/** @param {Event} event @param {string} code */
function show(event, code) {
  event.preventDefault();
  void import("./runbook.js").then(({ openRunbook }) => openRunbook(code));
}
