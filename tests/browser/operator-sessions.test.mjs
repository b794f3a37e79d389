// Sessions, the operator token, doctor, settings and catalogue, on a real relay.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Bench, done, shows, until } from "./operator-page.mjs";

const UNAUTHORIZED = /401 \(Unauthorized\)/;
const TOKEN = "operator-token-0123456789abcdef";
const CLIENTS = ["kiosk", "phone"].map((name) => `${name}:token-${name}-abcdefghijklmnopqrstuvwxyz`);
const TOKENS = { RELAY_ACCESS: "tokens", RELAY_CLIENT_TOKENS: CLIENTS.join(",") };
let bench;

before(async () => {
  bench = await Bench.create();
});
after(() => bench.close());

const connect = (name, options = {}) =>
  bench.stage.ask("open", { token: `token-${name}-abcdefghijklmnopqrstuvwxyz`, ...options });

test("session appears with its numbers, and is ended after a confirmation", async () => {
  await bench.relay(TOKENS);
  const page = await bench.open("#sessions");
  await shows(page, ".totals", "No session is open.");
  await connect("kiosk");
  await bench.stage.ask("speak");
  await shows(page, "tbody tr", /open\s*kiosk\s*–\s*127\.0\.0\.1\s*gpt-realtime\s*realtime/);
  await until(
    page,
    () =>
      /\$0\.\d+/.test(document.querySelector("td.cost")?.textContent ?? "") &&
      Number(document.querySelector("td.tokens").textContent) > 0,
  );
  await page.click("tbody button");
  await shows(page, "dialog", /End this session\?.*kiosk.*ended_by_operator/);
  await page.click("dialog >> text=Cancel");
  assert.equal(
    await page.evaluate(() => document.activeElement.getAttribute("aria-label")),
    "End the session of kiosk, 127.0.0.1",
  );
  assert.equal(page.requested.filter((each) => each.startsWith("DELETE")).length, 0);
  await page.click("tbody button");
  await page.click("dialog >> text=End session");
  assert.deepEqual(await bench.stage.ask("ends"), { reason: "ended_by_operator", close: 1001 });
  await shows(page, ".totals", "No session is open.");
  await until(page, () => document.querySelector("#announcer").textContent === "The session of kiosk ends.");
  await done(page);
});

test("session of GPT-Live, one that ends and one that is held back are shown as such", async () => {
  await bench.relay();
  const way = { messages: 12_345, bytes: 5_100_233, held_back: false, held_back_seconds: 0 };
  const session = {
    ...{
      id: "1",
      api: "realtime",
      client: "kiosk",
      address: "192.0.2.7",
      model: "gpt-realtime",
      age_seconds: 3725,
      last_event_seconds_ago: 0.4,
    },
    ...{ state: "open", ending_as: null, client_to_upstream: way, upstream_to_client: way, tokens: 1510, billed_seconds: 0 },
    ...{ cost_usd: 0.05321, cost_is_complete: true, renewals: 0, recoveries: 0 },
  };
  const sessions = [
    { ...session, id: "2", api: "live", model: null, billed_seconds: 61, cost_is_complete: false },
    { ...session, id: "3", state: "ending", ending_as: "max_duration" },
    { ...session, id: "4", upstream_to_client: { ...way, held_back: true, held_back_seconds: 1.25 } },
  ];
  const page = await bench.open("#sessions", { mock: { "/api/sessions": { total: 3, matching: 3, limit: 50, sessions } } });
  await shows(page, "tbody tr", /open.*live\s*1 h 2 min\s*12\.3k\s*12\.3k\s*1 min 1 s billed\s*≥ \$0\.0532/);
  await shows(page, "tbody tr", /ending: max_duration\s*kiosk/);
  await shows(page, "tbody tr", /held back\s*kiosk.*client 1\.\d s/);
  assert.deepEqual(await page.locator("tbody button").evaluateAll((all) => all.map(({ disabled }) => disabled)), [
    false,
    true,
    false,
  ]);
  await done(page);
});

test("escape leaves the session open", async () => {
  await bench.relay(TOKENS);
  await connect("kiosk");
  const page = await bench.open("#sessions");
  await page.click("tbody button");
  await page.keyboard.press("Escape");
  await until(page, () => !document.querySelector("dialog"));
  assert.equal(page.requested.filter((each) => each.startsWith("DELETE")).length, 0);
  await done(page);
});

test("search and its deep link list the sessions that match", async () => {
  await bench.relay(TOKENS);
  await connect("kiosk", { count: 3 });
  await connect("phone", { count: 2 });
  const page = await bench.open("#sessions/phone");
  await shows(page, ".totals", "2 of 5 open sessions match.");
  await page.fill("input[type=search]", "KIOSK");
  await shows(page, ".totals", "3 of 5 open sessions match.");
  assert.equal(await page.evaluate(() => location.hash), "#sessions/KIOSK");
  await page.fill("input[type=search]", "a/b?c&d=%");
  await shows(page, ".totals", "0 of 5 open sessions match.");
  await page.reload();
  assert.equal(await page.inputValue("input[type=search]"), "a/b?c&d=%");
  await done(page);
});

test("thousand sessions are listed as far as wanted, with totals", async () => {
  await bench.relay({ RELAY_MAX_SESSIONS: "1000", RELAY_MAX_RECONNECTS_PER_MINUTE: "0" });
  await bench.stage.ask("open", { count: 1000 });
  const page = await bench.open("#sessions");
  await shows(page, ".totals", "1,000 open; the newest 50 are shown.");
  await page.selectOption("select", "200");
  await shows(page, ".totals", "1,000 open; the newest 200 are shown.");
  await until(page, () => document.querySelectorAll("tbody tr").length === 200);
  await shows(page, "#sessions-count", "1,000");
  await done(page);
});

test("change wants the operator token, which is kept in memory only", async () => {
  await bench.relay({ ...TOKENS, RELAY_OPERATOR_TOKEN: TOKEN });
  await connect("kiosk");
  const page = await bench.open("#sessions", { expected: UNAUTHORIZED });
  await page.click("tbody button");
  await page.click("dialog >> text=End session");
  await shows(page, "dialog", /Operator token.*The request carries no operator token\./);
  await page.fill("#operator-token", "wrong");
  await page.click("dialog >> text=Use token");
  await shows(page, "main .problem", "The operator token is wrong.");
  await page.click("#token");
  await page.fill("#operator-token", TOKEN);
  await page.click("dialog >> text=Use token");
  await shows(page, "#token", "set");
  await page.click("tbody button");
  await page.click("dialog >> text=End session");
  assert.deepEqual(await bench.stage.ask("ends"), { reason: "ended_by_operator", close: 1001 });
  const kept = await page.evaluate(async () => [
    localStorage.length,
    sessionStorage.length,
    document.cookie,
    (await indexedDB.databases()).length,
  ]);
  assert.deepEqual(kept, [0, 0, "", 0]);
  assert.ok(!(await page.content()).includes(TOKEN));
  await page.reload();
  await shows(page, "#freshness", "live");
  assert.equal(await page.locator("#token-state").textContent(), "");
  await done(page);
});

test("reads want the token beyond loopback, and go on after it has changed", async () => {
  const settings = { ...TOKENS, RELAY_INTERNAL_HOST: "0.0.0.0", RELAY_OPERATOR_TOKEN: TOKEN };
  await bench.relay(settings);
  const expected = /401 \(Unauthorized\)|ERR_CONNECTION|ERR_EMPTY/;
  bench.internal = bench.internal.replace("0.0.0.0", "127.0.0.1");
  const page = await bench.open("", { expected, httpCredentials: { username: "operator", password: TOKEN } });
  await shows(page, ".verdict[data-level=pass]", "Callers get through");
  const other = `${TOKEN}-changed`;
  await bench.relay({ ...settings, RELAY_OPERATOR_TOKEN: other });
  await shows(page, "#notice", "The operator token is wrong.");
  await shows(
    page,
    ".verdict[data-level=unknown] h1",
    /^Whether callers get through is not known: The (operator token is wrong|request carries no operator token)\./,
  );
  await page.click("#notice >> text=Enter operator token");
  await page.fill("#operator-token", other);
  await page.click("dialog >> text=Use token");
  await shows(page, "#freshness[data-state=fresh]", "live");
  await shows(page, "#about", "restarted at");
  await done(page);
});

test("doctor runs at the press of a button, and shows its steps", async () => {
  await bench.relay();
  const page = await bench.open("#doctor", { expected: /ERR_CONNECTION|ERR_EMPTY/ });
  await page.click("text=Run the doctor");
  await shows(page, ".totals", /Every step passed\. Run at/);
  await shows(page, ".rung", /ok\s*first_event/);
  assert.ok((await page.locator(".rung").count()) > 8);
  await bench.relay({ OPENAI_API_KEY: "sk-sim-key-rejected-0123456789abcdef" });
  await page.click("text=Run the doctor");
  await shows(page, ".totals", "Failed at model.");
  await shows(page, ".rung[data-status=fail]", /The provider rejected the relay's key\..*Remedy.*Runbook: key_rejected/);
  await done(page);
});

test("page whose file did not arrive is shown once it does", async () => {
  await bench.relay();
  const page = await bench.open("", { expected: /ERR_FAILED/ });
  let asked = 0;
  await page.route("**/doctor.js", (route) => (++asked > 3 ? route.continue() : route.abort()));
  await page.goto("about:blank");
  await page.goto(`${bench.internal}/#doctor`);
  await shows(page, "main", "The relay did not answer with this page.");
  await page.locator("text=Run the doctor").waitFor();
  await shows(page, "#freshness[data-state=fresh]", "live");
  await done(page);
});

test("settings show sources, fingerprints and no secret, also after a restart with others", async () => {
  const key = "sk-sim-good-CANARY0key1234567890";
  await bench.relay({ ...TOKENS, OPENAI_API_KEY: key, RELAY_OPERATOR_TOKEN: TOKEN });
  const page = await bench.open("#settings", { expected: /ERR_CONNECTION|ERR_EMPTY/ });
  await shows(page, "tr", /OPENAI_API_KEY.*sha256:[0-9a-f]{8}.*environment/);
  await shows(page, "tr", /RELAY_CLIENT_TOKENS.*kiosk: .*sha256:/);
  const text = await page.content();
  for (const secret of [key, TOKEN, "token-kiosk"]) assert.ok(!text.includes(secret), secret);
  await page.fill("input[type=search]", "max_sessions");
  await until(page, () => [...document.querySelectorAll("tbody tr")].every((row) => /max_sessions/i.test(row.textContent)));
  await page.fill("input[type=search]", "");
  await page.check("input[type=checkbox]");
  await until(page, () => !document.querySelector("tbody").textContent.includes("RELAY_MODEL"));
  await bench.relay({ RELAY_MODEL: "gpt-realtime-2" });
  await shows(page, "tr", /RELAY_MODEL.*gpt-realtime-2.*default: gpt-realtime/);
  await done(page);
});

test("catalogue finds a reason, and shows its runbook with links that stay on the page", async () => {
  await bench.relay();
  const page = await bench.open("#catalogue");
  await shows(page, ".totals", /^\d+ of \d+ reasons\.$/);
  await page.fill("input[type=search]", "quota");
  await page.click(".catalogue-list >> text=quota_exhausted");
  await shows(page, ".catalogue-detail .remedy", /\S/);
  for (const name of ["Meaning", "Diagnosis", "Mitigation"]) await shows(page, ".runbook h3", name);
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "quota_exhausted");
  await page.click("text=the whole page");
  await shows(page, ".runbook.whole h4", "quota_exhausted");
  const targets = await page.locator(".runbook a").evaluateAll((links) => links.map((each) => each.getAttribute("href")));
  assert.ok(targets.length > 0 && targets.every((each) => /^(#(catalogue|runbook)\b|https?:)/.test(each)), String(targets));
  await page.goBack();
  await shows(page, ".catalogue-detail h2", "quota_exhausted");
  await done(page);
});

test("every runbook is rendered, and every link of it leads to something", async () => {
  await bench.relay();
  const page = await bench.open("#catalogue");
  await shows(page, ".totals", /reasons/);
  const { reasons } = await (await fetch(`${bench.internal}/api/catalogue`)).json();
  const names = new Set(reasons.map(({ runbook }) => runbook.name));
  const links = new Set();
  for (const name of [...names, "alerts", "README"]) {
    await page.evaluate((hash) => (location.hash = hash), `#runbook/${name}`);
    await page.locator(`.runbook.whole[aria-label="Runbook ${name}"]`).waitFor();
    for (const link of await page.locator(".runbook a").evaluateAll((nodes) => nodes.map((each) => each.getAttribute("href"))))
      links.add(link);
    const unread = page.locator(".runbook :is(p, li, td, th, h2, h3, h4)").filter({ hasText: /```|\]\(|\*\*|^#+ |^[|-] / });
    assert.deepEqual(await unread.allTextContents(), [], name);
  }
  const known = new Set(reasons.map(({ reason }) => `#catalogue/${reason}`));
  for (const link of [...links].filter((each) => each.startsWith("#runbook/"))) {
    await page.evaluate((hash) => (location.hash = hash), link);
    const [, name, anchor] = link.split("/");
    const id = anchor ? `[id="section-${anchor}"]` : "h2";
    await page.locator(`.runbook.whole[aria-label="Runbook ${name}"] ${id}`).first().waitFor();
  }
  for (const link of [...links].filter((each) => each.startsWith("#catalogue/"))) assert.ok(known.has(link), link);
  await done(page);
});
