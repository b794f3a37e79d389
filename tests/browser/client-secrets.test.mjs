// Unmodified SDKs in a page that hold a client secret of the relay: openai-node's WebSocket class and @openai/agents-realtime.
// A front with TLS, as openai-node requires, serves the SDKs' own files, forwards to the relay, and is the server of the app.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync } from "node:fs";
import { createServer } from "node:https";
import { connect } from "node:net";
import { after, before, test } from "node:test";

import OpenAI from "openai";

import { BUILD, Bench, PATIENCE_MS } from "./talk.mjs";

const TOKEN = "web-token-of-the-apps-server";
const SESSION = { type: "realtime", model: "gpt-realtime", instructions: "You sell train tickets.", audio: { output: { voice: "cedar" } } };
const PAGE = "<!doctype html><title>app</title>";
const UNKNOWN = `ek_relay_${"A".repeat(43)}`;
const OF_THE_PROVIDER = "ek_68af296e8e408191a1120ab6383263c2";

/** @type {Bench} */
let bench;
/** @type {import("node:https").Server} */
let front;
let origin = "";
/** The server of the app. @type {OpenAI} */
let relay;

before(async () => {
  bench = await Bench.create({ args: ["--ignore-certificate-errors"] });
  await bench.relay({ RELAY_ACCESS: "tokens", RELAY_CLIENT_TOKENS: `web:${TOKEN}` });
  relay = new OpenAI({ apiKey: TOKEN, baseURL: `${bench.public}/v1` });
  front = createServer(certificate(), serve);
  front.on("upgrade", (request, socket, head) => {
    const upstream = connect(Number(new URL(bench.public).port), "127.0.0.1", () => {
      const lines = request.rawHeaders.flatMap((text, at, all) => (at % 2 ? [] : [`${text}: ${all[at + 1]}`]));
      upstream.write(`GET ${request.url} HTTP/1.1\r\n${lines.join("\r\n")}\r\n\r\n`);
      upstream.write(head);
      upstream.pipe(socket).pipe(upstream);
    });
    upstream.on("error", () => socket.destroy());
    socket.on("error", () => upstream.destroy());
  });
  await new Promise((resolve) => front.listen(0, "localhost", () => resolve(undefined)));
  const address = front.address();
  origin = `https://localhost:${typeof address === "object" ? address?.port : ""}`;
});
after(async () => {
  front?.close();
  front?.closeAllConnections();
  await bench?.close();
});

/** A certificate for localhost, which the browser is asked to accept. */
function certificate() {
  mkdirSync(BUILD, { recursive: true });
  const [key, cert] = [`${BUILD}/front.key`, `${BUILD}/front.pem`];
  const names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"];
  execFileSync("openssl", ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-keyout", key, "-out", cert, ...names], { stdio: "ignore" });
  return { key: readFileSync(key), cert: readFileSync(cert) };
}

/** The page, the files of the SDKs, and a client secret for the page. @type {import("node:http").RequestListener} */
async function serve({ url = "", method }, response) {
  if (method === "POST" && url === "/secret") {
    const { value } = await create();
    response.setHeader("content-type", "application/json").end(JSON.stringify({ value }));
  } else if (/^\/sdk\/(openai|@openai\/agents-realtime)\/[\w/.-]+\.m?js$/.test(url)) {
    const file = new URL(`node_modules/${url.slice("/sdk/".length)}`, import.meta.url);
    response.setHeader("content-type", "text/javascript").end(readFileSync(file));
  } else {
    response.setHeader("content-type", "text/html").end(PAGE);
  }
}

function create(seconds = 600) {
  return relay.realtime.clientSecrets.create({
    session: /** @type {any} */ (SESSION),
    expires_after: { anchor: "created_at", seconds },
  });
}

/** Connects from a page with openai-node, to the first event and the end. Without a secret the page asks its server. */
async function withOpenai(secret = "") {
  return inPage(secret, async (secret) => {
    const { default: OpenAI } = await import("/sdk/openai/index.mjs");
    const { OpenAIRealtimeWebSocket } = await import("/sdk/openai/realtime/websocket.mjs");
    const apiKey = secret || (await (await fetch("/secret", { method: "POST" })).json()).value;
    const client = new OpenAI({ apiKey, baseURL: `${location.origin}/v1?on_failure=event`, dangerouslyAllowBrowser: true });
    const connection = await OpenAIRealtimeWebSocket.create(client, { model: "gpt-realtime" });
    const closed = new Promise((resolve) => connection.socket.addEventListener("close", ({ code, reason }) => resolve({ code, reason })));
    const first = await new Promise((resolve) => {
      connection.on("session.created", resolve);
      connection.on("error", ({ error }) => resolve({ type: "error", error }));
    });
    let transcript = "";
    if (first.type === "session.created") {
      connection.send({ type: "conversation.item.create", item: { type: "message", role: "user", content: [{ type: "input_text", text: "Hello" }] } });
      connection.send({ type: "response.create" });
      transcript = (await new Promise((resolve) => connection.on("response.output_audio_transcript.done", resolve))).transcript;
      connection.close();
    }
    return { first, transcript, closed: await closed, protocol: connection.socket.protocol };
  });
}

/** The same with a session of @openai/agents-realtime, which sends a `session.update` of its own when it is open. */
async function withAgents(secret = "") {
  return inPage(secret, async (secret) => {
    const { RealtimeAgent, RealtimeSession } = await import("/sdk/@openai/agents-realtime/dist/bundle/openai-realtime-agents.mjs");
    const apiKey = secret || (await (await fetch("/secret", { method: "POST" })).json()).value;
    const session = new RealtimeSession(new RealtimeAgent({ name: "seller", instructions: "Sell ships." }), { transport: "websocket", model: "gpt-realtime" });
    /** @type {any[]} */
    const seen = [];
    const first = new Promise((resolve) => {
      session.on("transport_event", (event) => {
        seen.push(event);
        if (event.type === "session.created") resolve(event);
      });
      session.on("error", ({ error }) => resolve({ type: "error", error: error?.error ?? error }));
    });
    const url = `${location.origin.replace("https", "wss")}/v1/realtime?model=gpt-realtime&on_failure=event`;
    await session.connect({ apiKey, url });
    const event = await first;
    let transcript = "";
    if (event.type === "session.created") {
      const done = new Promise((resolve) => session.on("transport_event", (event) => event.type === "response.output_audio_transcript.done" && resolve(event)));
      session.sendMessage("Hello");
      transcript = (await done).transcript;
    }
    session.close();
    return { first: event, transcript };
  });
}

/** @param {string} secret @param {(secret: string) => Promise<any>} program */
async function inPage(secret, program) {
  const context = await bench.browser.newContext({ ignoreHTTPSErrors: true });
  try {
    const page = await context.newPage();
    page.setDefaultTimeout(PATIENCE_MS);
    await page.goto(origin);
    return await page.evaluate(program, secret);
  } finally {
    await context.close();
  }
}

for (const [name, run] of Object.entries({ "openai-node": withOpenai, "@openai/agents-realtime": withAgents })) {
  test(`${name} talks with a secret that its server created, once`, async () => {
    const { first, transcript, protocol } = await run();
    assert.equal(first.type, "session.created");
    assert.equal(first.session.instructions, SESSION.instructions);
    assert.equal(first.session.audio.output.voice, "cedar");
    assert.ok(transcript);
    if (protocol !== undefined) assert.equal(protocol, "realtime");

    const { value } = await create();
    assert.equal((await run(value)).first.type, "session.created");
    assert.deepEqual(shown(await run(value)), ["secret_used", "The client secret has been used: it opens one session."]);
  });

  test(`${name} shows why a secret is refused`, async () => {
    const { value, expires_at: end } = await create(10);
    for (const [secret, remedy] of [[UNKNOWN, "RELAY_STORE_URL"], [OF_THE_PROVIDER, "POST /v1/realtime/client_secrets"]]) {
      const refused = await run(secret);
      assert.equal(shown(refused)[0], "token_invalid");
      assert.match(refused.first.error.remedy, new RegExp(remedy));
    }
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, end * 1000 + 1100 - Date.now())));
    const expired = await run(value);
    assert.deepEqual(shown(expired), ["secret_expired", "The client secret has expired."]);
    if (expired.closed) assert.deepEqual(expired.closed, { code: 3000, reason: "secret_expired: The client secret has expired." });
  });
}

/** @param {{first: any}} refused */
function shown({ first }) {
  const error = first.error?.error ?? first.error;
  first.error = error;
  return [error.code, error.message];
}
