// Failures as the page shows them: made from what the relay, the provider or the browser reported. Pure, except `ask`.

import { CAUSES, Problem } from "./causes.js";

/** @typedef {import("./causes.js").Evidence} Evidence */
/** @typedef {import("./events.js").WireError} WireError */
/** @typedef {{code: string, message: string, remedy: string, retry: string, evidence: Evidence[]}} Failure */
/** @typedef {{code: number, reason: string}} Close */

const RETRIES = Object.freeze({
  never: "The same attempt fails again until something is changed.",
  now: "The same attempt can succeed at once, unless what the remedy names is the cause.",
  later: "The same attempt can succeed later.",
});
/** Ends of calls that were established: another call gets through. */
const ENDED = new Set(["ended_by_operator"]);
const SNIPPET = 200;
const ASK_SECONDS = 10;
const REASON = /^([a-z][a-z_]+)(?::|$)/;

/** What `retry` means. @param {string} retry */
export function retryText(retry) {
  return RETRIES[/** @type {keyof typeof RETRIES} */ (retry)] ?? "";
}

/** @param {Problem} problem @param {Evidence[]} evidence @returns {Failure} */
export function fromProblem(problem, evidence = []) {
  const cause = CAUSES[problem.code] ?? { message: problem.message, remedy: "", retry: "now" };
  return { code: problem.code, ...cause, evidence: [...problem.evidence, ...evidence] };
}

/** A failure of the relay's catalogue, in its words. @param {WireError} error @param {Close | null} close @param {Evidence[]} more @returns {Failure} */
export function fromRelay(error, close, more = []) {
  /** @type {Evidence[]} */
  const evidence = [...more];
  if (close) evidence.push(["close code", closeText(close)]);
  if (error.upstream_status) evidence.push(["provider's status", String(error.upstream_status)]);
  if (error.upstream_code) evidence.push(["provider's code", error.upstream_code]);
  if (error.session_id) evidence.push(["session in the relay's log", error.session_id]);
  return { code: error.code ?? "relay_error", message: error.message ?? "The relay reports an error.", remedy: error.remedy ?? "", retry: ENDED.has(error.code ?? "") ? "" : (error.retry ?? ""), evidence };
}

/** The end of a call without an error event of the relay. @param {Close} close @param {WireError | null} provider @returns {Failure} */
export function fromClose(close, provider) {
  const reason = REASON.exec(close.reason)?.[1];
  const failure = fromProblem(new Problem(provider ? "provider_ended" : "closed_without_reason"), [["close code", closeText(close)], ...providerEvidence(provider)]);
  return reason && close.reason.includes(":") ? { ...failure, code: reason, message: close.reason } : failure;
}

/** @param {WireError | null} error @returns {Evidence[]} */
export function providerEvidence(error) {
  return error ? [["the provider reported", [error.code, error.message].filter(Boolean).join(": ")]] : [];
}

/** @param {Close} close */
function closeText({ code, reason }) {
  return reason ? `${code} (${reason})` : String(code);
}

/**
 * Asks by a plain GET why a WebSocket was refused: a browser shows a page neither status nor body of a refused upgrade.
 * @param {URL} url of the WebSocket
 * @param {string} token
 * @returns {Promise<Failure>} `not_a_websocket` means that the relay is there, and serves the URL
 */
export async function ask(url, token) {
  const address = new URL(url);
  address.protocol = url.protocol === "wss:" ? "https:" : "http:";
  try {
    /** @type {Record<string, string>} */
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    const response = await fetch(address, { headers, cache: "no-store", redirect: "manual", signal: AbortSignal.timeout(ASK_SECONDS * 1000) });
    return await fromResponse(response);
  } catch (error) {
    return fromProblem(new Problem("relay_unreachable", [["address", address.origin], ["browser", String(error)]]));
  }
}

/** @param {Response} response @returns {Promise<Failure>} */
async function fromResponse(response) {
  const text = await response.text();
  const error = relayError(text);
  /** @type {Evidence[]} */
  const evidence = [["HTTP status", `${response.status} ${response.statusText}`.trim()]];
  const wait = response.headers.get("Retry-After");
  if (wait) evidence.push(["retry after", `${wait} s`]);
  if (error) return fromRelay(error, null, evidence);
  const server = response.headers.get("Server");
  if (server) evidence.push(["server", server]);
  if (response.type === "opaqueredirect") evidence[0] = ["HTTP status", "a redirect"];
  if (text.trim()) evidence.push(["body", text.trim().slice(0, SNIPPET)]);
  return fromProblem(new Problem("proxy_answered", evidence));
}

/** The relay's error object, if a body is one. @param {string} text @returns {WireError | null} */
function relayError(text) {
  try {
    const { error } = JSON.parse(text);
    return error?.type === "relay_error" ? error : null;
  } catch {
    return null;
  }
}
