// Builds nodes. Texts become text nodes; nothing here or elsewhere on the page parses markup.

/** @typedef {Node | string | number | null | undefined | false} Child */
/** @typedef {Record<string, string | number | boolean | null | undefined | ((event: any) => void)>} Properties */

const SVG = "http://www.w3.org/2000/svg";
const LINK = /^(https?:\/\/|#)/;
const ADDRESS = /(https:\/\/[a-z0-9.-]+(?:\/[a-z0-9/_-]*)?[a-z0-9/])/i;

/**
 * An element. A property that is a function is a listener; a property that is null, undefined or false is left out.
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Properties | null} properties
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function el(tag, properties, ...children) {
  const node = document.createElement(tag);
  dress(node, properties ?? {});
  node.append(...children.filter(isShown).map(asNode));
  return node;
}

/**
 * An element of SVG.
 * @param {string} tag
 * @param {Properties} properties
 * @param {...Node} children
 */
export function svg(tag, properties, ...children) {
  const node = document.createElementNS(SVG, tag);
  dress(node, properties);
  node.append(...children);
  return node;
}

/**
 * A link, or its text where the address is neither HTTP nor a place on this page.
 * @param {string} address
 * @param {Properties | null} properties
 * @param {...Child} children
 */
export function link(address, properties, ...children) {
  if (!LINK.test(address)) return el("span", null, ...children);
  const isElsewhere = !address.startsWith("#");
  const target = isElsewhere ? { target: "_blank", rel: "noopener noreferrer" } : {};
  return el("a", { ...properties, ...target, href: address }, ...children);
}

/**
 * A text as nodes: its addresses over https become links.
 * @param {string} text
 * @returns {Child[]}
 */
export function withLinks(text) {
  return text.split(ADDRESS).map((part, at) => (at % 2 ? link(part, null, part) : part));
}

/**
 * Sets the text of a node, if it is another one: an equal text keeps selection and does not reach screen readers again.
 * @param {Element} node
 * @param {string} text
 */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * @param {Element} node
 * @param {string} name
 * @param {string | null} value
 */
export function setAttribute(node, name, value) {
  if (value === null) node.removeAttribute(name);
  else if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

/**
 * Makes `parent` hold exactly `nodes`, and moves only those that are elsewhere, so that focus and open details stay.
 * @param {Element} parent
 * @param {Element[]} nodes
 */
export function arrange(parent, nodes) {
  const wanted = new Set(nodes);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  let next = parent.firstElementChild;
  for (const node of nodes) {
    if (node === next) next = next.nextElementSibling;
    else parent.insertBefore(node, next);
  }
}

/** @param {Element} node @param {Properties} properties */
function dress(node, properties) {
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, String(value));
  }
}

/** @param {Child} child @returns {child is Node | string | number} */
function isShown(child) {
  return child !== null && child !== undefined && child !== false;
}

/** @param {Node | string | number} child */
function asNode(child) {
  return child instanceof Node ? child : document.createTextNode(String(child));
}
