// The page "Clients": who may connect, what each has spent, and how much of its limits is used.

import { arrange, el, setAttribute, setText } from "./shared/dom.js";
import { count, dollars, percent, plural } from "./format.js";
import { pageHeading, place, searchField } from "./words.js";

/** @typedef {import("./types.js").Amounts} Amounts */
/** @typedef {import("./types.js").Client} Client */
/** @typedef {import("./types.js").ClientList} ClientList */
/** @typedef {import("./types.js").Limit} Limit */

const SHOWN = 200;
const NEARLY_USED = 0.8;
const COLUMNS = ["Client", "Open sessions", "This day (UTC)", "This month (UTC)", "Limits", "Users"];

/** @param {import("./types.js").Context} context @returns {import("./types.js").View} */
export function clientsPage(context) {
  /** @type {Map<string, Row>} */
  const rows = new Map();
  let search = "";
  const body = el("tbody", { role: "rowgroup" });
  const totals = el("p", { class: "totals", id: "client-totals" });
  const store = el("p", { class: "problem", hidden: true });
  const field = searchField("Search", "part of name or policy", (text) => {
    search = text.trim();
    history.replaceState(null, "", place("clients", search));
    context.refresh();
  });
  return {
    title: "Clients",
    element: el(
      "div",
      { class: "page" },
      pageHeading("Clients"),
      el("div", { class: "controls" }, field.element),
      totals,
      store,
      el("div", { class: "table-frame" }, table(body)),
    ),
    show(parameter) {
      search = parameter;
      field.input.value = parameter;
    },
    list: () => `/api/clients?limit=${SHOWN}&search=${encodeURIComponent(search.toWellFormed())}`,
    apply(/** @type {ClientList} */ document) {
      setText(totals, totalsOf(document, search));
      store.hidden = document.store.up;
      setText(store, document.store.up ? "" : "The store does not answer: spending of other instances is what this one last read.");
      const shown = document.clients.map((client) => {
        const row = rows.get(client.name) ?? new Row(client.name);
        rows.set(client.name, row);
        row.set(client);
        return row.element;
      });
      arrange(body, shown);
      const names = new Set(document.clients.map(({ name }) => name));
      for (const name of rows.keys()) if (!names.has(name)) rows.delete(name);
    },
    update: () => undefined,
  };
}

/** @param {ClientList} list @param {string} search */
function totalsOf({ total, matching, clients, store }, search) {
  const found = search ? `${count(matching)} of ${plural(total, "client")} match` : plural(total, "client");
  const cut = clients.length < matching ? `; the first ${count(clients.length)} are shown` : "";
  return `${found}${cut}. Spending is that of ${store.shared ? "all instances" : "this instance, since its start"}.`;
}

/** @param {HTMLElement} body */
function table(body) {
  const heads = COLUMNS.map((name) => el("th", { scope: "col", role: "columnheader" }, name));
  return el(
    "table",
    { class: "cards clients", role: "table" },
    el("caption", { class: "visually-hidden" }, "Clients with their spending and limits"),
    el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...heads)),
    body,
  );
}

/** One client of the table; its cells change in place. */
class Row {
  /** @param {string} name */
  constructor(name) {
    /** What the lists of the row were last made from. @type {string} */
    this.drawn = "";
    this.state = el("span", { class: "badge", hidden: true });
    this.policy = el("span", { class: "setting-words" });
    const head = el("th", { scope: "row", role: "rowheader" }, el("a", { href: place("sessions", name) }, name), " ", this.state, this.policy);
    this.cells = COLUMNS.slice(1).map((label) => el("td", { role: "cell", "data-label": label }));
    this.element = el("tr", { role: "row" }, head, ...this.cells);
  }

  /** @param {Client} client */
  set(client) {
    this.state.hidden = client.enabled;
    setText(this.state, client.enabled ? "" : "disabled");
    setText(this.policy, client.policy === null ? "" : `policy ${client.policy}`);
    const [sessions, day, month, limits, users] = this.cells;
    if (!sessions || !day || !month || !limits || !users) return;
    setText(sessions, client.sessions ? `${count(client.sessions)}, ${dollars(client.cost_usd)}` : "0");
    setText(day, amounts(client.spent?.day));
    setText(month, amounts(client.spent?.month));
    setAttribute(this.element, "data-nearly-used", isNearlyUsed(client) ? "yes" : null);
    const drawn = JSON.stringify([client.limits, client.users, client.users_total]);
    if (drawn === this.drawn) return;
    this.drawn = drawn;
    limits.replaceChildren(...listOf(client.limits.map(limitLine)));
    users.replaceChildren(...listOf(usersOf(client)));
  }
}

/** @param {Client} client */
function isNearlyUsed({ limits, users }) {
  return [...limits, ...users.flatMap((user) => user.limits)].some(({ used_ratio: ratio }) => (ratio ?? 0) >= NEARLY_USED);
}

/** @param {Amounts | undefined} spent */
function amounts(spent) {
  if (!spent) return "not counted";
  return `${dollars(spent.usd)}, ${count(spent.tokens)} tokens, ${count(Math.round(spent.minutes * 10) / 10)} min`;
}

/** @param {HTMLElement[]} items */
function listOf(items) {
  return items.length ? [el("ul", { class: "plain" }, ...items)] : ["–"];
}

/** @param {Limit} limit */
function limitLine({ name, used, maximum, used_ratio: ratio }) {
  if (used === null || ratio === null) return el("li", null, el("code", null, name), ` ${count(maximum)}`);
  const isNear = ratio >= NEARLY_USED;
  return el(
    "li",
    { "data-near": isNear ? "yes" : null },
    el("code", null, name),
    ` ${count(Math.round(used * 10_000) / 10_000)} of ${count(maximum)} (${percent(ratio)})`,
    isNear && el("strong", null, ratio >= 1 ? " used up" : " nearly used"),
  );
}

/** @param {Client} client */
function usersOf({ users, users_total: total }) {
  const lines = users.map(({ user, sessions, cost_usd: cost, limits }) =>
    el(
      "li",
      null,
      user,
      `: ${plural(sessions, "session")}, ${dollars(cost)}`,
      ...limits.filter(({ used }) => used !== null).map((limit) => el("ul", { class: "plain" }, limitLine(limit))),
    ),
  );
  return total > users.length ? [...lines, el("li", null, `and ${count(total - users.length)} more`)] : lines;
}
