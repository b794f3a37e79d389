// The operator's page on a real relay: verdict, failures, capacity, freshness, restarts.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Bench, done, shows, until } from "./operator-page.mjs";

const REFUSED = /ERR_CONNECTION_REFUSED|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE/;
let bench;

before(async () => {
  bench = await Bench.create();
});
after(() => bench.close());

test("verdict is yes where key and handshake pass, with ages", async () => {
  await bench.relay();
  await bench.stage.ask("open", { count: 3 });
  const page = await bench.open();
  await shows(page, ".verdict[data-level=pass] h1", /^Callers get through\.$/);
  await shows(page, ".check", /pass\s*key\s*checked \d+ m?s ago/);
  await shows(page, ".check", /pass\s*handshake\s*(checked|seen in calls) \d+ m?s ago/);
  await shows(page, ".figure", /100 % success/);
  await shows(page, ".meter", "3 of 1,000");
  await shows(page, "#freshness[data-state=fresh]", "live");
  assert.match(await page.locator(".chart").first().getAttribute("aria-label"), /last 5 minutes: 3 succeeded, 0 failed/);
  assert.equal(await page.title(), "Overview · realtime-relay");
  await done(page);
});

test("verdict is no where the key is rejected, in the catalogue's words", async () => {
  await bench.relay({ OPENAI_API_KEY: "sk-sim-key-rejected-0123456789abcdef" });
  await bench.stage.ask("open", { count: 4 });
  const page = await bench.open();
  const { reasons } = await (await fetch(`${bench.internal}/api/catalogue`)).json();
  const row = reasons.find(({ reason }) => reason === "key_rejected");
  await shows(page, ".verdict[data-level=fail] h1", `Callers do not get through: ${row.message}`);
  await shows(page, ".verdict .remedy", /Remedy\s+.*key/);
  await shows(page, ".verdict-evidence", "0 of 4 connections succeeded in the last 5 minutes.");
  await shows(page, ".check", /fail\s*key.*never passed/);
  await shows(page, ".reason", /key_rejected\s*4/);
  await shows(page, ".latest", row.message);
  await page.click(".verdict .remedy a >> text=Runbook");
  await shows(page, ".catalogue-detail h2", "key_rejected");
  await done(page);
});

test("verdict is some where one provider error is recent, and failures are listed with evidence and remedy", async () => {
  await bench.relay({ RELAY_ACCESS: "tokens", RELAY_CLIENT_TOKENS: "kiosk:token-abcdefghijklmnopqrstuvwxyz" });
  const token = "token-abcdefghijklmnopqrstuvwxyz";
  await bench.stage.ask("open", { count: 2, token });
  await bench.stage.ask("open", { token, path: "/v1/realtime?model=gpt-realtime&simulate=http-503" });
  await bench.stage.ask("open", { count: 2 });
  const page = await bench.open();
  await shows(page, ".verdict[data-level=warn] h1", "Some callers do not get through: The provider is overloaded.");
  await shows(page, ".reason.uncounted", /token_missing.*caused by the client\s*2/);
  await page.click("nav >> text=Failures");
  await shows(page, ".totals", "3 since the start");
  await page.click(".failure summary >> text=upstream_overloaded");
  await shows(page, ".failure details[open] .remedy", /Remedy\s+\S+/);
  const facts = await page.locator(".failure details[open] .facts").textContent();
  for (const part of ["Clientkiosk", "Phaseupgrade", "Provider's status503", "Caused byprovider"])
    assert.ok(facts.includes(part), facts);
  await page.click(".chips >> text=token_missing");
  await until(page, () => document.querySelectorAll(".failure").length === 2 && location.hash === "#failures/token_missing");
  await page.fill("input[type=search]", "no such text");
  await shows(page, ".failures", "No failure matches.");
  await done(page);
});

test("opened failure stays open, and keeps the focus, while others arrive", async () => {
  await bench.relay();
  await bench.stage.ask("open", { path: "/v1/realtime?model=gpt-realtime&simulate=http-403" });
  const page = await bench.open("#failures");
  await page.click(".failure summary");
  await page.locator(".failure summary").focus();
  await bench.stage.ask("open", { path: "/v1/realtime?model=gpt-realtime&simulate=redirect" });
  await until(page, () => document.querySelectorAll(".failure").length === 2);
  const [isOpen, isFocused] = await page.evaluate(() => {
    const last = document.querySelector(".failure:last-child details");
    return [last.open, last.contains(document.activeElement)];
  });
  assert.deepEqual([isOpen, isFocused], [true, true]);
  await done(page);
});

test("page asks for one overview and one list at a time, and not while it is hidden", async () => {
  await bench.relay();
  const page = await bench.open("#sessions");
  await shows(page, "#freshness", "live");
  page.requested.length = 0;
  await until(page, () => performance.getEntriesByName(`${location.origin}/api/overview`).length > 3);
  const asked = page.requested.filter((each) => each.startsWith("GET /api/"));
  const [overviews, lists] = ["GET /api/overview", "GET /api/sessions"].map(
    (path) => asked.filter((each) => each === path).length,
  );
  assert.ok(overviews >= 2 && Math.abs(overviews - lists) <= 1, String(asked));
  assert.equal(asked.length, overviews + lists);
  await page.evaluate(() => {
    Object.defineProperty(document, "hidden", { configurable: true, get: () => true });
    document.dispatchEvent(new Event("visibilitychange"));
  });
  await page.waitForLoadState("networkidle");
  page.requested.length = 0;
  // The bound is the statement: nothing is asked for over two of the page's intervals.
  await new Promise((resolve) => setTimeout(resolve, 4500));
  assert.deepEqual(page.requested, []);
  await page.evaluate(() => {
    Object.defineProperty(document, "hidden", { configurable: true, get: () => false });
    document.dispatchEvent(new Event("visibilitychange"));
  });
  await page.waitForRequest(/api\/overview/);
  await done(page);
});

test("page says how long it has no answer, and survives the restart of the relay", async () => {
  await bench.relay();
  const page = await bench.open("", { expected: REFUSED });
  await shows(page, "#freshness", "live");
  await bench.stage.ask("stop");
  await shows(page, "#freshness[data-state=stale]", /^\s*no answer for \d+ s$/);
  await shows(page, "#notice", /The relay does not answer\..*(Next attempt in \d+ s|Asking now)/);
  await until(page, () => document.querySelector("#announcer").textContent.startsWith("The relay does not answer."));
  await shows(page, ".verdict[data-level=unknown] h1", "Whether callers get through is not known: The relay does not answer.");
  await shows(page, ".verdict-evidence", /At [\d:]+: Callers get through\./);
  await bench.relay({ OPENAI_API_KEY: "sk-sim-quota-exhausted-0123456789abcdef" });
  await page.click("#notice >> text=Ask now").catch(() => undefined);
  await shows(page, ".verdict[data-level=fail]", "Callers do not get through");
  await shows(page, "#about", "restarted at");
  await until(page, () => !document.body.hasAttribute("data-stale") && !document.querySelector("#notice").childElementCount);
  await done(page);
});

test("stale page is marked where the relay hangs, and recovers", async () => {
  await bench.relay();
  const page = await bench.open("#sessions");
  await shows(page, "#freshness", "live");
  await bench.stage.ask("pause");
  await shows(page, "#freshness[data-state=stale]", /no answer for \d+ s/);
  await bench.stage.ask("resume");
  await shows(page, "#freshness[data-state=fresh]", "live");
  assert.doesNotMatch(await page.locator("#about").textContent(), /restarted/);
  await done(page);
});

test("verdict states that the relay shuts down, and how long", async () => {
  await bench.relay({ RELAY_DRAIN_SECONDS: "600" });
  await bench.stage.ask("open");
  const page = await bench.open();
  await shows(page, ".verdict[data-level=pass]", "Callers get through");
  await bench.stage.ask("drain");
  await shows(page, ".verdict[data-level=fail] h1", "Callers do not get through: This relay instance is shutting down.");
  await shows(page, ".verdict-evidence", /The drain ends in \d+ min/);
  await shows(page, ".check", /Drain.*left for the open sessions/);
  await until(page, () => document.querySelector("#announcer").textContent.includes("This relay instance is shutting down."));
  await done(page);
});

test("full relay is named as such", async () => {
  await bench.relay({ RELAY_MAX_SESSIONS: "2" });
  await bench.stage.ask("open", { count: 2 });
  const page = await bench.open();
  await shows(page, ".verdict[data-level=fail] h1", "The relay is at its session or dial limit.");
  await shows(page, ".meter[data-level=full]", /Sessions.*2 of 2.*Limit reached/);
  await done(page);
});
