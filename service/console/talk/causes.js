// What only the browser sees, in the form of the relay's catalogue: what failed, the remedy, whether a retry can help.
// The section of the same name in docs/runbooks/browser.md explains each.

/** @typedef {"never" | "now" | "later"} Retry */
/** @typedef {{message: string, remedy: string, retry: Retry}} Cause */
/** @typedef {[name: string, value: string]} Evidence */

/** @type {Readonly<Record<string, Cause>>} */
export const CAUSES = Object.freeze({
  microphone_denied: {
    message: "The browser denies this page the microphone.",
    remedy: "Allow the microphone for this page: open the permissions beside the address, then try again. If the browser does not ask, check the privacy settings of the operating system.",
    retry: "never",
  },
  microphone_missing: {
    message: "The browser finds no microphone.",
    remedy: "Connect a microphone, or select one in the sound settings of the operating system, then try again. To test without one, call without the microphone and play the sample sentence.",
    retry: "never",
  },
  microphone_busy: {
    message: "The microphone cannot be opened.",
    remedy: "Close other programs that use the microphone, connect it again, then try again.",
    retry: "now",
  },
  microphone_lost: {
    message: "The microphone was disconnected during the call.",
    remedy: "Connect the microphone again and start a new call. The text box works without one.",
    retry: "now",
  },
  microphone_silent: {
    message: "The microphone delivers only silence.",
    remedy: "Check the mute key of the microphone and the input device in the sound settings of the operating system.",
    retry: "now",
  },
  insecure_context: {
    message: "The browser offers neither microphone nor audio to a page without encryption.",
    remedy: "Open this page over https, or on the relay's own machine as http://127.0.0.1 or http://localhost.",
    retry: "never",
  },
  audio_worklet_missing: {
    message: "This browser has no AudioWorklet.",
    remedy: "Use a current version of Chrome, Edge, Firefox or Safari, and open the page over https or on 127.0.0.1.",
    retry: "never",
  },
  audio_blocked: {
    message: "The browser does not start audio.",
    remedy: "Allow sound for this page in the permissions beside the address, and start the call by a click.",
    retry: "now",
  },
  token_characters: {
    message: "The token contains characters that a browser cannot send.",
    remedy: "Enter one of the relay's client tokens without spaces or quotation marks. A browser sends the token as a subprotocol, which permits letters, digits and !#$%&'*+-.^_`|~ only.",
    retry: "never",
  },
  mixed_content: {
    message: "The browser does not permit an unencrypted connection from a page over https.",
    remedy: "Let the proxy in front of the relay serve the WebSocket over https, on the same address as this page.",
    retry: "never",
  },
  relay_unreachable: {
    message: "The relay does not answer.",
    remedy: "Check that the relay runs and that this machine reaches its address, then try again. A relay that is being updated is back within a minute.",
    retry: "now",
  },
  connection_lost: {
    message: "The connection to the relay was lost.",
    remedy: "Check the network of this machine and start a new call. If calls end after the same time each, raise the timeout of the proxy in front of the relay.",
    retry: "now",
  },
  proxy_answered: {
    message: "A server in front of the relay answers in its place.",
    remedy: "Check the proxy or load balancer in front of the relay by the status below: it must forward WebSocket upgrades of this path to a relay that is ready.",
    retry: "later",
  },
  no_response: {
    message: "The relay accepts the connection, but nothing follows.",
    remedy: "Try again. If it stays, look for a proxy that holds back messages of WebSockets, and run 'python -m service doctor' where the relay runs.",
    retry: "now",
  },
  provider_ended: {
    message: "The provider ended the session.",
    remedy: "Start a new call. The provider's own words are below; a session that reached its maximum duration needs nothing else.",
    retry: "now",
  },
  closed_without_reason: {
    message: "The connection was closed without an explanation.",
    remedy: "Start a new call. If it stays, look for the close code below in the runbook's index, and in the relay's log.",
    retry: "now",
  },
});

/** Causes whose remedy only the operator of the relay, or of a proxy in front of it, can carry out. @type {ReadonlySet<string>} */
export const FOR_OPERATOR = new Set(["mixed_content", "proxy_answered", "closed_without_reason"]);

/** A failure that the page itself has found. */
export class Problem extends Error {
  /** @param {string} code a key of CAUSES @param {Evidence[]} evidence */
  constructor(code, evidence = []) {
    super(CAUSES[code]?.message ?? code);
    this.code = code;
    this.evidence = evidence;
  }
}

/** Why the microphone cannot be opened. @param {unknown} error of getUserMedia @returns {Problem} */
export function microphoneProblem(error) {
  const { name, message } = error instanceof Error ? error : { name: typeof error, message: String(error) };
  /** @type {Record<string, string>} */
  const codes = { NotAllowedError: "microphone_denied", SecurityError: "microphone_denied", NotFoundError: "microphone_missing", OverconstrainedError: "microphone_missing" };
  return new Problem(codes[name] ?? "microphone_busy", [["browser", `${name}: ${message}`]]);
}
