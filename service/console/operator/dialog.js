// Dialogs, with the focus inside them and back where it was.

import { el } from "./shared/dom.js";

/** @typedef {import("./shared/dom.js").Child} Child */

/**
 * Shows a dialog until one of its buttons is pressed or it is dismissed.
 * @template T
 * @param {string} title
 * @param {Child[]} content
 * @param {{name: string, result: () => T, kind?: string}} action what the form does when it is sent
 * @param {{name: string, run: () => void} | null} [other]
 * @returns {Promise<T | null>} null if it was dismissed
 */
export function ask(title, content, action, other = null) {
  return new Promise((resolve) => {
    /** @type {T | null} */
    let result = null;
    const submit = (/** @type {Event} */ event) => {
      event.preventDefault();
      result = action.result();
      dialog.close();
    };
    const close = () => dialog.close();
    const buttons = el(
      "div",
      { class: "dialog-buttons" },
      other && el("button", { type: "button", class: "quiet", click: () => (other.run(), close()) }, other.name),
      el("button", { type: "button", class: "quiet", click: close }, "Cancel"),
      el("button", { type: "submit", class: action.kind ?? "primary" }, action.name),
    );
    const heading = el("h2", { id: "dialog-title" }, title);
    const dialog = el("dialog", { "aria-labelledby": "dialog-title" }, el("form", { submit }, heading, ...content, buttons));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(result);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/**
 * Asks for the operator token.
 * @param {import("./api.js").Problem | null} problem why it is asked for
 * @param {boolean} hasToken
 * @param {() => void} forget
 * @returns {Promise<string | null>}
 */
export function askToken(problem, hasToken, forget) {
  const input = el("input", {
    type: "password",
    id: "operator-token",
    autocomplete: "off",
    spellcheck: "false",
    required: true,
    autofocus: true,
  });
  const why = problem && el("p", { class: "problem" }, el("strong", null, problem.message), " ", problem.remedy);
  const note = "The page keeps it in memory only, and sends it to this relay. A reload forgets it.";
  return ask(
    "Operator token",
    [
      why,
      el(
        "label",
        { class: "field", for: "operator-token" },
        el("span", { class: "field-name" }, "Value of RELAY_OPERATOR_TOKEN"),
      ),
      input,
      el("p", { class: "hint" }, note),
    ],
    { name: "Use token", result: () => input.value.trim() || null },
    hasToken ? { name: "Forget token", run: forget } : null,
  );
}
