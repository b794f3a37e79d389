// Loudness and times of the call.

import { byId, el, setText } from "./elements.js";
import { milliseconds } from "./stage-row.js";

/** @typedef {import("./events.js").Role} Role */
/** @typedef {import("./call.js").Figure} Figure */

const SECONDS = 20;
const PER_SECOND = 25;
const SIZE = SECONDS * PER_SECOND;
const COLOURS = Object.freeze({ user: "--accent", assistant: "--ok", line: "--line-strong", speech: "--accent", answer: "--ok", stop: "--bad" });
const NAMES = Object.freeze({ relay: "Browser to relay and back", provider: "Browser to provider and back", ready: "Session ready after", answer: "Speech to answer", gaps: "Gaps in the answer" });

/** 0 to 1 on the scale of decibels, from -54 dB. @param {number} level */
export function scaled(level) {
  return level > 0 ? Math.max(0, Math.min(1, 1 + (20 * Math.log10(level)) / 54)) : 0;
}

/** @param {Role} side @param {number} level */
export function showLevel(side, level) {
  byId(`level-${side}`).style.transform = `scaleX(${scaled(level).toFixed(3)})`;
}

export class Figures {
  /** @type {Map<Figure, HTMLElement>} */ #values = new Map();

  constructor() {
    for (const [figure, name] of Object.entries(NAMES)) {
      const value = el("dd", null, "–");
      byId("figures").append(el("div", null, el("dt", null, name), value));
      this.#values.set(/** @type {Figure} */ (figure), value);
    }
  }

  clear() {
    for (const value of this.#values.values()) setText(value, "–");
  }

  /** @param {Figure} figure @param {number} value @param {number | null} median */
  show(figure, value, median) {
    const text = figure === "gaps" ? String(value) : milliseconds(value);
    const node = this.#values.get(figure);
    if (node) setText(node, median !== null && Math.round(median) !== Math.round(value) ? `${text}, median ${milliseconds(median)}` : text);
  }
}

export class Plot {
  #canvas = /** @type {HTMLCanvasElement} */ (byId("plot"));
  /** @type {{user: number, assistant: number, marks: (keyof typeof COLOURS)[]}[]} */ #points = [];
  #level = { user: 0, assistant: 0 };
  /** @type {(keyof typeof COLOURS)[]} */ #marks = [];
  #timer = 0;

  constructor() {
    new ResizeObserver(() => this.#draw()).observe(this.#canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
  }

  /** @param {Role} side @param {number} level */
  add(side, level) {
    this.#level[side] = Math.max(this.#level[side], level);
  }

  /** @param {"speech" | "answer" | "stop"} kind */
  mark(kind) {
    this.#marks.push(kind);
  }

  /** @param {boolean} isRunning */
  run(isRunning) {
    window.clearInterval(this.#timer);
    if (isRunning) this.#timer = window.setInterval(() => this.#step(), 1000 / PER_SECOND);
  }

  #step() {
    this.#points.push({ ...this.#level, marks: this.#marks });
    if (this.#points.length > SIZE) this.#points.shift();
    this.#level = { user: 0, assistant: 0 };
    this.#marks = [];
    if (!document.hidden) this.#draw();
  }

  #draw() {
    const { clientWidth, clientHeight } = this.#canvas;
    const ratio = window.devicePixelRatio;
    const [width, height] = [Math.round(clientWidth * ratio), Math.round(clientHeight * ratio)];
    if (this.#canvas.width !== width || this.#canvas.height !== height) Object.assign(this.#canvas, { width, height });
    const context = this.#canvas.getContext("2d");
    if (!context) return;
    const style = getComputedStyle(this.#canvas);
    const colour = (/** @type {keyof typeof COLOURS} */ name) => style.getPropertyValue(COLOURS[name]);
    const middle = height / 2;
    const step = width / SIZE;
    context.clearRect(0, 0, width, height);
    context.fillStyle = colour("line");
    context.globalAlpha = 0.5;
    context.fillRect(0, middle - ratio / 2, width, ratio);
    context.globalAlpha = 1;
    this.#points.forEach((point, index) => {
      const x = width - (this.#points.length - index) * step;
      for (const kind of point.marks) this.#line(context, x, height, colour(kind), ratio);
      bar(context, x, step, middle, -scaled(point.user), colour("user"));
      bar(context, x, step, middle, scaled(point.assistant), colour("assistant"));
    });
  }

  /** @param {CanvasRenderingContext2D} context @param {number} x @param {number} height @param {string} colour @param {number} ratio */
  #line(context, x, height, colour, ratio) {
    context.fillStyle = colour;
    context.globalAlpha = 0.55;
    context.fillRect(x, 0, ratio, height);
    context.globalAlpha = 1;
  }
}

/** @param {CanvasRenderingContext2D} context @param {number} x @param {number} step @param {number} middle @param {number} size @param {string} colour */
function bar(context, x, step, middle, size, colour) {
  if (!size) return;
  context.fillStyle = colour;
  context.fillRect(x, middle, Math.max(1, step * 0.7), size * middle * 0.94);
}
