// The page "Settings": every setting, its value and where it was read.

import { Problem, readJson } from "./api.js";
import { arrange, el, setText } from "./shared/dom.js";
import { count } from "./format.js";
import { pageHeading, searchField } from "./words.js";

/** @typedef {import("./types.js").Setting} Setting */

/** @param {import("./types.js").Context} context @returns {import("./types.js").View} */
export function settingsPage(context) {
  /** @type {{setting: Setting, row: HTMLElement, text: string}[]} */
  let rows = [];
  let search = "";
  /** The process whose settings are shown, as a number of restarts; null before they are. @type {number | null} */
  let process = null;
  let isLoading = false;
  const totals = el("p", { class: "totals", role: "status" });
  const body = el("tbody", { role: "rowgroup" });
  const onlyChanged = el("input", { type: "checkbox", change: () => draw() });
  const field = searchField("Filter", "part of name, value, source or description", (text) => {
    search = text.trim().toLowerCase();
    draw();
  });

  const draw = () => {
    const found = rows.filter(
      ({ setting, text }) => text.includes(search) && (!onlyChanged.checked || setting.source !== "default"),
    );
    arrange(
      body,
      found.map(({ row }) => row),
    );
    setText(totals, `${count(found.length)} of ${count(rows.length)} settings.`);
  };

  const load = async () => {
    if (isLoading) return;
    isLoading = true;
    const { restarts } = context;
    try {
      const { settings } = /** @type {{settings: Setting[]}} */ (await readJson("/api/settings"));
      rows = settings.map((setting) => ({ setting, row: rowOf(setting), text: textOf(setting) }));
      process = restarts;
      draw();
    } catch (raised) {
      if (!(raised instanceof Problem)) throw raised;
      process = null;
      setText(totals, `${raised.message} ${raised.remedy}`);
    } finally {
      isLoading = false;
    }
  };

  return {
    title: "Settings",
    element: el(
      "div",
      { class: "page" },
      pageHeading("Settings"),
      el(
        "div",
        { class: "controls" },
        field.element,
        el("label", { class: "field check-field" }, onlyChanged, " Only those that are set"),
      ),
      totals,
      el("div", { class: "table-frame" }, table(body)),
    ),
    show: () => void (process !== null && load()), // a rotated key has another fingerprint
    list: () => null,
    apply: () => undefined,
    update: () => void (process !== context.restarts && load()),
  };
}

/** @param {HTMLElement} body */
function table(body) {
  const heads = ["Setting", "Value", "Source", "Accepts"].map((name) => el("th", { scope: "col", role: "columnheader" }, name));
  return el(
    "table",
    { class: "cards settings", role: "table" },
    el("caption", { class: "visually-hidden" }, "Settings with their values and sources"),
    el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...heads)),
    body,
  );
}

/** @param {Setting} setting */
function rowOf(setting) {
  const { name, source, accepts, description } = setting;
  const isDefault = source === "default";
  const name_ = el(
    "th",
    { scope: "row", role: "rowheader" },
    el("code", null, name),
    el("span", { class: "setting-words" }, description),
  );
  const value = el("td", { role: "cell", "data-label": "Value" }, ...valueOf(setting));
  const from = el("td", { role: "cell", "data-label": "Source" }, isDefault ? "default" : el("strong", null, source));
  return el(
    "tr",
    { role: "row", "data-set": isDefault ? null : "yes" },
    name_,
    value,
    from,
    el("td", { role: "cell", "data-label": "Accepts", class: "accepts" }, accepts),
  );
}

/** @param {Setting} setting @returns {import("./shared/dom.js").Child[]} */
function valueOf({ secret, fingerprints, value, default: standard, source }) {
  if (secret) {
    if (!fingerprints.length) return [el("span", { class: "unset" }, "not set")];
    return fingerprints.map((fingerprint) =>
      el("span", { class: "fingerprint" }, el("span", { class: "badge" }, "secret"), " ", fingerprint),
    );
  }
  const shown = written(value);
  const other =
    source !== "default" && written(standard) !== shown
      ? el("span", { class: "setting-words" }, "default: ", written(standard) || "none")
      : null;
  return [shown ? el("code", { class: "value" }, shown) : el("span", { class: "unset" }, "not set"), other];
}

/** @param {unknown} value */
function written(value) {
  if (value === null || value === undefined) return "";
  if (Array.isArray(value)) return value.map(String).join(", ");
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** @param {Setting} setting */
function textOf({ name, value, source, description, fingerprints }) {
  return [name, written(value), source, description, ...fingerprints].join("\n").toLowerCase();
}
