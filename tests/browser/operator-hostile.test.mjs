// Every string from outside is text, never markup; links lead to HTTP or to a place on the page only.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Bench, done, shows, until } from "./operator-page.mjs";

const ROUNDS = 8;
const PIECES = [
  "<img src=x onerror=alert(1)>",
  "<script>hit()</script>",
  "<svg/onload=hit()>",
  "&lt;b&gt;",
  "</td></table>",
  "javascript:hit()",
  '"><a href=javascript:hit()>',
  "'",
  '"',
  "`",
  "**",
  "[x](javascript:hit())",
  "[x](data:text/html,<b>)",
  "{{constructor}}",
  "${hit()}",
  "\u202e",
  "\u0000",
  "\ud800",
  "é",
  "𝒳",
  "__proto__",
  " ",
  "\n",
  "|",
  "#",
  "-",
  "---",
  "```",
  "<!--",
  "-->",
  "%00",
  "a".repeat(300),
  "[a](https://example.com/?q=<b>)",
  "https://example.com/<b>",
  "[b](../../etc/passwd)",
  "[c](//example.com)",
  "[d](vbscript:x)",
  "[e](#section-x)",
  "[f](key.md#key_rejected)",
];
let bench;

before(async () => {
  bench = await Bench.create();
  await bench.relay();
});
after(() => bench.close());

/** A repeatable sequence of numbers below 1. */
function numbers(seed) {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

function hostile(next) {
  return Array.from({ length: 1 + Math.floor(next() * 6) }, () => PIECES[Math.floor(next() * PIECES.length)]).join("");
}

/** A document of the relay in which every text is hostile, but for those of which the page knows all values. */
function poisoned(value, next, name = "") {
  if (Array.isArray(value)) return value.map((item) => poisoned(item, next, name));
  if (value !== null && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, poisoned(item, next, key)]));
  }
  return typeof value === "string" && !["service", "version"].includes(name) ? hostile(next) : value;
}

/** What a page consists of that only markup from outside could have added. */
function foreign() {
  const allowed = new Set(
    (
      "A ABBR ARTICLE BODY BUTTON CAPTION CODE DD DETAILS DIALOG DIV DL DT FOOTER FORM H1 H2 H3 H4 H5 H6 HEAD HEADER HTML INPUT LABEL LI LINK MAIN META NAV NOSCRIPT " +
      "OL OPTION P PRE SCRIPT SECTION SELECT SPAN STRONG SUMMARY TABLE TBODY TD TH THEAD TITLE TR UL svg g line rect title"
    ).split(" "),
  );
  const found = [];
  if (document.scripts.length !== 1) found.push("a script");
  for (const node of document.querySelectorAll("*")) {
    if (!allowed.has(node.tagName)) found.push(node.tagName);
    for (const { name, value } of node.attributes) {
      if (/^on|^srcdoc$|^formaction$|^style$/.test(name) && !(name === "style" && /^--share: [\d.]+;$/.test(value)))
        found.push(`${node.tagName} ${name}`);
      if (name === "href" && node.tagName === "A" && !/^(https?:\/\/|#)/.test(value)) found.push(`link ${value}`);
      if (name === "src" && value !== "main.js") found.push(`src ${value}`);
    }
  }
  return found;
}

const SESSION = {
  id: "x",
  api: "realtime",
  client: "x",
  address: "x",
  model: "x",
  age_seconds: 1,
  last_event_seconds_ago: 1,
  state: "open",
  ending_as: "x",
  client_to_upstream: { messages: 1, bytes: 1, held_back: false, held_back_seconds: 0 },
  upstream_to_client: { messages: 1, bytes: 1, held_back: true, held_back_seconds: 1 },
  tokens: 1,
  billed_seconds: 0,
  cost_usd: 0.1,
  cost_is_complete: false,
  renewals: 1,
  recoveries: 0,
};
const FAILURE = {
  time: 1795751366,
  kind: "refused",
  reason: "x",
  message: "x",
  remedy: "x",
  blame: "x",
  retry: "x",
  runbook: { name: "x", anchor: "x" },
  phase: "x",
  upstream_status: 500,
  upstream_code: "x",
  detail: "x",
  evidence: { x: "x", y: "x" },
  session_id: "x",
  client: "x",
  address: "x",
  model: "x",
};
const RUNG = { name: "x", status: "x", seconds: 1, finding: "x", notes: ["x", "x"], reason: "x", remedy: "x", anchor: "x" };

test("hostile strings are text in every place of the page", async () => {
  const real = Object.fromEntries(
    await Promise.all(
      ["/api/overview", "/api/catalogue", "/api/settings"].map(async (path) => [
        path,
        await (await fetch(bench.internal + path)).json(),
      ]),
    ),
  );
  for (let round = 1; round <= ROUNDS; round += 1) {
    const next = numbers(round);
    const overview = poisoned(real["/api/overview"], next);
    overview.health.checks[0].reason = hostile(next);
    overview.connections[0].failures = [
      { reason: hostile(next), count: 3, counted: true },
      { reason: "constructor", count: 1, counted: false },
    ];
    const sessions = Array.from({ length: 5 }, () => poisoned(SESSION, next));
    sessions[0].state = "open";
    const failures = Array.from({ length: 5 }, () => poisoned(FAILURE, next));
    const catalogue = poisoned(real["/api/catalogue"], next);
    catalogue.reasons[0].reason = catalogue.reasons[0].reason.toWellFormed();
    const mock = {
      "/api/overview": overview,
      "/api/sessions": { total: 5, matching: 5, limit: 50, sessions },
      "/api/failures/recent": { time: 1795751370, total: 5, limit: 200, failures },
      "/api/catalogue": catalogue,
      "/api/settings": poisoned(real["/api/settings"], next),
      "/api/doctor": {
        version: "x",
        ok: false,
        target: { url: hostile(next) },
        rungs: [poisoned(RUNG, next), poisoned(RUNG, next)],
      },
    };
    const page = await bench.open("", { mock });
    await page.route("**/api/runbooks/**", (route) =>
      route.fulfill({
        body: Array.from({ length: 40 }, () => hostile(next)).join(next() < 0.5 ? "\n" : "\n\n"),
        contentType: "text/markdown",
      }),
    );
    await shows(page, "#freshness", "live");
    const hashes = [
      "overview",
      "sessions",
      "failures",
      "doctor",
      "settings",
      "catalogue",
      `catalogue/${encodeURIComponent(catalogue.reasons[0].reason)}`,
      "runbook/key",
      `sessions/${encodeURIComponent(hostile(next).toWellFormed())}`,
      `failures/${hostile(next).toWellFormed()}`,
    ];
    for (const hash of hashes) {
      await page.evaluate((each) => (location.hash = each), hash);
      const answered = page.waitForResponse(/api\/overview/);
      await answered;
      if (hash === "sessions") await until(page, () => document.querySelectorAll("tbody tr").length === 5);
      if (hash === "failures") await page.locator(".failure summary").first().click();
      if (hash === "doctor") await page.click("text=Run the doctor").then(() => page.locator(".rung").first().waitFor());
      if (hash.startsWith("runbook") || hash.startsWith("catalogue/")) await page.locator(".runbook").waitFor();
      assert.deepEqual(await page.evaluate(foreign), [], `round ${round}, ${hash}`);
    }
    await page.evaluate(() => (location.hash = "sessions"));
    await until(page, () => document.querySelectorAll("tbody tr").length === 5);
    const shown = await page.locator("td.client").allTextContents();
    assert.deepEqual(
      shown,
      sessions.map(({ client }) => client),
      `round ${round}`,
    );
    await page.locator("tbody button").first().click();
    assert.deepEqual(await page.evaluate(foreign), [], `round ${round}, dialog`);
    await done(page);
  }
});

test("hostile header of a real client is shown as it is", async () => {
  const origin = '<img src=x onerror="alert(1)">&amp;[a](javascript:alert(1))';
  await bench.stage.ask("open", { headers: { Origin: origin } });
  const page = await bench.open("#failures/origin_refused");
  await page.click(".failure summary");
  await shows(page, ".failure details[open] .facts dd", `Origin: ${origin}`);
  assert.deepEqual(await page.evaluate(foreign), []);
  await done(page);
});

test("answers that are not of a relay are named as such", async () => {
  for (const [reply, words] of [
    [{ status: 502, body: "<h1>Bad gateway</h1>", contentType: "text/html" }, "The answer is HTTP 502, and not from a relay."],
    [{ status: 200, body: "<h1>Sign in</h1>", contentType: "text/html" }, "The relay does not answer."],
    [
      { status: 403, json: { error: { code: "operator_token_unset", message: "<b>No token</b>", remedy: "Set <i>one</i>." } } },
      "<b>No token</b> Set <i>one</i>.",
    ],
  ]) {
    const page = await bench.open("", { expected: /status of (502|403)/ });
    await shows(page, "#freshness", "live");
    await page.route("**/api/**", (route) => route.fulfill(reply));
    await shows(page, "#notice", words);
    assert.deepEqual(await page.evaluate(foreign), []);
    await page.unroute("**/api/**");
    await until(page, () => !document.querySelector("#notice").childElementCount);
    await done(page);
  }
});
