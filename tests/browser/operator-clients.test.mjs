// The page of clients: spending, limits and users, on a real relay with a clients file.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtemp, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { Bench, done, shows, until } from "./operator-page.mjs";

const TOKENS = Object.fromEntries(["kiosk", "phone"].map((name) => [name, `token-${name}-abcdefghijklmnopqrstuvwxyz`]));
let bench;
let folder;

before(async () => {
  bench = await Bench.create();
  folder = await mkdtemp(join(tmpdir(), "operator-clients-"));
});
after(async () => {
  await bench.close();
  await rm(folder, { recursive: true });
});

const hash = (name) => createHash("sha256").update(TOKENS[name]).digest("hex");
const table = (name, lines = "") => `[clients.${name}]\ntoken_sha256 = ["${hash(name)}"]\n${lines}\n`;

/** Replaces the clients file in one step; returns the settings of a relay that reads it. */
async function clientsFile(text) {
  const file = join(folder, "clients.toml");
  await writeFile(`${file}.new`, text);
  await rename(`${file}.new`, file);
  return { RELAY_CLIENTS_FILE: file };
}

test("client shows what it has spent, its limits, and that one is used up", async () => {
  await bench.relay(await clientsFile(table("kiosk", "max_sessions = 3\ntokens_per_day = 10\nusd_per_month = 50") + table("phone")));
  const page = await bench.open("#clients");
  await shows(page, ".totals", "2 clients. Spending is that of this instance, since its start.");
  await shows(page, "tbody tr", /kiosk\s*0\s*\$0, 0 tokens, 0 min.*max_sessions 3.*tokens_per_day 0 of 10 \(0 %\)/);
  await shows(page, "tbody tr", /phone\s*0\s*not counted\s*not counted\s*max_session_seconds 3,900\s*–/);
  await bench.stage.ask("open", { token: TOKENS.kiosk });
  await bench.stage.ask("speak");
  await shows(page, "tbody tr", /kiosk.*\$0\.\d+.*tokens_per_day \d+ of 10 \([\d.]+ %\) used up/);
  await until(page, () => document.querySelector('tr[data-nearly-used="yes"] a')?.textContent === "kiosk");
  await done(page);
});

test("users are listed with what they cost, and a hostile name stays text", async () => {
  await bench.relay();
  const amounts = { usd: 0.85, tokens: 8011, minutes: 4.5 };
  const limits = [{ name: "usd_per_day", used: 0.85, maximum: 1, used_ratio: 0.85 }];
  const user = { user: "<img src=x onerror=alert(1)>", sessions: 2, tokens: 10, cost_usd: 0.05, spent: null, limits };
  const client = {
    ...{ name: "kiosk", source: "file", enabled: false, policy: "shop", models: [], apis: [], sessions: 2, tokens: 10 },
    ...{ cost_usd: 0.05, spent: { day: amounts, month: amounts }, limits: [], users_total: 12, users: [user] },
  };
  const mock = { "/api/clients": { total: 1, matching: 1, limit: 50, store: { shared: true, up: false }, clients: [client] } };
  const page = await bench.open("#clients", { mock });
  await shows(page, "tbody tr", /kiosk disabledpolicy shop\s*2, \$0\.0500\s*\$0\.8500, 8,011 tokens, 4\.5 min/);
  await shows(page, "tbody tr", /<img src=x onerror=alert\(1\)>: 2 sessions, \$0\.0500usd_per_day 0\.85 of 1 \(85\.0 %\) nearly usedand 11 more/);
  await shows(page, ".problem", "The store does not answer");
  await shows(page, ".totals", "1 client. Spending is that of all instances.");
  assert.equal(await page.locator("tbody img").count(), 0);
  await done(page);
});

test("search finds clients, its deep link as well, and a name leads to its sessions", async () => {
  await bench.relay(await clientsFile(table("kiosk") + table("phone")));
  await bench.stage.ask("open", { token: TOKENS.phone });
  const page = await bench.open("#clients/PHO");
  await shows(page, ".totals", "1 of 2 clients match");
  await page.fill("input[type=search]", "k");
  await shows(page, "tbody tr", "kiosk");
  assert.equal(await page.evaluate(() => location.hash), "#clients/k");
  await page.fill("input[type=search]", "");
  await page.click("tbody >> text=phone");
  await shows(page, "h1", "Sessions");
  await shows(page, ".totals", "1 of 1 open sessions match.");
  await done(page);
});
