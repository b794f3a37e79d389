// What was said, by whom. Texts grow in place; a screen reader is given each whole text once.

import { byId, el, setText } from "./elements.js";

/** @typedef {import("./events.js").Role} Role */

const NAMES = Object.freeze({ user: "You", assistant: "Assistant" });
const MAX = 200;

export class Transcript {
  /** @type {Map<string, {node: HTMLElement, text: HTMLElement}>} */ #items = new Map();
  #list = byId("transcript");

  clear() {
    this.#items.clear();
    this.#list.replaceChildren();
  }

  /** @param {Role} role @param {string} item @param {string} text @param {boolean} isWhole */
  add(role, item, text, isWhole) {
    const entry = this.#items.get(item) ?? this.#create(role, item);
    setText(entry.text, isWhole ? text : (entry.text.textContent ?? "") + text);
    entry.node.hidden = !entry.text.textContent?.trim();
    this.#scroll();
  }

  /** @param {string} item */
  interrupted(item) {
    const entry = this.#items.get(item);
    if (!entry || entry.node.classList.contains("interrupted")) return;
    entry.node.classList.add("interrupted");
    entry.node.append(el("small", null, "interrupted"));
  }

  /** A note of the page. @param {string} text */
  note(text) {
    this.#append(el("li", { class: "note" }, text));
  }

  /** @param {Role} role @param {string} item */
  #create(role, item) {
    const text = el("p", null);
    const node = el("li", { class: role }, el("span", { class: "who" }, NAMES[role]), text);
    this.#append(node);
    const entry = { node, text };
    this.#items.set(item, entry);
    return entry;
  }

  /** @param {HTMLElement} node */
  #append(node) {
    this.#list.append(node);
    if (this.#list.children.length > MAX) this.#list.firstElementChild?.remove();
    this.#scroll();
  }

  #scroll() {
    this.#list.scrollTop = this.#list.scrollHeight;
  }
}
