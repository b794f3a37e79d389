// The elements of index.html.

export { arrange, el, link, setText, withLinks } from "./shared/dom.js";

/** An element that the page has. @param {string} id @returns {HTMLElement} */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no element ${id}`);
  return found;
}
