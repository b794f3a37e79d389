// The WebSocket to the relay: the URL, the token as a subprotocol, and what its end means.

import { Problem } from "./causes.js";
import { ask, fromClose, fromProblem, fromRelay } from "./failure.js";

/** @typedef {import("./failure.js").Failure} Failure */
/** @typedef {import("./failure.js").Close} Close */
/** @typedef {import("./events.js").WireError} WireError */
/** @typedef {{onOpen: () => void, onEvent: (event: any) => void, onEnd: (failure: Failure | null) => void}} Hooks */

const TOKEN_PREFIX = "openai-insecure-api-key.";
const UPGRADE_SECONDS = 30;
const AGAIN_MS = 1_100; // beyond the second for which the relay counts its answers by event
const MAX_EVENTS_BEHIND = 1; // of the provider's last error and the close, as in the relay's log
const IN_ORDER = new Set([1000, 1005]);

/**
 * The URL of an API of the relay that serves this page. `on_failure=event`: refusals arrive as an event, which a page can read.
 * @param {string} path
 * @param {Record<string, string>} query
 * @param {string} more
 * @param {string} base
 */
export function address(path, query, more, base = document.baseURI) {
  const url = new URL(path, base);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  const all = [...Object.entries(query), ...new URLSearchParams(more.replace(/^[?&]/, "")), ["on_failure", "event"], ["draining_event", "true"]];
  for (const [name = "", value = ""] of all) url.searchParams.set(name, value);
  url.hash = "";
  return url;
}

export class Connection {
  /** @type {WebSocket | null} */ #socket = null;
  /** @type {WireError | null} */ #relayError = null;
  /** @type {WireError | null} */ #providerError = null;
  #eventsSinceError = 0;
  #isOpen = false;
  #isEnding = false;
  #isRepeated = false;
  #timer = 0;
  #url;
  #token;
  #hooks;

  /** @param {URL} url @param {string} token @param {Hooks} hooks */
  constructor(url, token, hooks) {
    this.#url = url;
    this.#token = token;
    this.#hooks = hooks;
  }

  /** Raises Problem where the browser permits no attempt. */
  open() {
    const protocols = ["realtime", ...(this.#token ? [TOKEN_PREFIX + this.#token] : [])];
    try {
      this.#socket = new WebSocket(this.#url, protocols);
    } catch (error) {
      const isContent = error instanceof DOMException && error.name === "SecurityError";
      // Not the message: Chromium's repeats the subprotocol, and with it the token.
      throw new Problem(isContent ? "mixed_content" : "token_characters", [["browser", error instanceof DOMException ? error.name : "error"]]);
    }
    this.#timer = window.setTimeout(() => this.#give_up(), UPGRADE_SECONDS * 1000);
    this.#socket.addEventListener("open", () => this.#opened());
    this.#socket.addEventListener("message", ({ data }) => this.#receive(data));
    this.#socket.addEventListener("close", ({ code, reason }) => void this.#closed({ code, reason }));
  }

  #opened() {
    window.clearTimeout(this.#timer);
    this.#isOpen = true;
    this.#hooks.onOpen();
  }

  #give_up() {
    const failure = fromProblem(new Problem("no_response", [["waited", `${UPGRADE_SECONDS} s for the upgrade`]]));
    this.end();
    this.#hooks.onEnd(failure);
  }

  /** @param {unknown} data */
  #receive(data) {
    const event = parse(data);
    if (event?.type === "error" && event.error?.type === "relay_error") this.#relayError = event.error;
    else if (event?.type === "error") [this.#providerError, this.#eventsSinceError] = [event.error ?? null, 0];
    else if ((this.#eventsSinceError += 1) > MAX_EVENTS_BEHIND) this.#providerError = null; // the session went on after it
    this.#hooks.onEvent(event ?? { type: "(no JSON)", size: String(data).length });
  }

  /** @param {Record<string, unknown>} event */
  send(event) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(event));
  }

  /** Closes in order; `onEnd` is not called. */
  end() {
    this.#isEnding = true;
    window.clearTimeout(this.#timer);
    this.#socket?.close(1000);
  }

  /** @param {Close} close */
  async #closed(close) {
    window.clearTimeout(this.#timer);
    if (this.#isEnding) return;
    const failure = await this.#explain(close);
    if (failure === "again") return this.#again();
    this.#isEnding = true;
    this.#hooks.onEnd(failure);
  }

  /** @param {Close} close @returns {Promise<Failure | "again" | null>} */
  async #explain(close) {
    if (this.#relayError) return fromRelay(this.#relayError, close);
    if (close.code !== 1006) {
      return IN_ORDER.has(close.code) && !this.#providerError ? null : fromClose(close, this.#providerError);
    }
    const found = await ask(this.#url, this.#token);
    const isServed = found.code === "not_a_websocket";
    if (this.#isOpen) return lost(close, isServed ? null : found);
    return isServed && !this.#isRepeated ? "again" : { ...found, evidence: [["close code", "1006"], ...found.evidence] };
  }

  /** The relay serves the URL. At a limit on its answers by event it refuses without one: a second attempt has an answer. */
  #again() {
    this.#isRepeated = true;
    window.setTimeout(() => !this.#isEnding && this.open(), AGAIN_MS);
  }
}

/** @param {Close} close @param {Failure | null} found @returns {Failure} */
function lost(close, found) {
  /** @type {import("./causes.js").Evidence[]} */
  const evidence = [["close code", String(close.code)]];
  if (!found) evidence.push(["relay", "answers again"]);
  else evidence.push(["asked again", found.message], ...found.evidence);
  return fromProblem(new Problem("connection_lost", evidence));
}

/** @param {unknown} data */
function parse(data) {
  try {
    const event = JSON.parse(String(data));
    return event && typeof event === "object" ? event : null;
  } catch {
    return null;
  }
}
