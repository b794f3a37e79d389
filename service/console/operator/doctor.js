// The page "Doctor": runs it at the press of a button, and shows its steps.

import { Problem } from "./api.js";
import { el, setText } from "./shared/dom.js";
import { clock, duration, plural } from "./format.js";
import { pageHeading, remedyBlock, statusMark } from "./words.js";

/** @typedef {import("./types.js").DoctorDocument} DoctorDocument */
/** @typedef {import("./types.js").Rung} Rung */

/** Longer than the relay lets it run. */
const PATIENCE_SECONDS = 75;

/** @param {import("./types.js").Context} context @returns {import("./types.js").View} */
export function doctorPage(context) {
  let isRunning = false;
  const button = el("button", { type: "button", class: "primary", click: () => void run() }, "Run the doctor");
  const state = el("p", { class: "totals", role: "status" });
  const result = el("div", { class: "doctor-result" });

  const run = async () => {
    if (isRunning) return;
    isRunning = true;
    button.setAttribute("aria-disabled", "true");
    result.setAttribute("aria-busy", "true");
    const began = performance.now();
    const show = () => setText(state, `The doctor runs: ${Math.floor((performance.now() - began) / 1000)} s of at most 60 s.`);
    setText(state, "The doctor runs.");
    const timer = setInterval(show, 1000);
    try {
      const document = /** @type {DoctorDocument} */ (await context.change("POST", "/api/doctor", PATIENCE_SECONDS));
      result.replaceChildren(...report(document));
      setText(
        state,
        `${conclusion(document)} Run at ${clock(Date.now() / 1000)}, in ${duration((performance.now() - began) / 1000)}.`,
      );
    } catch (raised) {
      if (!(raised instanceof Problem)) throw raised;
      setText(state, `${raised.message} ${raised.remedy}`);
    } finally {
      clearInterval(timer);
      isRunning = false;
      button.removeAttribute("aria-disabled");
      result.removeAttribute("aria-busy");
    }
  };

  return {
    title: "Doctor",
    element: el(
      "div",
      { class: "page narrow" },
      pageHeading("Doctor"),
      el(
        "p",
        { class: "lead" },
        "Checks a connection to the provider step by step, from the relay, and explains the first failure. It dials once and costs no tokens.",
      ),
      el("div", { class: "controls" }, button),
      state,
      result,
    ),
    show: () => undefined,
    list: () => null,
    apply: () => undefined,
    update(overview) {
      if (!isRunning && !result.childElementCount)
        setText(state, overview.doctor_running ? "The doctor runs already, at the request of another operator." : "");
    },
  };
}

/** @param {DoctorDocument} document */
function conclusion({ ok, rungs }) {
  const failed = rungs.find(({ status }) => status === "fail");
  if (failed) return `Failed at ${failed.name}.`;
  const warnings = rungs.filter(({ status }) => status === "warn").length;
  return ok
    ? warnings
      ? `No step failed; ${plural(warnings, "step")} with a warning.`
      : "Every step passed."
    : "The doctor reports a failure.";
}

/** @param {DoctorDocument} document */
function report({ ok, rungs, target }) {
  const shown = Object.values(target)
    .filter((value) => typeof value === "string" && value)
    .join(" · ");
  return [
    el("p", { class: "target" }, "Target: ", el("code", null, shown)),
    el("ol", { class: ok ? "rungs" : "rungs failed" }, ...rungs.map(rung)),
  ];
}

/** @param {Rung} step */
function rung({ name, status, seconds, finding, notes, reason, remedy }) {
  return el(
    "li",
    { class: "rung", "data-status": status },
    statusMark(status),
    el(
      "div",
      { class: "rung-head" },
      el("strong", null, name),
      status !== "skipped" && el("span", { class: "rung-time" }, duration(seconds)),
    ),
    el(
      "div",
      { class: "rung-body" },
      el("p", null, finding),
      notes.length ? el("ul", null, ...notes.map((note) => el("li", null, note))) : null,
      remedy && remedyBlock(remedy, reason),
    ),
  );
}
