// Parts that several pages show.

import { el, withLinks } from "./shared/dom.js";

/** @typedef {import("./types.js").Reason} Reason */

/** Marks whose shapes differ, since some readers do not see the colours. @type {Record<string, string>} */
const MARKS = { pass: "✓", ok: "✓", warn: "!", fail: "✕", unknown: "?", skipped: "–" };

/** The command that the page Doctor runs. */
const DOCTOR = "python -m service doctor";

/**
 * The status of a check or a step: a mark and its word.
 * @param {string} status
 * @param {string} [word]
 */
export function statusMark(status, word = status) {
  const mark = el("span", { "aria-hidden": "true" }, MARKS[status] ?? "?");
  return el("span", { class: "status", "data-status": status }, mark, el("span", { class: "status-word" }, word));
}

/** The address of a page of the console. @param {string} page @param {string} parameter */
export function place(page, parameter) {
  return parameter ? `#${page}/${encodeURIComponent(parameter.toWellFormed())}` : `#${page}`;
}

/** A link to a reason of the catalogue. @param {string} reason @param {string} [text] */
export function reasonLink(reason, text = "Runbook") {
  return el("a", { href: place("catalogue", reason) }, text);
}

/**
 * What to do: the remedy, and the way to the runbook.
 * @param {string} remedy
 * @param {string | null} reason
 */
export function remedyBlock(remedy, reason) {
  return el(
    "p",
    { class: "remedy" },
    el("strong", null, "Remedy"),
    " ",
    ...withLinks(remedy),
    " ",
    remedy.includes(DOCTOR) && !location.hash.startsWith("#doctor") && el("a", { href: place("doctor", "") }, "Run the doctor here"),
    " ",
    reason && reasonLink(reason, `Runbook: ${reason}`),
  );
}

/** A heading that takes the focus when its page is shown. @param {string} text */
export function pageHeading(text) {
  return el("h1", { tabindex: "-1" }, text);
}

/**
 * A paragraph in place of an empty list.
 * @param {string} text
 */
export function emptyNote(text) {
  return el("p", { class: "empty" }, text);
}

/**
 * Names and values of one thing. Those without a value are left out.
 * @param {[string, import("./shared/dom.js").Child][]} entries
 */
export function facts(entries) {
  const shown = entries.filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== false);
  return el(
    "dl",
    { class: "facts" },
    ...shown.map(([name, value]) => el("div", null, el("dt", null, name), el("dd", null, value))),
  );
}

/**
 * A search field with its label.
 * @param {string} label
 * @param {string} hint
 * @param {(text: string) => void} onSearch
 */
export function searchField(label, hint, onSearch) {
  const input = el("input", {
    type: "search",
    placeholder: hint,
    maxlength: 100,
    autocomplete: "off",
    spellcheck: "false",
    input: () => onSearch(input.value),
  });
  return { input, element: el("label", { class: "field grow" }, el("span", { class: "field-name" }, label), input) };
}
