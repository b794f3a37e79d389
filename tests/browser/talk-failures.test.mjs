// Each failure that a browser can meet, and what the talk page says: cause, evidence, remedy, runbook.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { connect } from "node:net";
import { writeFileSync } from "node:fs";
import { after, before, test } from "node:test";

import { events, launch, stage } from "./browser.mjs";
import { BUILD, Bench, choose, failure, recording } from "./talk.mjs";

/** What the page said, for build/browser/failures.md. @type {string[]} */
const table = [];
/** @type {Bench} */
let bench;
/** @type {Record<string, {message: string, remedy: string}>} */
let catalogue = {};

before(async () => {
  bench = await Bench.create({ recording: recording() });
  await bench.relay();
  const { reasons } = await (await fetch(`${bench.internal}/api/catalogue`)).json();
  catalogue = Object.fromEntries(reasons.map((/** @type {any} */ row) => [row.reason, row]));
});
after(async () => {
  const head = "# What the talk page says\n\n| provoked by | reason | step | what failed | remedy | evidence |\n| --- | --- | --- | --- | --- | --- |\n";
  writeFileSync(`${BUILD}/failures.md`, `${head}${table.join("\n")}\n`);
  await bench?.close();
});

/** Calls, and returns what the page says when the call has failed. */
async function fail(provoked, options, { url, act } = {}) {
  const { page, context, problems } = await bench.open(url ? { url } : {});
  await choose(page, options);
  await page.click("#start");
  await act?.(page);
  const shown = await failure(page);
  const errors = [...(await events(page, "received", "error"))].filter(({ error }) => error.type === "relay_error");
  await context.close();
  assert.deepEqual(problems, []);
  table.push(`| ${[provoked, `\`${shown.code}\``, shown.failed.join(", ") || "in the call", shown.message, shown.remedy, Object.entries(shown.evidence).map((pair) => pair.join(": ")).join("; ")].map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`);
  return { ...shown, error: errors.at(-1)?.error };
}

/** Asserts that the page shows a reason of the catalogue, in its words. */
function assertCatalogue(shown, reason) {
  assert.equal(shown.code, reason);
  assert.equal(shown.message, catalogue[reason]?.message);
  assert.ok(shown.remedy, "a remedy");
  if (shown.error) assert.equal(shown.remedy, shown.error.remedy);
  assert.equal(shown.runbook, `#runbook/${reason}`);
}

const REALTIME = {
  "key-rejected": "key_rejected", "key-missing": "key_missing", "key-forbidden": "key_forbidden", "quota-exhausted": "quota_exhausted",
  "model-not-found": "model_not_found", "invalid-model": "model_not_found", "beta-shape": "beta_shape", "rate-limited-inband": "rate_limited",
  overloaded: "upstream_overloaded", "close-only": "key_rejected", drop: "dropped_early", reset: "dropped_early", hang: "first_event_timeout",
  "hang-before-101": "reply_timeout", redirect: "redirect_refused", "no-upgrade": "bad_reply", "wrong-accept": "bad_reply",
  "http-401": "key_rejected", "http-403-geo": "region_blocked", "http-429": "rate_limited", "http-429-quota": "quota_exhausted",
  "http-500": "upstream_error", "http-503": "upstream_overloaded", "http-504": "upstream_error", "http-520-html": "upstream_error",
};

for (const [scenario, reason] of Object.entries(REALTIME)) {
  test(`simulate=${scenario}: the page shows ${reason}`, async () => {
    await bench.relay({ RELAY_DIAL_TIMEOUT_SECONDS: "3" });
    const shown = await fail(`\`simulate=${scenario}\``, { query: `simulate=${scenario}`, microphone: false });
    assertCatalogue(shown, reason);
    assert.deepEqual(shown.failed, ["upgrade"]);
    assert.ok(shown.evidence["close code"]);
  });
}

const LIVE = {
  "key-rejected": "key_rejected", "quota-exhausted": "quota_exhausted", "invalid-model": "model_not_found", "key-forbidden": "key_forbidden",
};

for (const [scenario, reason] of Object.entries(LIVE)) {
  test(`GPT-Live, simulate=${scenario}: the page shows ${reason}`, async () => {
    await bench.relay();
    assertCatalogue(await fail(`GPT-Live, \`simulate=${scenario}\``, { api: "live", query: `simulate=${scenario}`, microphone: false }), reason);
  });
}

const IN_CALL = {
  "expire-soon": "session_expired", "drop-mid": "upstream_lost", "reset-mid": "upstream_lost", "going-away-mid": "upstream_closed",
  "internal-error-mid": "upstream_closed",
};

for (const [scenario, reason] of Object.entries(IN_CALL)) {
  test(`simulate=${scenario} during a call: the page shows ${reason}`, async () => {
    await bench.relay();
    const shown = await fail(`\`simulate=${scenario}\``, { query: `simulate=${scenario}` });
    if (shown.error) assertCatalogue(shown, reason);
    else if (scenario === "expire-soon") assert.ok(shown.code === "provider_ended" && shown.evidence["the provider reported"].startsWith(reason));
    else assert.ok(shown.message && shown.remedy && shown.evidence["close code"], JSON.stringify(shown));
  });
}

const ACCESS = { RELAY_ACCESS: "tokens", RELAY_CLIENT_TOKENS: "kiosk:token-1-abcdefghijklmnopqrstuvwxyz", RELAY_CONSOLE: "on" };

test("without a token, with a wrong one, and with one that cannot be sent, the page says so", async () => {
  await bench.relay(ACCESS);
  assertCatalogue(await fail("no token", { microphone: false }), "token_missing");
  assertCatalogue(await fail("a wrong token", { token: "wrong-abcdefghijklmnopqrstuvwxyz", microphone: false }), "token_invalid");
  assert.equal((await fail("a token with a space", { token: "a b", microphone: false })).code, "token_characters");
});

test("refused without an event, the page asks once more, and 1006 is not the last word", async () => {
  await bench.relay(ACCESS);
  // The relay answers at most 64 refusals per second by event; a page that meets the limit gets an HTTP status, which it cannot read.
  const proxy = await serve((request, socket, head, attempt) => {
    if (attempt === 0) return socket.end("HTTP/1.1 429 Too Many Requests\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    forward(request, socket, head, bench.public);
  });
  assertCatalogue(await fail("a refusal by HTTP status, then by event", { token: "wrong-abcdefghijklmnopqrstuvwxyz", microphone: false }, { url: proxy.url }), "token_invalid");
  proxy.close();
});

test("a page of another origin, a model, a query and limits are refused in the catalogue's words", async () => {
  await bench.relay({ RELAY_ALLOWED_ORIGINS: "https://app.example.com", RELAY_CONSOLE: "on" });
  const shown = await fail("`RELAY_ALLOWED_ORIGINS` without the page's", { microphone: false });
  assertCatalogue(shown, "origin_refused");
  assert.match(shown.remedy, new RegExp(`Add ${bench.public} to RELAY_ALLOWED_ORIGINS`));
  await bench.relay({ RELAY_ALLOWED_MODELS: "gpt-realtime-mini", RELAY_LIVE: "off", RELAY_MAX_SESSIONS: "1" });
  assertCatalogue(await fail("a model that is not allowed", { query: "model=gpt-realtime", microphone: false }), "model_refused");
  assertCatalogue(await fail("a query of 2 kB", { query: `x=${"x".repeat(2100)}`, microphone: false }), "bad_request");
  await bench.stage.ask("open", { model: "gpt-realtime-mini" });
  assertCatalogue(await fail("`RELAY_MAX_SESSIONS=1`", { query: "model=gpt-realtime-mini", microphone: false }), "relay_full");
});

test("the page needs no microphone to explain that it gets none", async () => {
  await bench.relay();
  for (const [microphone, code] of [["refused", "microphone_denied"], ["missing", "microphone_missing"]]) {
    const browser = await launch({ microphone });
    const kept = bench.browser;
    bench.browser = browser;
    try {
      const shown = await fail(`the microphone is ${microphone}`, {});
      assert.deepEqual([shown.code, shown.failed], [code, ["microphone"]]);
      assert.ok(shown.remedy && shown.evidence.browser);
      const { page } = await bench.open();
      await page.click("#start");
      await page.getByRole("button", { name: "Call without the microphone" }).click();
      await stage(page, "session ready");
      await page.click("#sample");
      await stage(page, "first audio");
    } finally {
      bench.browser = kept;
      await browser.close();
    }
  }
});

test("a page without encryption on another host explains that browsers offer no audio", async () => {
  await bench.relay({ RELAY_ALLOWED_HOSTS: "relay.test" });
  const browser = await launch({ recording: recording(), args: ["--host-resolver-rules=MAP relay.test 127.0.0.1"] });
  const kept = bench.browser;
  bench.browser = browser;
  try {
    const { port } = new URL(bench.public);
    assert.equal((await fail("http on another host", {}, { url: `http://relay.test:${port}` })).code, "insecure_context");
  } finally {
    bench.browser = kept;
    await browser.close();
  }
});

test("a relay that stops ends the call with its reason, and a new call succeeds when it is back", async () => {
  await bench.relay();
  const { page, context } = await bench.open();
  await choose(page, { microphone: false });
  await page.click("#start");
  await stage(page, "session ready");
  await bench.stage.ask("stop");
  const lost = await failure(page);
  assert.equal(lost.code, "connection_lost");
  assert.equal(lost.evidence["asked again"], "The relay does not answer.");
  await page.getByRole("button", { name: "Try again" }).click();
  await page.waitForSelector("[data-code=relay_unreachable]");
  assert.deepEqual((await failure(page)).failed, ["connecting"]);
  await bench.relay();
  await page.getByRole("button", { name: "Try again" }).click();
  await stage(page, "session ready");
  assert.equal(await page.locator("#failure *").count(), 0);
  await context.close();
});

test("a drain is announced, and ends the call with relay_draining", async () => {
  await bench.relay({ RELAY_DRAIN_SECONDS: "2" });
  const act = async (/** @type {any} */ page) => {
    await stage(page, "session ready");
    await bench.stage.ask("drain");
    await page.locator("#transcript .note", { hasText: "this call ends in" }).waitFor();
  };
  assertCatalogue(await fail("a relay that stops in order", { microphone: false }, { act }), "relay_draining");
});

test("an operator's end is shown as such", async () => {
  await bench.relay();
  const act = async (/** @type {any} */ page) => {
    await stage(page, "session ready");
    const { sessions } = await (await fetch(`${bench.internal}/api/sessions`)).json();
    const answer = await fetch(`${bench.internal}/api/sessions/${sessions[0].id}`, { method: "DELETE", headers: { "Relay-Operator": "1" } });
    assert.equal(answer.status, 202);
  };
  assertCatalogue(await fail("*End* on the operator's page", { microphone: false }, { act }), "ended_by_operator");
});

test("a proxy in front of the relay is named: one that drops Upgrade, and one that answers itself", async () => {
  await bench.relay();
  const dropping = await serve((request, socket, head) => {
    delete request.headers.upgrade;
    request.headers.connection = "close";
    forward(request, socket, head, bench.public);
  });
  assertCatalogue(await fail("a proxy that drops `Upgrade`", { microphone: false }, { url: dropping.url }), "not_a_websocket");
  dropping.close();
  const refusing = await serve((_, socket) => socket.end("HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"), (path) => path.startsWith("/v1/"));
  const shown = await fail("a proxy that answers 502", { microphone: false }, { url: refusing.url });
  assert.deepEqual([shown.code, shown.evidence["HTTP status"], shown.evidence.server], ["proxy_answered", "502 Bad Gateway", "test proxy"]);
  refusing.close();
});

/** A reverse proxy; `upgrade` handles WebSockets, and `refuses` selects plain requests that it answers with 502. */
async function serve(upgrade, refuses = () => false) {
  let attempts = 0;
  const server = createServer(async (request, response) => {
    if (refuses(request.url ?? "")) return response.writeHead(502, { Server: "test proxy" }).end();
    const answer = await fetch(new URL(request.url ?? "/", bench.public), { headers: { accept: "*/*", ...(request.headers.authorization ? { authorization: request.headers.authorization } : {}) } });
    const headers = ["content-type", "content-security-policy", "upgrade"].flatMap((name) => (answer.headers.has(name) && name !== "upgrade" ? [[name, answer.headers.get(name)]] : []));
    response.writeHead(answer.status, Object.fromEntries(headers)).end(Buffer.from(await answer.arrayBuffer()));
  });
  server.on("upgrade", (request, socket, head) => upgrade(request, socket, head, attempts++));
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
  return { url: `http://127.0.0.1:${port}`, close: () => server.close() };
}

/** Forwards an upgrade request, as it is then, to the relay. */
function forward(request, socket, head, target) {
  const { hostname, port } = new URL(target);
  const upstream = connect(Number(port), hostname, () => {
    const lines = Object.entries(request.headers).map(([name, value]) => `${name}: ${value}`);
    upstream.write(`${request.method} ${request.url} HTTP/1.1\r\n${lines.join("\r\n")}\r\n\r\n`);
    upstream.write(head);
    socket.pipe(upstream).pipe(socket);
  });
  for (const side of [socket, upstream]) side.on("error", () => undefined);
}
