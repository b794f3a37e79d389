// The page "Failures": the last 200, each with its cause, evidence and remedy.

import { arrange, el, setText } from "./shared/dom.js";
import { age, clock, count, dateTime } from "./format.js";
import { emptyNote, facts, pageHeading, place, remedyBlock, searchField } from "./words.js";

/** @typedef {import("./types.js").Failure} Failure */

/** @type {Record<string, string>} */
const KINDS = { refused: "refused", connect_failed: "connection failed", session_ended: "session ended" };

/** @returns {import("./types.js").View} */
export function failuresPage() {
  /** @type {Map<string, HTMLElement>} */
  let entries = new Map();
  /** @type {import("./types.js").FailureList | null} */
  let last = null;
  let reason = "";
  let search = "";
  const totals = el("p", { class: "totals" });
  const chips = el("ul", { class: "chips", "aria-label": "Filter by reason" });
  const list = el("ol", { class: "failures" });
  const field = searchField("Search", "part of client, address, model, detail or evidence", (text) => {
    search = text.trim().toLowerCase();
    draw();
  });

  const draw = () => {
    if (last === null) return;
    const { failures, total, time } = last;
    const found = failures.filter((failure) => (!reason || failure.reason === reason) && textOf(failure).includes(search));
    setText(totals, totalsOf(found.length, failures.length, total));
    arrange(chips, chipsOf(failures, reason, chips));
    /** @type {Map<string, HTMLElement>} */
    const kept = new Map();
    for (const failure of found) {
      const key = unused(kept, `${failure.time} ${failure.session_id} ${failure.reason}`);
      kept.set(key, entries.get(key) ?? entry(failure));
    }
    entries = kept;
    arrange(
      list,
      found.length
        ? [...kept.values()]
        : [el("li", null, emptyNote(failures.length ? "No failure matches." : "No failure since the start."))],
    );
    for (const node of list.querySelectorAll("[data-time]"))
      setText(node, `${age(time - Number(node.getAttribute("data-time")))} ago`);
  };

  return {
    title: "Failures",
    element: el(
      "div",
      { class: "page" },
      pageHeading("Failures"),
      el("div", { class: "controls" }, field.element),
      chips,
      totals,
      list,
    ),
    show(parameter) {
      reason = parameter;
      draw();
    },
    list: () => "/api/failures/recent?limit=200",
    apply(/** @type {import("./types.js").FailureList} */ document) {
      last = document;
      draw();
    },
    update: () => undefined,
  };
}

/** Failures that are alike in everything get a number. @param {Map<string, unknown>} taken @param {string} key */
function unused(taken, key) {
  let unique = key;
  for (let number = 2; taken.has(unique); number += 1) unique = `${key} ${number}`;
  return unique;
}

/** @param {number} found @param {number} kept @param {number} total */
function totalsOf(found, kept, total) {
  if (!total) return "";
  const since = total > kept ? `the last ${count(kept)} of ${count(total)} since the start` : `${count(total)} since the start`;
  return found === kept
    ? `${since[0]?.toUpperCase()}${since.slice(1)}, the newest first.`
    : `${count(found)} shown, of ${since}.`;
}

/** @param {Failure[]} failures @param {string} chosen @param {Element} parent */
function chipsOf(failures, chosen, parent) {
  /** @type {Map<string, number>} */
  const counts = new Map(chosen ? [[chosen, 0]] : []);
  for (const { reason } of failures) counts.set(reason, (counts.get(reason) ?? 0) + 1);
  const sorted = [...counts].sort(([one, many], [other, more]) => more - many || one.localeCompare(other));
  const present = new Map([...parent.children].map((node) => [node.getAttribute("data-reason"), node]));
  return [["", failures.length], ...sorted].map(([name, number]) => {
    const reason = String(name);
    const node = present.get(reason) ?? chip(reason);
    const anchor = node.firstElementChild;
    const isChosen = reason === chosen;
    if (anchor) {
      anchor.setAttribute("href", place("failures", isChosen ? "" : reason));
      if (isChosen) anchor.setAttribute("aria-current", "true");
      else anchor.removeAttribute("aria-current");
      const shown = anchor.querySelector(".count");
      if (shown) setText(shown, count(Number(number)));
    }
    return node;
  });
}

/** @param {string} reason */
function chip(reason) {
  return el(
    "li",
    { "data-reason": reason },
    el("a", { class: "chip" }, reason ? el("code", null, reason) : "all", " ", el("span", { class: "count" })),
  );
}

/** What a search looks at. @param {Failure} failure */
function textOf(failure) {
  const { reason, message, client, address, model, detail, session_id: id, evidence, upstream_code: code } = failure;
  return [reason, message, client, address, model, detail, id, code, ...Object.values(evidence)].join("\n").toLowerCase();
}

/** @param {Failure} failure */
function entry(failure) {
  const { reason, message, client, address, model, evidence } = failure;
  const summary = el(
    "summary",
    null,
    el("span", { class: "failure-time", title: dateTime(failure.time) }, clock(failure.time)),
    el("code", { class: "failure-reason" }, reason),
    el("span", { class: "failure-words" }, message),
    el("span", { class: "failure-client" }, client),
    el("span", { class: "failure-age", "data-time": failure.time }),
  );
  const shown = facts([
    ["Client", client],
    ["Address", address],
    ["Model", model],
    ["Session", el("code", null, failure.session_id)],
    ["Kind", KINDS[failure.kind] ?? failure.kind],
    ["Caused by", failure.blame],
    ["Retry", failure.retry],
    ["Phase", failure.phase],
    ["Provider's status", failure.upstream_status],
    ["Provider's code", failure.upstream_code],
    ["Detail", failure.detail],
    ...Object.entries(evidence).map(([name, value]) => /** @type {[string, string]} */ ([name, value])),
  ]);
  return el(
    "li",
    { class: "failure", "data-blame": failure.blame },
    el("details", null, summary, el("div", { class: "failure-body" }, remedyBlock(failure.remedy, reason), shown)),
  );
}
