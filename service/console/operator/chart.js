// Small plots and meters, as SVG and text. Position and hatching say what colour says, too.

import { el, setAttribute, setText, svg } from "./shared/dom.js";
import { age, plural } from "./format.js";
import { place } from "./words.js";

/** @typedef {import("./types.js").Connections} Connections */

const COLUMN = 8;
const GAP = 2;
const UP = 44;
const DOWN = 18;
/** The share of a limit from which on a meter warns. */
const NEAR = 0.85;

/**
 * Connections over time: one column for each point, successes above the line and failures below it.
 * @param {Connections} window
 */
export function outcomeChart(window) {
  const { succeeded_points: succeeded, failed_points: failed } = window;
  const width = succeeded.length * COLUMN;
  const most = Math.max(1, ...succeeded);
  const mostFailed = Math.max(1, ...failed);
  const columns = succeeded.map((good, index) => {
    const bad = failed[index] ?? 0;
    const x = index * COLUMN;
    const before = (succeeded.length - 1 - index) * window.point_seconds;
    const column = svg("g", {}, title(`${before ? `${age(before)} ago` : "now"}: ${good} succeeded, ${bad} failed`));
    column.append(svg("rect", { class: "hit", x, y: 0, width: COLUMN, height: UP + DOWN + 1 }));
    if (good) column.append(bar("good", x, UP - scaled(good, most, UP), scaled(good, most, UP)));
    if (bad) column.append(bar("bad", x, UP + 1, scaled(bad, mostFailed, DOWN)));
    return column;
  });
  const line = svg("line", { class: "axis", x1: 0, x2: width, y1: UP + 0.5, y2: UP + 0.5 });
  return svg(
    "svg",
    {
      class: "chart",
      viewBox: `0 0 ${width} ${UP + DOWN + 1}`,
      preserveAspectRatio: "none",
      role: "img",
      "aria-label": summary(window),
    },
    ...columns,
    line,
  );
}

/** @param {Connections} window */
function summary({ seconds, succeeded, failed, failed_points: points, point_seconds: step }) {
  const last = points.findLastIndex((value) => value > 0);
  const when = last < 0 ? "" : `; the last failure ${age((points.length - 1 - last) * step)} ago`;
  return `Connections of the last ${seconds / 60} minutes: ${succeeded} succeeded, ${failed} failed${when}`;
}

/** @param {number} value @param {number} most @param {number} height */
function scaled(value, most, height) {
  return Math.max(3, (value / most) * height);
}

/** @param {string} kind @param {number} x @param {number} y @param {number} height */
function bar(kind, x, y, height) {
  return svg("rect", { class: kind, x: x + GAP / 2, y, width: COLUMN - GAP, height });
}

/** @param {string} text */
function title(text) {
  const node = svg("title", {});
  node.textContent = text;
  return node;
}

/**
 * A value against its limit. `near` is the share from which it warns.
 */
export class Meter {
  /** @param {string} name @param {string} [reached] what it means that the value is at its limit */
  constructor(name, reached = "Limit reached.") {
    this.reached = reached;
    this.value = el("span", { class: "meter-value" });
    this.fill = el("div", { class: "meter-fill" });
    this.track = el("div", { class: "meter-track", role: "meter", "aria-label": name, "aria-valuemin": 0 }, this.fill);
    this.note = el("span", { class: "meter-note" });
    const head = el("div", { class: "meter-head" }, el("span", { class: "meter-name" }, name), this.value);
    this.element = el("div", { class: "meter" }, head, this.track, this.note);
  }

  /**
   * @param {number | null} value
   * @param {number | null} limit
   * @param {string} text
   * @param {string} note
   */
  set(value, limit, text, note) {
    const share = value === null || !limit ? 0 : Math.min(1, value / limit);
    const level = share >= 1 ? "full" : share >= NEAR ? "near" : "normal";
    const warning = { full: `${this.reached} `, near: "Near the limit. ", normal: "" }[level];
    setText(this.value, text);
    setText(this.note, warning + note);
    setAttribute(this.element, "data-level", level);
    this.track.hidden = value === null || !limit;
    setAttribute(this.track, "aria-valuenow", String(value ?? 0));
    setAttribute(this.track, "aria-valuemax", String(limit ?? 1));
    setAttribute(this.track, "aria-valuetext", `${text}. ${warning}${note}`);
    this.fill.style.setProperty("--share", String(share));
  }
}

/**
 * How often each reason occurred, as bars.
 * @param {{reason: string, count: number, counted: boolean}[]} failures
 * @param {(reason: string) => string} message
 */
export function reasonBars(failures, message) {
  const most = Math.max(1, ...failures.map(({ count: number }) => number));
  const rows = failures.map(({ reason, count: number, counted }) => {
    const fill = el("span", { class: "bar-fill" });
    fill.style.setProperty("--share", String(number / most));
    const name = el("a", { href: place("failures", reason) }, el("code", null, reason));
    const words = el("span", { class: "reason-words" }, message(reason));
    const aside = counted ? null : el("span", { class: "badge" }, "caused by the client");
    return el(
      "li",
      { class: counted ? "reason" : "reason uncounted" },
      el(
        "div",
        { class: "reason-head" },
        name,
        aside,
        el("span", { class: "reason-count", title: plural(number, "failure") }, number),
      ),
      el("div", { class: "bar-track", "aria-hidden": "true" }, fill),
      words,
    );
  });
  return el("ul", { class: "reasons" }, ...rows);
}
