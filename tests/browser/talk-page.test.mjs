// The talk page itself: accessibility, size, narrow and wide, hostile texts, what it keeps.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";

import { stage } from "./browser.mjs";
import { Bench, choose, failure } from "./talk.mjs";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
/** @type {Bench} */
let bench;

before(async () => {
  bench = await Bench.create();
  await bench.relay();
});
after(() => bench?.close());

/** The violations that axe-core finds. */
async function violations(page) {
  await page.evaluate(AXE);
  const { violations: found } = await page.evaluate(() => window.axe.run());
  return found.map((/** @type {any} */ each) => `${each.id}: ${each.nodes.map((node) => node.target.join(" ")).join(", ")}`);
}

for (const colorScheme of ["light", "dark"]) {
  test(`axe-core finds no violation, ${colorScheme}: before, during and behind a call, and in a runbook`, async () => {
    const { page, context } = await bench.open({ colorScheme });
    assert.deepEqual(await violations(page), []);
    await choose(page, { microphone: false, turns: "push" });
    await page.click("#start");
    await stage(page, "session ready");
    await page.fill("#text", "Hello");
    await page.press("#text", "Enter");
    await stage(page, "first audio");
    assert.deepEqual(await violations(page), []);
    await page.click("#end");
    await choose(page, { microphone: false, query: "simulate=key-rejected" });
    await page.click("#start");
    assert.equal((await failure(page)).code, "key_rejected");
    await page.evaluate(() => document.querySelector("#log li[data-error] summary")?.click());
    assert.deepEqual(await violations(page), []);
    await page.click("#failure .actions a");
    await page.locator("#section-key_rejected").waitFor();
    assert.deepEqual(await violations(page), []);
    const cut = await page.$$eval("#runbook pre", (blocks) => blocks.filter((block) => block.scrollHeight > block.clientHeight + 20).length);
    assert.equal(cut, 0, "code blocks whose lines are cut off");
    assert.ok((await page.$$("#runbook pre")).length > 0);
    await context.close();
  });
}

test("the first load is below 100 kB, from the relay only, and breaks no rule of its policy", async () => {
  const context = await bench.browser.newContext();
  const page = await context.newPage();
  const problems = [];
  page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
  const sizes = new Map();
  const decoded = [];
  page.on("requestfinished", async (request) => {
    sizes.set(request.url(), 0);
    sizes.set(request.url(), (await request.sizes()).responseBodySize);
    decoded.push((await (await request.response())?.body())?.length ?? 0);
  });
  await page.goto(`${bench.public}/`);
  await page.locator("#token-hint", { hasText: "not needed" }).waitFor(); // the last thing that the page loads
  await page.waitForFunction(() => document.readyState === "complete");
  const total = [...sizes.values()].reduce((sum, size) => sum + size, 0);
  assert.ok(sizes.size > 10 && total < 100_000, `${total} bytes in ${sizes.size} files`);
  assert.deepEqual([...sizes.keys()].filter((url) => !url.startsWith(bench.public)), []);
  assert.deepEqual(problems, []);
  console.log(`first load: ${total} bytes in ${sizes.size} files, ${decoded.reduce((sum, size) => sum + size, 0)} without compression`);
  await context.close();
});

test("nothing is wider than the window, from 320 to 3840 pixels", async () => {
  for (const width of [320, 360, 768, 1024, 1440, 2560, 3840]) {
    const { page, context } = await bench.open({ viewport: { width, height: 800 } });
    await choose(page, { microphone: false, query: "simulate=key-rejected" });
    await page.click("#start");
    await failure(page);
    const excess = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(excess <= 0, `${excess} pixels too wide at ${width}`);
    await context.close();
  }
});

test("the page is used by keyboard alone", async () => {
  const { page, context } = await bench.open();
  await choose(page, { microphone: false, turns: "push" });
  await page.focus("#token");
  await page.keyboard.press("Enter");
  await stage(page, "session ready");
  assert.equal(await page.locator("#push").isVisible(), true);
  await page.focus("#end");
  await page.keyboard.press("Enter");
  await page.waitForSelector("#status[data-state=ended]");
  assert.equal(await page.evaluate(() => document.activeElement?.id), "start");
  await context.close();
});

test("hostile texts of events are texts, and nothing is stored", async () => {
  const hostile = `<img src=x onerror="document.title='broken'"><script>document.title='broken'</script>`;
  const { page, context } = await bench.open();
  await page.evaluate((hostile) => {
    window.WebSocket = class extends EventTarget {
      static OPEN = 1;
      readyState = 1;
      constructor() {
        super();
        const receive = (/** @type {any} */ event) => this.dispatchEvent(new MessageEvent("message", { data: JSON.stringify(event) }));
        setTimeout(() => {
          this.dispatchEvent(new Event("open"));
          receive({ type: "session.created" });
          receive({ type: "session.updated" });
          receive({ type: hostile, [hostile]: hostile });
          receive({ type: "response.output_audio_transcript.delta", item_id: hostile, delta: hostile });
          receive({ type: "error", error: { type: "relay_error", code: hostile, message: hostile, remedy: hostile, retry: hostile, upstream_code: hostile, session_id: hostile } });
          this.dispatchEvent(new CloseEvent("close", { code: 4000, reason: hostile }));
        });
      }
      send() {}
      close() {}
    };
  }, hostile);
  await choose(page, { microphone: false, token: "token-1-abcdefghijklmnopqrstuvwxyz" });
  await page.click("#start");
  const shown = await failure(page);
  assert.deepEqual([shown.code, shown.message, shown.remedy, shown.evidence["provider's code"]], [hostile, hostile, hostile, hostile]);
  assert.ok((await page.innerText("#transcript")).includes(hostile) && (await page.innerText("#log")).includes("<img"));
  await page.click("#failure .actions a");
  await page.locator("#runbook-text", { hasText: "cannot be read here" }).waitFor();
  assert.equal(await page.locator("main img, main script, dialog img, dialog script").count(), 0);
  assert.equal(await page.title(), "Talk · realtime-relay");
  assert.deepEqual(await page.evaluate(() => [localStorage.length, sessionStorage.length, document.cookie]), [0, 0, ""]);
  assert.deepEqual(await context.cookies(), []);
  await context.close();
});

test("the event log filters, pauses, and is downloaded without audio and token", async () => {
  const token = "token-1-abcdefghijklmnopqrstuvwxyz";
  const { page, context } = await bench.open();
  await choose(page, { microphone: false, token });
  await page.click("#start");
  await stage(page, "session ready");
  await page.click("#log-pause");
  await page.fill("#text", "Hello");
  await page.press("#text", "Enter");
  await stage(page, "first audio");
  assert.equal(await page.locator("#log", { hasText: "response.create" }).count(), 0);
  await page.click("#log-pause");
  await page.fill("#log-filter", "response.created");
  await page.waitForFunction(() => document.querySelectorAll("#log li").length === 1);
  const [download] = await Promise.all([page.waitForEvent("download"), page.click("#log-download")]);
  const text = readFileSync(await download.path(), "utf8");
  const lines = text.trim().split("\n").map((line) => JSON.parse(line));
  const delta = lines.find(({ event }) => event.type === "response.output_audio.delta");
  assert.match(delta.event.delta, /^<\d+ bytes of audio>$/);
  assert.ok(!text.includes(token));
  await context.close();
});
