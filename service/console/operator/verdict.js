// Whether callers get through, in one sentence. Pure; the reasons' words are those of the catalogue.

/** @typedef {import("./types.js").Overview} Overview */
/** @typedef {import("./types.js").Reason} Reason */
/** @typedef {import("./types.js").Connections} Connections */
/** @typedef {{level: "pass" | "warn" | "fail" | "unknown", answer: string, message: string, remedy: string, reason: string | null}} Verdict */

/** Seconds after which failures that have stopped are no longer the answer. */
export const RECENT_SECONDS = 60;
/** As in docs/monitoring.md: 99.5 % of the connections succeed. */
export const OBJECTIVE = 0.995;

const YES = "Callers get through";
const SOME = "Some callers do not get through";
const NO = "Callers do not get through";
const OPEN = "Whether callers get through is not known yet";
const UNKNOWN = "Whether callers get through is not known";

/**
 * @param {Overview} overview
 * @param {ReadonlyMap<string, Reason>} catalogue may be empty, as long as it has not been read
 * @returns {Verdict}
 */
export function verdictOf(overview, catalogue) {
  return (
    ofRelay(overview, catalogue) ??
    ofFailedChecks(overview, catalogue) ??
    ofConnections(overview, catalogue) ??
    ofWarnings(overview) ?? { level: "pass", answer: `${YES}.`, message: "", remedy: "", reason: null }
  );
}

/**
 * Without an answer of the relay.
 * @param {import("./api.js").Problem} problem
 * @returns {Verdict}
 */
export function verdictWithout(problem) {
  return { level: "unknown", answer: `${UNKNOWN}: `, message: problem.message, remedy: problem.remedy, reason: null };
}

/** @param {Overview} overview @param {ReadonlyMap<string, Reason>} catalogue @returns {Verdict | null} */
function ofRelay(overview, catalogue) {
  const { sessions, dials, drain } = overview;
  if (drain.draining) return from("fail", NO, "relay_draining", catalogue);
  const isFull = sessions.open >= sessions.limit || dials.active >= dials.limit;
  return isFull ? from("fail", NO, "relay_full", catalogue) : null;
}

/** @param {Overview} overview @param {ReadonlyMap<string, Reason>} catalogue @returns {Verdict | null} */
function ofFailedChecks({ health, connections }, catalogue) {
  const required = health.checks.filter((check) => check.required);
  const failed = required.find((check) => check.status === "fail");
  if (failed) {
    const verdict = from("fail", NO, failed.reason, catalogue);
    return { ...verdict, message: failed.message ?? verdict.message, remedy: failed.remedy ?? verdict.remedy };
  }
  if (!required.some((check) => check.status === "unknown")) return null;
  const worst = connections[0] && worstOf(connections[0]);
  if (worst && isFailing(connections[0])) return from("fail", NO, worst, catalogue);
  return {
    level: "unknown",
    answer: `${OPEN}.`,
    message: "The first health checks have not finished.",
    remedy: "",
    reason: null,
  };
}

/** @param {Overview} overview @param {ReadonlyMap<string, Reason>} catalogue @returns {Verdict | null} */
function ofConnections({ connections }, catalogue) {
  const last = connections[0];
  const reason = last && worstOf(last);
  if (!last || !reason || !isFailing(last)) return null;
  const none = last.succeeded === 0 && last.failed > 2;
  return from(none ? "fail" : "warn", none ? NO : SOME, reason, catalogue);
}

/** @param {Overview} overview @returns {Verdict | null} */
function ofWarnings({ health }) {
  if (health.stale) {
    const message = "The health checks have not run for longer than any pause.";
    return { level: "warn", answer: `${OPEN}.`, message, remedy: "Search the log for task.crashed.", reason: null };
  }
  const check = health.checks.find(({ status }) => status === "warn" || status === "fail");
  if (!check) return null;
  const { name, message, remedy, reason } = check;
  return { level: "warn", answer: `${YES}, but the check ${name} warns: `, message: message ?? "", remedy: remedy ?? "", reason };
}

/** Whether connections have failed in the last minute, and too many in the window. @param {Connections | undefined} window */
function isFailing(window) {
  if (!window || window.success_ratio === null || window.success_ratio >= OBJECTIVE) return false;
  const points = Math.ceil(RECENT_SECONDS / window.point_seconds);
  return window.failed_points.slice(-points).some((failed) => failed > 0);
}

/** The most frequent reason that counts. @param {Connections} window */
function worstOf(window) {
  return window.failures.find(({ counted }) => counted)?.reason ?? null;
}

/**
 * @param {Verdict["level"]} level
 * @param {string} answer
 * @param {string | null} reason
 * @param {ReadonlyMap<string, Reason>} catalogue
 * @returns {Verdict}
 */
function from(level, answer, reason, catalogue) {
  const row = reason === null ? undefined : catalogue.get(reason);
  return { level, answer: `${answer}: `, message: row?.message ?? reason ?? "", remedy: row?.operator_action ?? "", reason };
}
