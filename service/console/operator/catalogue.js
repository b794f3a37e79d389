// The page "Catalogue": every reason, and its runbook.

import { Problem } from "./api.js";
import { el, setText } from "./shared/dom.js";
import { count } from "./format.js";
import { render, sectionId } from "./shared/markdown.js";
import { excerpt, forgetRunbooks, readRunbook, resolver } from "./runbook.js";
import { facts, pageHeading, place, searchField } from "./words.js";

/** @typedef {import("./types.js").Reason} Reason */

/** @param {import("./types.js").Context} context @returns {import("./types.js").View} */
export function cataloguePage(context) {
  /** @type {Map<string, Reason>} */
  let reasons = new Map();
  /** @type {Map<string, HTMLElement>} */
  const items = new Map();
  let shows = 0;
  /** What could not be shown yet. @type {[string, string] | null} */
  let missing = null;
  const totals = el("p", { class: "totals", role: "status" });
  const list = el("ul", { class: "catalogue-list" });
  const detail = el("article", { class: "catalogue-detail", "aria-label": "Reason" });
  const element = el("div", { class: "page catalogue" });
  const field = searchField("Search", "part of reason, message or remedy, or a code such as 1013", (text) =>
    filter(text.trim().toLowerCase()),
  );
  element.append(
    pageHeading("Catalogue"),
    el(
      "div",
      { class: "catalogue-frame" },
      el(
        "div",
        { class: "catalogue-side" },
        field.element,
        totals,
        list,
        el(
          "p",
          { class: "hint" },
          el("a", { href: "#runbook/README/by-symptom" }, "Runbooks by symptom"),
          " · ",
          el("a", { href: "#runbook/alerts" }, "Runbook of the alerts"),
        ),
      ),
      detail,
    ),
  );

  const filter = (/** @type {string} */ search) => {
    let found = 0;
    for (const [name, item] of items) {
      const row = reasons.get(name);
      item.hidden = !row || !textOf(row).includes(search);
      found += item.hidden ? 0 : 1;
    }
    setText(totals, `${count(found)} of ${count(reasons.size)} reasons.`);
  };

  const load = async () => {
    const read = await context.catalogue();
    if (read === reasons) return;
    reasons = read;
    forgetRunbooks();
    items.clear();
    for (const row of [...reasons.values()].sort((one, other) => one.reason.localeCompare(other.reason)))
      items.set(row.reason, itemOf(row));
    list.replaceChildren(...items.values());
    filter(field.input.value.trim().toLowerCase());
  };

  /** @param {string} parameter @param {string} page */
  const open = async (parameter, page) => {
    const turn = ++shows;
    missing = null;
    let nodes;
    try {
      await load();
      nodes = page === "runbook" ? await wholePage(parameter, reasons) : await detailOf(parameter, reasons);
    } catch (raised) {
      if (!(raised instanceof Problem)) throw raised;
      if (turn === shows) missing = [parameter, page];
      nodes = [el("p", { class: "problem", role: "alert" }, `${raised.message} ${raised.remedy}`)];
    }
    if (turn !== shows) return;
    for (const [name, item] of items) mark(item, page === "catalogue" && name === parameter);
    detail.replaceChildren(...nodes);
    element.classList.toggle("has-detail", parameter !== "");
    reveal(detail, page === "runbook" ? (parameter.split("/")[1] ?? "") : "", parameter !== "");
  };

  return {
    title: "Catalogue",
    element,
    show: (parameter, page) => void open(parameter, page),
    list: () => null,
    apply: () => undefined,
    update: () => void (missing && open(...missing)),
  };
}

/** Puts the focus on the section that was asked for. @param {HTMLElement} detail @param {string} anchor @param {boolean} isWanted */
function reveal(detail, anchor, isWanted) {
  const section = anchor ? detail.querySelector(`[id="${CSS.escape(sectionId(anchor))}"]`) : null;
  const target = section ?? detail.querySelector("h2");
  if (!isWanted || !(target instanceof HTMLElement)) return;
  target.focus({ preventScroll: true });
  if (section) section.scrollIntoView({ block: "start" });
  else window.scrollTo(0, 0);
}

/** @param {HTMLElement} item @param {boolean} isCurrent */
function mark(item, isCurrent) {
  const anchor = item.firstElementChild;
  if (isCurrent) {
    anchor?.setAttribute("aria-current", "true");
    item.scrollIntoView({ block: "nearest" });
  } else anchor?.removeAttribute("aria-current");
}

/** @param {Reason} row */
function itemOf({ reason, message }) {
  return el("li", null, el("a", { href: place("catalogue", reason) }, el("code", null, reason), el("span", null, message)));
}

/** What a search looks at. @param {Reason} row */
function textOf({
  reason,
  message,
  remedy,
  operator_action: action,
  http_status: status,
  close_code: close,
  event_close_code: event,
  blame,
}) {
  return [reason, message, remedy, action, status, close, event, blame].join("\n").toLowerCase();
}

/** @param {string} reason @param {ReadonlyMap<string, Reason>} reasons */
async function detailOf(reason, reasons) {
  const row = reasons.get(reason);
  if (!reason) return [el("p", { class: "empty" }, "Select a reason to read what it means and what to do.")];
  if (!row)
    return [
      el("h2", { tabindex: "-1" }, "Unknown reason"),
      el("p", null, "The catalogue of this relay has no reason ", el("code", null, reason), "."),
    ];
  const { runbook } = row;
  const blocks = await readRunbook(runbook.name);
  const resolve = resolver(runbook.name, new Set(reasons.keys()));
  const about = excerpt(blocks, reason);
  const address = `#runbook/${runbook.name}/${runbook.anchor}`;
  return [
    el("p", { class: "back" }, el("a", { href: "#catalogue" }, "All reasons")),
    el("h2", { tabindex: "-1" }, el("code", null, reason)),
    el("p", { class: "lead" }, row.message),
    codes(row),
    el("h3", null, "What the operator does"),
    el("p", { class: "remedy" }, row.operator_action),
    row.remedy === row.operator_action ? null : el("h3", null, "What clients receive as remedy"),
    row.remedy === row.operator_action ? null : el("p", null, row.remedy),
    el(
      "section",
      { class: "runbook", "aria-label": "Runbook" },
      ...render(about, 1, resolve),
      el("p", { class: "hint" }, "From the runbook ", el("a", { href: address }, `${runbook.name}: the whole page`), "."),
    ),
  ].filter((node) => node !== null);
}

/** @param {Reason} row */
function codes({ http_status: status, close_code: close, event_close_code: event, blame, retry, level }) {
  return facts([
    ["HTTP status", status ?? "none"],
    ["Close code", close ?? "none, or that of the peer"],
    ["Close code, on_failure=event", event],
    ["Caused by", blame],
    ["Retry", retry],
    ["Log level", level],
  ]);
}

/** @param {string} parameter `name` or `name/anchor` @param {ReadonlyMap<string, Reason>} reasons */
async function wholePage(parameter, reasons) {
  const name = parameter.split("/")[0] || "README";
  const blocks = await readRunbook(name);
  const nodes = render(blocks, 1, resolver(name, new Set(reasons.keys())));
  return [
    el("p", { class: "back" }, el("a", { href: "#catalogue" }, "All reasons")),
    el("section", { class: "runbook whole", "aria-label": `Runbook ${name}` }, ...nodes),
  ];
}
