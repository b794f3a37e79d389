// Requests to the relay. The operator token is kept in this module only: a reload of the page forgets it.

/** A request that the relay refused or did not answer, in the relay's own words where it has answered. */
export class Problem extends Error {
  /**
   * @param {number} status the HTTP status; 0 without an answer
   * @param {string} code
   * @param {string} message
   * @param {string} remedy
   */
  constructor(status, code, message, remedy) {
    super(message);
    this.status = status;
    this.code = code;
    this.remedy = remedy;
  }

  /** Whether the operator token is missing or wrong. */
  get wantsToken() {
    return this.status === 401;
  }
}

/** @type {string | null} */
let token = null;

/** @param {string | null} value */
export function setToken(value) {
  token = value;
}

export function hasToken() {
  return token !== null;
}

/**
 * Reads a JSON document. Raises Problem.
 * @param {string} path
 * @param {number} [seconds] after which the request is given up
 * @returns {Promise<any>}
 */
export async function readJson(path, seconds = 10) {
  return json(await request("GET", path, seconds));
}

/**
 * Reads a text. Raises Problem.
 * @param {string} path
 * @returns {Promise<string>}
 */
export async function readText(path) {
  const response = await request("GET", path, 10);
  return response.text().catch(() => {
    throw noAnswer();
  });
}

/**
 * Changes something, and returns the document of the answer. Raises Problem.
 * @param {"POST" | "DELETE"} method
 * @param {string} path
 * @param {number} [seconds]
 * @returns {Promise<any>}
 */
export async function change(method, path, seconds = 10) {
  return json(await request(method, path, seconds));
}

/**
 * @param {string} method
 * @param {string} path
 * @param {number} seconds
 */
async function request(method, path, seconds) {
  /** @type {Record<string, string>} */
  const headers = method === "GET" ? {} : { "Relay-Operator": "1" };
  if (token !== null) headers["Authorization"] = `Bearer ${token}`;
  const signal = AbortSignal.timeout(seconds * 1000);
  let response;
  try {
    response = await fetch(path, { method, headers, signal, cache: "no-store", redirect: "error" });
  } catch {
    throw noAnswer();
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

/** @param {Response} response */
async function json(response) {
  try {
    return await response.json();
  } catch {
    throw noAnswer();
  }
}

/** @param {Response} response */
async function refusal(response) {
  const body = await response.json().catch(() => null);
  const error = body?.error ?? {};
  return new Problem(
    response.status,
    String(error.code ?? "unknown"),
    String(error.message ?? `The answer is HTTP ${response.status}, and not from a relay.`),
    String(error.remedy ?? "Check which server answers at this address."),
  );
}

function noAnswer() {
  return new Problem(0, "no_answer", "The relay does not answer.", "Check whether the relay runs and this address reaches it.");
}
