// A runbook in a dialog: the page that the relay keeps for a reason, with the section on that reason in view.

import { CAUSES } from "./causes.js";
import { byId, el, setText } from "./elements.js";
import { parse, render, sectionId } from "./shared/markdown.js";

const PAGE = /^(?:\.\/)?([A-Za-z0-9-]+)\.md(?:#([A-Za-z0-9_-]+))?$/;
const WORD = /^[A-Za-z0-9_-]+$/;
const REASON = /_/;

/** Opens the runbook of a reason, or a page by its name. @param {string} name @param {string} anchor */
export async function openRunbook(name, anchor = name) {
  const dialog = /** @type {HTMLDialogElement} */ (byId("runbook"));
  const text = byId("runbook-text");
  if (!dialog.open) dialog.showModal();
  setText(byId("runbook-title"), `Runbook: ${anchor}`);
  text.replaceChildren(el("p", null, "Loading…"));
  text.replaceChildren(...(await read(name)));
  const section = document.getElementById(sectionId(anchor));
  section?.scrollIntoView({ block: "start" });
  (section ?? text).focus({ preventScroll: true });
}

/** @param {string} name @returns {Promise<HTMLElement[]>} */
async function read(name) {
  try {
    if (!WORD.test(name)) throw new Error("this is no name of a runbook");
    const page = await pageOf(name);
    return render(parse(await fetched(page)), 1, (address) => resolve(page, address));
  } catch (error) {
    return [el("p", null, `The runbook cannot be read here: ${error instanceof Error ? error.message : error}. It is in docs/runbooks of the relay's repository.`)];
  }
}

/** The page of a reason, from the index of the runbooks, which links each reason; a page's own name is its page. @param {string} name */
async function pageOf(name) {
  if (name in CAUSES) return "browser";
  if (!REASON.test(name)) return name;
  const found = new RegExp(`\\]\\(([a-z-]+)\\.md#${name}\\)`).exec(await fetched("README"));
  return found?.[1] ?? name;
}

/** @param {string} page */
async function fetched(page) {
  const response = await fetch(`runbooks/${page}`);
  if (!response.ok) throw new Error(`the relay answers ${response.status}`);
  return response.text();
}

/** A link of a runbook as one that this page opens; null for one that it does not. @param {string} name @param {string} address */
function resolve(name, address) {
  if (/^https?:\/\//.test(address)) return address;
  if (address.startsWith("#")) return `#runbook/${name}/${address.slice(1)}`;
  const found = PAGE.exec(address);
  return found ? `#runbook/${found[1]}${found[2] ? `/${found[2]}` : ""}` : null;
}

byId("runbook-close").addEventListener("click", () => /** @type {HTMLDialogElement} */ (byId("runbook")).close());
window.addEventListener("hashchange", () => {
  const [kind, name, anchor] = location.hash.slice(1).split("/");
  if (kind === "runbook" && name) void openRunbook(name, anchor ?? name);
});
