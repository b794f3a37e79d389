// Starts the page: which part is shown, what is asked for every two seconds, and what the top of the page says.

import { Problem, change, hasToken, readJson, setToken } from "./api.js";
import { askToken } from "./dialog.js";
import { el, setAttribute, setText } from "./shared/dom.js";
import { count } from "./format.js";
import { overviewPage } from "./overview.js";
import { Poll } from "./poll.js";
import { Top } from "./top.js";

/** @typedef {import("./types.js").Overview} Overview */
/** @typedef {import("./types.js").Reason} Reason */
/** @typedef {import("./types.js").View} View */

/** The uptime is rounded to a tenth of a second, and two clocks differ by up to 0.1 per cent. */
const ROUNDING_SECONDS = 0.2;
const DRIFT = 0.001;

const main = byId("main");
/** @type {Map<string, Reason>} */
const known = new Map();
/** @type {Map<string, Reason> | null} */
let catalogue = null;
/** @type {Overview | null} */
let last = null;
/** When the last overview arrived, by performance.now(). */
let lastAt = 0;
/** @type {View | null} */
let view = null;
let turns = 0;
/** Whether the file of the page that was asked for did not arrive. */
let isUnloaded = false;

const context = {
  restarts: 0,
  announce: (/** @type {string} */ text) => setText(byId("announcer"), text),
  refresh: () => poll.now(),
  catalogue: readCatalogue,
  change: changeAsOperator,
};

const PAGES = ["overview", "sessions", "clients", "failures", "doctor", "settings", "catalogue"];
/** Pages that are loaded when they are first shown, or once the first is up: it paints sooner without them. @type {Record<string, () => Promise<View>>} */
const loaders = {
  sessions: async () => (await import("./sessions.js")).sessionsPage(context),
  clients: async () => (await import("./clients.js")).clientsPage(context),
  failures: async () => (await import("./failures.js")).failuresPage(),
  doctor: async () => (await import("./doctor.js")).doctorPage(context),
  settings: async () => (await import("./settings.js")).settingsPage(context),
  catalogue: async () => (await import("./catalogue.js")).cataloguePage(context),
};
/** @type {Map<string, Promise<View>>} */
const views = new Map([["overview", Promise.resolve(overviewPage(context, known))]]);

const poll = new Poll(read, (raised) => {
  if (raised !== null && !(raised instanceof Problem)) throw raised;
  head.problem = raised;
  head.draw();
});
const head = new Top(
  poll,
  context.announce,
  () => void requestToken(null),
  (problem) => last && view?.update(last, problem),
);

async function read() {
  const shown = view;
  const path = shown?.list() ?? null;
  const asked = performance.now();
  const [overview, list] = await Promise.all([readJson("/api/overview"), path === null ? null : readJson(path)]);
  follow(overview, asked);
  await readCatalogue();
  showCounts(overview);
  head.answered(overview);
  if (isUnloaded) return void route();
  if (shown !== view) return poll.now();
  view?.update(overview, null);
  if (path !== null && path === view?.list()) view.apply(list);
  for (const name of PAGES) void viewOf(name).catch(() => undefined);
}

/**
 * Notices that another process answers: its uptime is less than what the last one would have by now.
 * @param {Overview} overview
 * @param {number} asked when it was asked for
 */
function follow(overview, asked) {
  const least = last === null ? 0 : last.uptime_seconds + ((asked - lastAt) / 1000) * (1 - DRIFT);
  if (overview.uptime_seconds < least - ROUNDING_SECONDS) {
    context.restarts += 1;
    catalogue = null;
    head.restarted(overview.time - overview.uptime_seconds);
  }
  last = overview;
  lastAt = performance.now();
}

/**
 * The view of a page; raises if its file cannot be loaded.
 * @param {string} name
 */
function viewOf(name) {
  const present = views.get(name);
  if (present) return present;
  const loaded = loaders[name]?.() ?? Promise.reject(new Error(`There is no page ${name}.`));
  views.set(name, loaded);
  loaded.catch(() => views.delete(name));
  return loaded;
}

async function readCatalogue() {
  if (catalogue) return catalogue;
  const { reasons } = /** @type {{reasons: Reason[]}} */ (await readJson("/api/catalogue"));
  catalogue = new Map(reasons.map((row) => [row.reason, row]));
  known.clear();
  for (const [name, row] of catalogue) known.set(name, row);
  return catalogue;
}

/**
 * Asks for the operator token, if no dialog is open. True once there is another one.
 * @param {Problem | null} problem
 */
async function requestToken(problem) {
  if (document.querySelector("dialog")) return false;
  const forget = () => {
    setToken(null);
    showToken();
    poll.now();
  };
  const entered = await askToken(problem ?? head.problem, hasToken(), forget);
  if (entered === null) return false;
  setToken(entered);
  showToken();
  poll.now();
  return true;
}

/** @type {import("./types.js").Context["change"]} */
async function changeAsOperator(method, path, seconds) {
  try {
    return await change(method, path, seconds);
  } catch (raised) {
    if (!(raised instanceof Problem && raised.wantsToken && (await requestToken(raised)))) throw raised;
    return change(method, path, seconds);
  }
}

function showToken() {
  setText(byId("token-state"), hasToken() ? ": set" : "");
}

/** @param {Overview} overview */
function showCounts(overview) {
  setText(byId("sessions-count"), count(overview.sessions.open));
  setText(byId("failures-count"), count(overview.failures_total));
}

async function route() {
  const turn = ++turns;
  const [name = "", ...rest] = location.hash.slice(1).split("/");
  const page = name === "runbook" || PAGES.includes(name) ? name : "overview";
  const tab = page === "runbook" ? "catalogue" : page;
  for (const anchor of document.querySelectorAll("nav a")) {
    setAttribute(anchor, "aria-current", anchor.getAttribute("href") === `#${tab}` ? "page" : null);
  }
  const next = await viewOf(tab).catch(() => null);
  if (turn !== turns) return;
  isUnloaded = next === null;
  if (next === null) return showUnloaded();
  const isOther = next !== view;
  view = next;
  if (isOther) main.replaceChildren(next.element);
  document.title = `${next.title} · realtime-relay`;
  if (last) next.update(last, head.lack);
  if (isOther && turn > 1) {
    window.scrollTo(0, 0);
    main.querySelector("h1")?.focus({ preventScroll: true });
  }
  next.show(rest.map(decoded).join("/"), page);
  poll.now();
}

function showUnloaded() {
  if (!poll.isRunning && poll.nextAt === null) poll.now(); // otherwise the page would ask for nothing, and stay as it is
  view = null;
  const reload = el("button", { type: "button", class: "primary", click: () => location.reload() }, "Reload");
  main.replaceChildren(el("p", { class: "problem", role: "alert" }, "The relay did not answer with this page. "), reload);
}

/** @param {string} text */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** @param {string} id */
function byId(id) {
  const node = document.getElementById(id);
  if (!node) throw new Error(`The page has no element ${id}.`);
  return node;
}

window.addEventListener("hashchange", () => void route());
document.querySelector(".skip")?.addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
void route();
