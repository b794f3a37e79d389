// The page "Overview": whether callers get through, and what is left of the limits.

import { Meter, outcomeChart, reasonBars } from "./chart.js";
import { el, setAttribute, setText } from "./shared/dom.js";
import { age, bytes, clock, count, duration, percent, plural } from "./format.js";
import { verdictOf, verdictWithout } from "./verdict.js";
import { emptyNote, pageHeading, place, reasonLink, remedyBlock, statusMark } from "./words.js";

/** @typedef {import("./types.js").Overview} Overview */
/** @typedef {import("./types.js").Connections} Connections */
/** @typedef {import("./types.js").Check} Check */

/** As the alert RelayLoopLag has it. */
const LAG_LIMIT_SECONDS = 0.1;
/** Failures that are read, and kinds of them that are shown. */
const LATEST = 40;
const LATEST_SHOWN = 8;

/**
 * @param {import("./types.js").Context} context
 * @param {ReadonlyMap<string, import("./types.js").Reason>} catalogue filled when it has been read
 * @returns {import("./types.js").View}
 */
export function overviewPage(context, catalogue) {
  const verdict = verdictPanel();
  const checks = panel("Health checks");
  const windows = [windowPanel("Last 5 minutes", catalogue), windowPanel("Last 60 minutes", catalogue)];
  const capacity = capacityPanel();
  const latest = panel("Latest failures");
  latest.head.append(el("a", { href: "#failures" }, "All failures"));
  let spoken = "";
  return {
    title: "Overview",
    element: el(
      "div",
      { class: "page overview" },
      verdict.element,
      el("div", { class: "grid" }, ...windows.map(({ element }) => element), checks.element, capacity.element, latest.element),
    ),
    show: () => undefined,
    list: () => `/api/failures/recent?limit=${LATEST}`,
    apply: (/** @type {import("./types.js").FailureList} */ { failures, time }) => latest.set(latestFailures(failures, time)),
    update(overview, problem) {
      const found = verdictOf(overview, catalogue);
      const sentence = found.answer + found.message;
      if (problem) verdict.set(verdictWithout(problem), `At ${clock(overview.time)}: ${sentence}`);
      else verdict.set(found, evidenceOf(overview));
      if (!problem && spoken && sentence !== spoken) context.announce(sentence);
      spoken = sentence;
      checks.set(checkList(overview));
      overview.connections.forEach((window, index) => windows[index]?.set(window));
      capacity.set(overview);
    },
  };
}

/**
 * A panel whose content is built anew when it has changed.
 * @param {string} name
 */
function panel(name) {
  const head = el("div", { class: "panel-head" }, el("h2", null, name));
  const body = el("div", { class: "panel-body" });
  return {
    head,
    element: el("section", { class: "panel" }, head, body),
    set: (/** @type {Element} */ content) => exchange(body, content),
  };
}

/** Replaces the content, unless it is the same: a focused link keeps its focus. @param {Element} body @param {Element} content */
function exchange(body, content) {
  const held = body.firstElementChild;
  if (held && held.isEqualNode(content)) return;
  const focused = document.activeElement;
  const address = focused instanceof HTMLAnchorElement && body.contains(focused) ? focused.getAttribute("href") : null;
  body.replaceChildren(content);
  if (address === null) return;
  for (const anchor of body.querySelectorAll("a")) if (anchor.getAttribute("href") === address) return anchor.focus();
}

function verdictPanel() {
  const mark = el("span", { class: "verdict-mark", "aria-hidden": "true" });
  const answer = pageHeading("Asking the relay …");
  const remedy = el("div", { class: "verdict-remedy" });
  const evidence = el("p", { class: "verdict-evidence" });
  const element = el("section", { class: "verdict", "data-level": "unknown" }, mark, el("div", null, answer, remedy, evidence));
  return {
    element,
    /** @param {import("./verdict.js").Verdict} verdict @param {string} words */
    set(verdict, words) {
      setAttribute(element, "data-level", verdict.level);
      setText(mark, { pass: "✓", warn: "!", fail: "✕", unknown: "?" }[verdict.level]);
      setText(answer, verdict.answer + verdict.message);
      setText(evidence, words);
      exchange(remedy, verdict.remedy ? remedyBlock(verdict.remedy, verdict.reason) : el("span", null));
    },
  };
}

/** @param {Overview} overview */
function evidenceOf({ connections, sessions, drain }) {
  const last = connections[0];
  const parts = [];
  if (drain.draining) parts.push(`The drain ends in ${age(drain.seconds_left ?? 0)}.`);
  if (last && last.succeeded + last.failed > 0) {
    parts.push(
      `${count(last.succeeded)} of ${plural(last.succeeded + last.failed, "connection")} succeeded in the last 5 minutes.`,
    );
  } else parts.push("No connection in the last 5 minutes counts.");
  parts.push(`${plural(sessions.open, "session")} open.`);
  return parts.join(" ");
}

/** @param {Overview} overview */
function checkList({ health, breaker_open: isBreakerOpen, drain }) {
  const rows = health.checks.map(checkRow);
  const notes = [
    health.ready
      ? stateRow("pass", "yes", "Ready", "/readyz answers 200.")
      : stateRow("warn", "no", "Ready", "/readyz answers 503 until key and handshake have passed."),
    isBreakerOpen
      ? stateRow("fail", "open", "Breaker", "The relay refuses at once what the provider has just refused.")
      : stateRow("pass", "closed", "Breaker", "The relay dials for every client."),
    drain.draining
      ? stateRow("warn", "yes", "Drain", `${age(drain.seconds_left ?? 0)} left for the open sessions.`)
      : stateRow("skipped", "no", "Drain", "The relay accepts new sessions."),
  ];
  return el(
    "div",
    null,
    el("ul", { class: "checks" }, ...rows, ...notes),
    ...health.notes.map((note) => el("p", { class: "note" }, note)),
  );
}

/** @param {Check} check */
function checkRow(check) {
  const { name, status, required, source, reason, message, checked_seconds_ago: checked, passed_seconds_ago: passed } = check;
  const how = source === "traffic" ? "seen in calls" : "checked";
  const times = [
    checked === null ? "not checked yet" : `${how} ${age(checked)} ago`,
    status === "pass" || passed === null ? null : `passed ${age(passed)} ago`,
    checked !== null && passed === null ? "never passed" : null,
    check.duration_seconds === null ? null : `took ${duration(check.duration_seconds)}`,
    required ? null : "not required",
  ];
  return el(
    "li",
    { class: "check" },
    statusMark(status),
    el("strong", { class: "check-name" }, name),
    el("span", { class: "check-times" }, times.filter(Boolean).join(" · ")),
    message && el("span", { class: "check-words" }, message, " ", reason && reasonLink(reason, `Runbook: ${reason}`)),
  );
}

/** @param {string} status @param {string} word @param {string} name @param {string} words */
function stateRow(status, word, name, words) {
  return el(
    "li",
    { class: "check" },
    statusMark(status, word),
    el("strong", { class: "check-name" }, name),
    el("span", { class: "check-times" }, words),
  );
}

/** @param {string} name @param {ReadonlyMap<string, import("./types.js").Reason>} catalogue */
function windowPanel(name, catalogue) {
  const { element, set } = panel(name);
  return {
    element,
    /** @param {Connections} window */
    set(window) {
      const counted = window.failures.filter((each) => each.counted);
      const others = window.failures.filter((each) => !each.counted);
      const words = (/** @type {string} */ reason) => catalogue.get(reason)?.message ?? "";
      set(
        el(
          "div",
          null,
          el(
            "div",
            { class: "figures" },
            figure(percent(window.success_ratio), "success"),
            figure(count(window.succeeded), "succeeded", "good"),
            figure(count(window.failed), "failed", "bad"),
          ),
          outcomeChart(window),
          el(
            "p",
            { class: "chart-ends", "aria-hidden": "true" },
            el("span", null, `${age(window.seconds)} ago`),
            el("span", null, `▲ succeeded, ▼ failed; peak: ${mostOf(window)} in ${age(window.point_seconds)}`),
            el("span", null, "now"),
          ),
          counted.length || others.length ? reasonBars([...counted, ...others], words) : emptyNote("No connection has failed."),
        ),
      );
    },
  };
}

/** The greatest number of connections in one column of the plot. @param {Connections} window */
function mostOf({ succeeded_points: succeeded, failed_points: failed }) {
  return count(Math.max(0, ...succeeded.map((number, index) => number + (failed[index] ?? 0))));
}

/** @param {string} value @param {string} name @param {string} [kind] the part of the plot that it represents */
function figure(value, name, kind) {
  const mark = kind && el("span", { class: `mark-${kind}`, "aria-hidden": "true" }, kind === "good" ? "▲ " : "▼ ");
  return el("p", { class: "figure" }, mark, el("strong", null, value), " ", el("span", null, name));
}

function capacityPanel() {
  const sessions = new Meter("Sessions");
  const dials = new Meter("Dials in progress");
  const memory = new Meter("Memory");
  const lag = new Meter("Event loop lag", "The relay lacks CPU.");
  const { element, set } = panel("Capacity");
  set(el("div", { class: "meters" }, sessions.element, dials.element, memory.element, lag.element));
  return {
    element,
    /** @param {Overview} overview */
    set(overview) {
      const { sessions: open, dials: dialled, memory: used, event_loop_lag: loop } = overview;
      const apis = Object.entries(open.by_api).map(([api, number]) => `${count(number)} ${api}`);
      sessions.set(open.open, open.limit, `${count(open.open)} of ${count(open.limit)}`, apis.join(", "));
      dials.set(dialled.active, dialled.limit, `${count(dialled.active)} of ${count(dialled.limit)}`, "");
      const limit = used.limit_bytes === null ? "No limit is known." : `Limit ${bytes(used.limit_bytes)}.`;
      memory.set(used.used_bytes, used.limit_bytes, bytes(used.used_bytes), limit);
      const { last_seconds: last, greatest_seconds: greatest } = loop;
      lag.set(
        greatest,
        LAG_LIMIT_SECONDS,
        duration(greatest),
        `Greatest of the last minute; now ${duration(last)}. An alert fires at 100 ms.`,
      );
    },
  };
}

/** @param {import("./types.js").Failure[]} failures @param {number} time */
function latestFailures(failures, time) {
  if (!failures.length) return emptyNote("No failure since the start.");
  /** @type {Map<string, {failure: import("./types.js").Failure, times: number}>} */
  const kinds = new Map();
  for (const failure of failures) {
    const key = JSON.stringify([failure.reason, failure.client]);
    const kind = kinds.get(key) ?? { failure, times: 0 };
    kinds.set(key, { ...kind, times: kind.times + 1 });
  }
  const rows = [...kinds.values()]
    .slice(0, LATEST_SHOWN)
    .map(({ failure, times }) =>
      el(
        "li",
        { class: "latest" },
        el("span", { class: "latest-time", title: `${age(time - failure.time)} ago` }, clock(failure.time)),
        el("a", { href: place("failures", failure.reason) }, el("code", null, failure.reason)),
        el("span", { class: "latest-client" }, failure.client),
        el("span", { class: "latest-words" }, failure.message, times > 1 && el("span", { class: "badge" }, `${times} times`)),
      ),
    );
  return el("ul", { class: "latests" }, ...rows);
}
