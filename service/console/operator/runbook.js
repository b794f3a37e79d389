// Runbooks: the pages, what they say about one reason, and their links as places on this page.

import { readText } from "./api.js";
import { parse } from "./shared/markdown.js";

/** @typedef {import("./shared/markdown.js").Block} Block */

const RELATIVE = /^(?:\.\/)?([A-Za-z0-9-]+)\.md(?:#([A-Za-z0-9_-]+))?$/;
const FAILURES = /^\.\.\/failures\.md(?:#([A-Za-z0-9_-]+))?$/;

/** @type {Map<string, Block[]>} */
const pages = new Map();

/** Forgets the pages that were read: another version of the relay may have others. */
export function forgetRunbooks() {
  pages.clear();
}

/**
 * Raises Problem.
 * @param {string} name
 * @returns {Promise<Block[]>}
 */
export async function readRunbook(name) {
  const known = pages.get(name);
  if (known) return known;
  const blocks = parse(await readText(`/api/runbooks/${encodeURIComponent(name.toWellFormed())}`));
  pages.set(name, blocks);
  return blocks;
}

/**
 * What a page states about one reason: its section under Meaning, and the items about it under the other headings. Pure.
 * @param {Block[]} blocks
 * @param {string} reason
 * @returns {Block[]}
 */
export function excerpt(blocks, reason) {
  /** @type {Block[]} */
  const found = [];
  /** @type {Block | null} */
  let chapter = null;
  let isWithin = false;
  const keep = (/** @type {Block} */ block) => {
    if (chapter) found.push(chapter);
    chapter = null;
    found.push(block);
  };
  for (const block of blocks) {
    if (block.kind === "heading") {
      if (block.level <= 2) chapter = block;
      isWithin = block.level > 2 && block.text === reason;
    } else if (isWithin) keep(block);
    else if (block.kind === "list") {
      const items = block.items.filter((item) => isAbout(item, reason));
      if (items.length) keep({ ...block, items });
    }
  }
  return found;
}

/** Whether an item begins with the reason, or with several of which it is one. @param {string} item @param {string} reason */
function isAbout(item, reason) {
  return (item.split(":", 1)[0] ?? "").includes(`\`${reason}\``);
}

/**
 * The place of a link of the runbook `page`; null for an address that this page does not open. Pure.
 * @param {string} page
 * @param {ReadonlySet<string>} reasons
 * @returns {(address: string) => string | null}
 */
export function resolver(page, reasons) {
  return (address) => {
    if (/^https?:\/\//.test(address)) return address;
    if (/^#[A-Za-z0-9_-]+$/.test(address)) return `#runbook/${page}/${address.slice(1)}`;
    const failures = FAILURES.exec(address);
    if (failures) return failures[1] && reasons.has(failures[1]) ? `#catalogue/${failures[1]}` : "#catalogue";
    const relative = RELATIVE.exec(address);
    if (!relative) return null;
    const [, name, anchor] = relative;
    if (anchor && reasons.has(anchor)) return `#catalogue/${anchor}`;
    return anchor ? `#runbook/${name}/${anchor}` : `#runbook/${name}`;
  };
}
