// Markdown as the runbooks use it: headings, paragraphs, lists, tables, code, bold, links. Builds nodes; every text is a text node.

import { el, link } from "./dom.js";

/** @typedef {{kind: "heading", level: number, text: string}} Heading */
/** @typedef {{kind: "paragraph", text: string}} Paragraph */
/** @typedef {{kind: "code", text: string}} Code */
/** @typedef {{kind: "list", isOrdered: boolean, items: string[]}} List */
/** @typedef {{kind: "table", rows: string[][]}} Table */
/** @typedef {Heading | Paragraph | Code | List | Table} Block */
/** @typedef {(address: string) => string | null} Resolve an address of a document as one of this page; null for none */

const FENCE = /^\s*```/;
const HEADING = /^(#{1,6})\s+(.*)$/;
const ITEM = /^\s*(?:[-*]|(\d{1,9})[.)])\s+(.*)$/;
const ROW = /^\s*\|/;
const RULE = /^[\s|:-]+$/;
const INLINE =
  /`([^`]+)`|\*\*([^*]+)\*\*|\[((?:`[^`]{0,200}`|[^\]`[]){0,400})\]\(([^()\s]{0,400})\)|(https?:\/\/[^\s<>`"'()[\]*]*[^\s<>`"'()[\]*.,;:!?])/g;

/**
 * The blocks of a document. Comments are left out. Pure.
 * @param {string} markdown
 * @returns {Block[]}
 */
export function parse(markdown) {
  const lines = markdown.replace(/<!--[\s\S]*?-->/g, "").split(/\r?\n/);
  /** @type {Block[]} */
  const blocks = [];
  for (let at = 0; at < lines.length;) at = block(lines, at, blocks);
  return blocks;
}

/**
 * Reads the block at line `at`, and returns the line behind it.
 * @param {string[]} lines
 * @param {number} at
 * @param {Block[]} blocks
 */
function block(lines, at, blocks) {
  const line = lines[at] ?? "";
  if (!line.trim()) return at + 1;
  if (FENCE.test(line)) return code(lines, at, blocks);
  const heading = HEADING.exec(line);
  if (heading) {
    blocks.push({ kind: "heading", level: heading[1]?.length ?? 1, text: (heading[2] ?? "").trim() });
    return at + 1;
  }
  if (ROW.test(line)) return table(lines, at, blocks);
  return ITEM.test(line) ? list(lines, at, blocks) : paragraph(lines, at, blocks);
}

/** @param {string[]} lines @param {number} at @param {Block[]} blocks */
function code(lines, at, blocks) {
  let end = at + 1;
  while (end < lines.length && !FENCE.test(lines[end] ?? "")) end += 1;
  blocks.push({ kind: "code", text: lines.slice(at + 1, end).join("\n") });
  return end + 1;
}

/** @param {string[]} lines @param {number} at @param {Block[]} blocks */
function table(lines, at, blocks) {
  const rows = [];
  let end = at;
  for (; end < lines.length && ROW.test(lines[end] ?? ""); end += 1) {
    const line = (lines[end] ?? "").trim();
    if (!RULE.test(line)) rows.push(cells(line));
  }
  if (rows.length) blocks.push({ kind: "table", rows });
  return end;
}

/** The cells of a row; a bar in code or behind a backslash separates none. @param {string} line */
function cells(line) {
  const inner = line.replace(/^\|/, "").replace(/\|$/, "");
  const parts = inner.match(/(?:`[^`]*`|\\\||[^|])+/g) ?? [""];
  return parts.map((part) => part.replaceAll("\\|", "|").trim());
}

/** @param {string[]} lines @param {number} at @param {Block[]} blocks */
function list(lines, at, blocks) {
  const items = [];
  const isOrdered = ITEM.exec(lines[at] ?? "")?.[1] !== undefined;
  let end = at;
  for (; end < lines.length && (lines[end] ?? "").trim(); end += 1) {
    const line = lines[end] ?? "";
    const item = ITEM.exec(line);
    if (item) items.push(item[2] ?? "");
    else if (/^\s/.test(line)) items[items.length - 1] += ` ${line.trim()}`;
    else break;
  }
  blocks.push({ kind: "list", isOrdered, items });
  return end;
}

/** @param {string[]} lines @param {number} at @param {Block[]} blocks */
function paragraph(lines, at, blocks) {
  let end = at + 1;
  while (end < lines.length && isText(lines[end] ?? "")) end += 1;
  blocks.push({
    kind: "paragraph",
    text: lines
      .slice(at, end)
      .map((line) => line.trim())
      .join(" "),
  });
  return end;
}

/** @param {string} line */
function isText(line) {
  return line.trim() !== "" && !FENCE.test(line) && !HEADING.test(line) && !ROW.test(line) && !ITEM.test(line);
}

/**
 * The blocks as nodes. Headings begin at the level below `level`, with ids that links of the document can name.
 * @param {Block[]} blocks
 * @param {number} level
 * @param {Resolve} resolve
 * @returns {HTMLElement[]}
 */
export function render(blocks, level, resolve) {
  return blocks.map((each) => {
    switch (each.kind) {
      case "heading": {
        const depth = /** @type {2 | 3 | 4 | 5 | 6} */ (Math.min(6, level + each.level));
        return el(`h${depth}`, { id: sectionId(slug(each.text)), tabindex: "-1" }, ...inline(each.text, resolve));
      }
      case "paragraph":
        return el("p", null, ...inline(each.text, resolve));
      case "code":
        return el("pre", { tabindex: "0" }, el("code", null, each.text));
      case "list":
        return el(each.isOrdered ? "ol" : "ul", null, ...each.items.map((item) => el("li", null, ...inline(item, resolve))));
      case "table":
        return tableNode(each.rows, resolve);
    }
  });
}

/** @param {string[][]} rows @param {Resolve} resolve */
function tableNode([head = [], ...rows], resolve) {
  const heads = head.map((cell) => el("th", { scope: "col" }, ...inline(cell, resolve)));
  const body = rows.map((row) => el("tr", null, ...row.map((cell) => el("td", null, ...inline(cell, resolve)))));
  return el(
    "div",
    { class: "table-frame", tabindex: "0", role: "group", "aria-label": "Table" },
    el("table", null, el("thead", null, el("tr", null, ...heads)), el("tbody", null, ...body)),
  );
}

/**
 * Text with code, bold and links.
 * @param {string} text
 * @param {Resolve} resolve
 * @returns {Node[]}
 */
export function inline(text, resolve) {
  /** @type {Node[]} */
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(INLINE)) {
    const [whole, source, bold, words = "", address = "", url] = match;
    nodes.push(document.createTextNode(text.slice(end, match.index)));
    end = match.index + whole.length;
    if (source !== undefined) nodes.push(el("code", null, source));
    else if (bold !== undefined) nodes.push(el("strong", null, ...inline(bold, resolve)));
    else if (url !== undefined) nodes.push(link(resolve(url) ?? "", null, url));
    else nodes.push(link(resolve(address) ?? "", null, ...inline(words, resolve)));
  }
  nodes.push(document.createTextNode(text.slice(end)));
  return nodes;
}

/** The anchor of a heading, as GitHub makes it. @param {string} text */
export function slug(text) {
  return text
    .toLowerCase()
    .replace(/[^\p{L}\p{N}\s_-]/gu, "")
    .trim()
    .replace(/\s+/g, "-");
}

/** The id of a section; the prefix keeps it apart from the page's own ids. @param {string} anchor */
export function sectionId(anchor) {
  return `section-${anchor}`;
}
