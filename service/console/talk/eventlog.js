// The events of the call: the last 1,000, without their audio.

import { arrange, byId, el, setText } from "./elements.js";
import { elide } from "./events.js";

/** @typedef {"sent" | "received" | "page"} Direction */
/** @typedef {{at: number, direction: Direction, type: string, isAudio: boolean, event: any}} Entry */

const MAX = 1_000;
const MAX_AUDIO = 200; // of them: 50 in a second would push out everything else within half a minute
const SHOWN = 200;
const ARROWS = Object.freeze({ sent: "→", received: "←", page: "·" });
const SPOKEN = Object.freeze({ sent: "sent", received: "received", page: "page" });
const AUDIO = /audio\.(delta|append)$|audio_buffer\.append$/;

export class EventLog {
  /** @type {Entry[]} */ #entries = [];
  #start = performance.now();
  #isPaused = false;
  #isDue = false;
  #total = 0;
  #audio = 0; // entries
  #list = byId("log");

  constructor() {
    for (const id of ["log-filter", "log-audio"]) byId(id).addEventListener("input", () => this.#redraw());
    byId("log-pause").addEventListener("click", () => this.#pause());
    byId("log-download").addEventListener("click", () => this.#download());
    this.#count();
  }

  /** Another call begins: its times start at zero. The events of the one before stay. */
  restart() {
    this.#start = performance.now();
  }

  /** @param {Direction} direction @param {any} event */
  add(direction, event) {
    const type = String(event?.type ?? "(no type)");
    const isAudio = AUDIO.test(type);
    this.#entries.push({ at: performance.now() - this.#start, direction, type, isAudio, event: elide(event) });
    this.#total += 1;
    this.#audio += isAudio ? 1 : 0;
    if (this.#audio > MAX_AUDIO) this.#drop(this.#entries.findIndex((entry) => entry.isAudio));
    if (this.#entries.length > MAX) this.#drop(0);
    if (!this.#isPaused) this.#schedule();
  }

  /** @param {number} at */
  #drop(at) {
    if (this.#entries.splice(at, 1)[0]?.isAudio) this.#audio -= 1;
  }

  /** Draws once per frame, however many events there are. */
  #schedule() {
    if (this.#isDue) return;
    this.#isDue = true;
    requestAnimationFrame(() => {
      this.#isDue = false;
      if (!this.#isPaused) this.#redraw();
    });
  }

  #redraw() {
    const filter = /** @type {HTMLInputElement} */ (byId("log-filter")).value.trim().toLowerCase();
    const withAudio = /** @type {HTMLInputElement} */ (byId("log-audio")).checked;
    const found = [];
    for (let at = this.#entries.length - 1; at >= 0 && found.length < SHOWN; at -= 1) {
      const entry = this.#entries[at];
      if (entry && matches(entry, filter, withAudio)) found.push(entry);
    }
    arrange(this.#list, found.map(nodeOf)); // keeps the nodes that stay, with what is opened in them
    this.#count();
  }

  #count() {
    setText(byId("log-count"), this.#total > this.#entries.length ? `${this.#entries.length} of ${this.#total} kept` : String(this.#total || ""));
  }

  #pause() {
    this.#isPaused = !this.#isPaused;
    const button = byId("log-pause");
    button.setAttribute("aria-pressed", String(this.#isPaused));
    setText(button, this.#isPaused ? "Resume" : "Pause");
    if (!this.#isPaused) this.#redraw();
  }

  #download() {
    const lines = this.#entries.map(({ at, direction, event }) => JSON.stringify({ ms: Math.round(at), direction, event }));
    const url = URL.createObjectURL(new Blob([lines.join("\n"), "\n"], { type: "application/x-ndjson" }));
    el("a", { href: url, download: "realtime-relay-events.jsonl" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }
}

/** @type {WeakMap<Entry, HTMLElement>} */
const nodes = new WeakMap();

/** @param {Entry} entry */
function nodeOf(entry) {
  const known = nodes.get(entry);
  if (known) return known;
  const { at, direction, type, event } = entry;
  const head = [el("span", { class: "at" }, `${(at / 1000).toFixed(2)} s`), el("span", { class: "arrow", "aria-label": SPOKEN[direction], role: "img" }, ARROWS[direction]), el("span", { class: "type" }, type)];
  const details = el("details", null, el("summary", null, ...head));
  details.addEventListener("toggle", () => {
    if (details.open && !details.querySelector("pre")) details.append(el("pre", { tabindex: "0" }, JSON.stringify(event, null, 2)));
  });
  const node = el("li", { class: direction, "data-error": type === "error" }, details);
  nodes.set(entry, node);
  return node;
}

/** @param {Entry} entry @param {string} filter @param {boolean} withAudio */
function matches({ type, isAudio, event }, filter, withAudio) {
  if (isAudio && !withAudio) return false;
  return !filter || type.toLowerCase().includes(filter) || JSON.stringify(event).toLowerCase().includes(filter);
}
