// The steps of a call as a row.

import { byId, el, setText } from "./elements.js";

const WORDS = Object.freeze({ idle: "waiting", running: "in progress", ok: "done", failed: "failed", skipped: "not used" });

/** @type {Map<string, {node: HTMLElement, time: HTMLElement, state: HTMLElement}>} */
const rows = new Map();

/** @param {readonly import("./stages.js").Stage[]} stages */
export function showStages(stages) {
  for (const { name, state, ms } of stages) {
    const row = rows.get(name) ?? create(name);
    row.node.dataset.state = state;
    setText(row.state, WORDS[state]);
    setText(row.time, ms === null ? (state === "skipped" ? "not used" : state === "running" ? hint(name) : "") : milliseconds(ms));
  }
}

/** @param {string} name */
function create(name) {
  const time = el("span", { class: "time" });
  const state = el("span", { class: "visually-hidden" });
  const node = el("li", null, el("span", { class: "dot", "aria-hidden": "true" }), el("span", { class: "name" }, name), state, time);
  byId("stages").append(node);
  const row = { node, time, state };
  rows.set(name, row);
  return row;
}

/** @param {string} name */
function hint(name) {
  return name === "speech heard" ? "speak now" : "…";
}

/** @param {number} ms */
export function milliseconds(ms) {
  return ms < 10_000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}
