// The page "Sessions": who is connected, and the end of one session.

import { Problem } from "./api.js";
import { ask } from "./dialog.js";
import { arrange, el, setAttribute, setText } from "./shared/dom.js";
import { age, bytes, count, dollars, duration, shortCount } from "./format.js";
import { facts, pageHeading, place, searchField } from "./words.js";

/** @typedef {import("./types.js").Session} Session */

const LIMITS = [50, 100, 200];
/** The columns: name, class, and whether it is a number. @type {[string, string, boolean][]} */
const COLUMNS = [
  ["State", "state", false],
  ["Client", "client", false],
  ["User", "user", false],
  ["Address", "address", false],
  ["Model", "model", false],
  ["API", "api", false],
  ["Age", "age", true],
  ["Messages from client", "sent", true],
  ["Messages to client", "received", true],
  ["Tokens", "tokens", true],
  ["Cost", "cost", true],
  ["Held back", "held", true],
  ["Last event", "last", true],
];

/** @param {import("./types.js").Context} context @returns {import("./types.js").View} */
export function sessionsPage(context) {
  /** @type {Map<string, Row>} */
  const rows = new Map();
  let search = "";
  let limit = LIMITS[0] ?? 50;
  const heading = pageHeading("Sessions");
  const body = el("tbody", { role: "rowgroup" });
  const totals = el("p", { class: "totals", id: "session-totals" });
  const problem = el("p", { class: "problem", role: "alert", hidden: true });
  const changed = (/** @type {string} */ text) => {
    search = text.trim();
    history.replaceState(null, "", place("sessions", search));
    context.refresh();
  };
  const field = searchField("Search", "part of client, user, address, model, API or id", changed);
  const select = el(
    "select",
    { change: () => ((limit = Number(select.value)), context.refresh()) },
    ...LIMITS.map((each) => el("option", { value: each }, each)),
  );

  /** @param {Session} session */
  const end = async (session) => {
    problem.hidden = true;
    if (!(await confirmEnd(session))) return;
    try {
      await context.change("DELETE", `/api/sessions/${encodeURIComponent(session.id.toWellFormed())}`);
      context.announce(`The session of ${session.client} ends.`);
    } catch (raised) {
      if (!(raised instanceof Problem)) throw raised;
      setText(problem, `${raised.message} ${raised.remedy}`);
      problem.hidden = false;
    }
    context.refresh();
  };

  return {
    title: "Sessions",
    element: el(
      "div",
      { class: "page" },
      heading,
      el(
        "div",
        { class: "controls" },
        field.element,
        el("label", { class: "field" }, el("span", { class: "field-name" }, "Show"), select),
      ),
      totals,
      problem,
      el("div", { class: "table-frame" }, table(body)),
    ),
    show(parameter) {
      search = parameter;
      field.input.value = parameter;
    },
    list: () => `/api/sessions?limit=${limit}&search=${encodeURIComponent(search.toWellFormed())}`,
    apply(/** @type {import("./types.js").SessionList} */ document) {
      setText(totals, totalsOf(document, search));
      const focused = body.contains(globalThis.document.activeElement);
      const shown = document.sessions.map((session) => {
        const row = rows.get(session.id) ?? new Row(session, end);
        rows.set(session.id, row);
        row.set(session);
        return row;
      });
      arrange(
        body,
        shown.map(({ element }) => element),
      );
      const ids = new Set(document.sessions.map(({ id }) => id));
      for (const id of rows.keys()) if (!ids.has(id)) rows.delete(id);
      if (focused && !body.contains(globalThis.document.activeElement)) heading.focus();
    },
    update: () => undefined,
  };
}

/** @param {import("./types.js").SessionList} list @param {string} search */
function totalsOf({ total, matching, sessions }, search) {
  if (!total) return "No session is open.";
  const found = search ? `${count(matching)} of ${count(total)} open sessions match` : `${count(total)} open`;
  return sessions.length < matching ? `${found}; the newest ${count(sessions.length)} are shown.` : `${found}.`;
}

/** How often the upstream connection was replaced; null if it was not. @param {Session} session */
function replaced({ renewals, recoveries }) {
  return renewals + recoveries ? `${count(renewals)} before the limit, ${count(recoveries)} after a loss` : null;
}

/** @param {HTMLElement} body */
function table(body) {
  const heads = COLUMNS.map(([name, kind, isNumber]) =>
    el("th", { scope: "col", role: "columnheader", class: isNumber ? `${kind} number` : kind }, name),
  );
  const end = el("th", { scope: "col", role: "columnheader", class: "end" }, el("span", { class: "visually-hidden" }, "Action"));
  return el(
    "table",
    { class: "cards sessions", role: "table" },
    el("caption", { class: "visually-hidden" }, "Open sessions, the newest first"),
    el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...heads, end)),
    body,
  );
}

/** One session of the table; its cells change in place. */
class Row {
  /** @param {Session} session @param {(session: Session) => void} end */
  constructor(session, end) {
    this.session = session;
    this.cells = COLUMNS.map(([name, kind, isNumber]) =>
      el("td", {
        role: "cell",
        class: isNumber ? `${kind} number` : kind,
        "data-label": name.replace("Messages from", "From").replace("Messages to", "To"),
      }),
    );
    this.button = el("button", { type: "button", class: "danger small", click: () => end(this.session) }, "End");
    this.element = el(
      "tr",
      { role: "row", title: `session ${session.id}` },
      ...this.cells,
      el("td", { role: "cell", class: "end" }, this.button),
    );
    setAttribute(this.button, "aria-label", `End the session of ${session.client}, ${session.address}`);
  }

  /** @param {Session} session */
  set(session) {
    this.session = session;
    const { client_to_upstream: up, upstream_to_client: down } = session;
    const isHeldBack = up.held_back || down.held_back;
    const isEnding = session.state !== "open";
    const cost = `${session.cost_is_complete ? "" : "≥ "}${dollars(session.cost_usd)}`;
    const tokens = session.api === "live" ? `${age(session.billed_seconds)} billed` : count(session.tokens);
    const texts = [
      isEnding ? `ending: ${session.ending_as ?? ""}` : isHeldBack ? "held back" : session.state,
      session.client,
      session.user ?? "–",
      session.address,
      session.model ?? "–",
      session.api,
      age(session.age_seconds),
      shortCount(up.messages),
      shortCount(down.messages),
      tokens,
      cost,
      held(session),
      `${age(session.last_event_seconds_ago)} ago`,
    ];
    texts.forEach((text, index) => this.cells[index] && setText(this.cells[index], text));
    if (this.cells[7]) setAttribute(this.cells[7], "title", bytes(up.bytes));
    if (this.cells[8]) setAttribute(this.cells[8], "title", bytes(down.bytes));
    setAttribute(this.element, "data-state", isEnding ? "ending" : isHeldBack ? "held" : "open");
    this.button.disabled = isEnding;
  }
}

/** How long each side has been waited for. @param {Session} session */
function held({ client_to_upstream: up, upstream_to_client: down }) {
  const parts = [];
  if (up.held_back_seconds >= 0.001) parts.push(`provider ${duration(up.held_back_seconds)}`);
  if (down.held_back_seconds >= 0.001) parts.push(`client ${duration(down.held_back_seconds)}`);
  return parts.join(", ") || "–";
}

/** @param {Session} session */
async function confirmEnd(session) {
  const shown = facts([
    ["Session", el("code", null, session.id)],
    ["Client", session.client],
    ["User", session.user],
    ["Address", session.address],
    ["Model", session.model],
    ["Age", age(session.age_seconds)],
    ["Replaced connections", replaced(session)],
  ]);
  const words = el(
    "p",
    null,
    "The client receives an error event with the reason ",
    el("code", null, "ended_by_operator"),
    " and close code 1001.",
  );
  return ask("End this session?", [shown, words], { name: "End session", kind: "danger", result: () => true });
}
