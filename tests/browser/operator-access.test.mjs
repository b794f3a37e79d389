// Accessibility, widths and size of the operator's page.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";

import { Bench, done, shows, until } from "./operator-page.mjs";

const AXE = createRequire(import.meta.url).resolve("axe-core/axe.min.js");
const MAX_FIRST_LOAD_BYTES = 100_000;
const HASHES = [
  "#overview",
  "#sessions",
  "#failures",
  "#doctor",
  "#settings",
  "#catalogue",
  "#catalogue/relay_full",
  "#runbook/README",
];
let bench;

before(async () => {
  bench = await Bench.create();
  await bench.relay();
  await bench.stage.ask("open", { count: 3 });
  for (const failure of ["http-503", "redirect", "http-403"]) {
    await bench.stage.ask("open", { path: `/v1/realtime?model=gpt-realtime&simulate=${failure}` });
  }
});
after(() => bench.close());

/** Waits until the page of a hash shows what it consists of. */
async function ready(page, hash) {
  await page.evaluate((each) => (location.hash = each), hash);
  await shows(page, "#freshness", "live");
  const wanted = {
    sessions: "tbody tr",
    failures: ".failure",
    settings: "tbody tr",
    catalogue: ".catalogue-list li",
    runbook: ".runbook.whole",
    overview: ".latest",
  };
  await page
    .locator(wanted[hash.slice(1).split("/")[0]] ?? "h1")
    .first()
    .waitFor({ state: "attached" });
  if (hash.includes("/")) await page.locator(".catalogue-detail h2").waitFor();
}

async function violations(page) {
  // Evaluated, since the page's policy allows no script of others.
  const found = await page.evaluate(async () => {
    const { violations: all } = await globalThis.axe.run(document, { resultTypes: ["violations"] });
    return all.map(
      ({ id, nodes }) =>
        `${id}: ${nodes
          .map(({ target, failureSummary }) => `${target} ${failureSummary}`)
          .slice(0, 3)
          .join(" | ")}`,
    );
  });
  return found;
}

for (const colorScheme of ["light", "dark"]) {
  test(`no page violates a rule of axe, ${colorScheme}`, async () => {
    for (const width of [360, 1440]) {
      const page = await bench.open("", { colorScheme, viewport: { width, height: 900 }, bypassCSP: true });
      await page.addScriptTag({ path: AXE });
      for (const hash of HASHES) {
        await ready(page, hash);
        if (hash === "#failures") await page.locator(".failure summary").first().click();
        if (hash === "#doctor") await page.click("text=Run the doctor").then(() => page.locator(".rung").first().waitFor());
        assert.deepEqual(await violations(page), [], `${hash} at ${width}`);
      }
      await ready(page, "#sessions");
      await page.locator("tbody button").first().click();
      assert.deepEqual(await violations(page), [], `dialog at ${width}`);
      await page.keyboard.press("Escape");
      await page.click("#token");
      assert.deepEqual(await violations(page), [], `token dialog at ${width}`);
      await done(page);
    }
  });
}

test("no page is wider than the window, from 320 px to 4K", async () => {
  for (const width of [320, 360, 768, 1024, 1440, 2560, 3840]) {
    const page = await bench.open("", { viewport: { width, height: 900 } });
    for (const hash of HASHES) {
      await ready(page, hash);
      const excess = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.ok(excess <= 0, `${hash} at ${width}: ${excess} px too wide`);
    }
    await done(page);
  }
});

test("keyboard reaches every page, and the focus follows", async () => {
  const page = await bench.open("");
  await ready(page, "#overview");
  await page.evaluate(() => document.activeElement?.blur());
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to content");
  for (let presses = 0; presses < 2; presses += 1) await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await until(page, () => document.activeElement.tagName === "H1" && document.activeElement.textContent === "Sessions");
  assert.equal(await page.evaluate(() => document.querySelector("nav [aria-current=page]").getAttribute("href")), "#sessions");
  await page.goBack();
  await until(page, () => location.hash === "#overview" && document.activeElement.tagName === "H1");
  await done(page);
});

test("first load is below 100 kB, and nothing comes from elsewhere", async () => {
  const page = await bench.open("");
  const sizes = new Map();
  await shows(page, ".verdict", "Callers");
  const first = await page.evaluate(() =>
    performance
      .getEntriesByType("resource")
      .filter(({ initiatorType }) => initiatorType !== "fetch")
      .map(({ name, startTime }) => ({ name, startTime })),
  );
  for (const { name } of [{ name: `${bench.internal}/` }, ...first]) {
    assert.ok(name.startsWith(bench.internal), name);
    sizes.set(name, (await (await fetch(name)).arrayBuffer()).byteLength);
  }
  const total = [...sizes.values()].reduce((sum, size) => sum + size, 0);
  console.log(`# first load: ${sizes.size} files, ${total} bytes`);
  const needed = [...sizes]
    .filter(([name]) => !/\/(sessions|failures|doctor|settings|catalogue|runbook|markdown)\.js$/.test(name))
    .reduce((sum, [, size]) => sum + size, 0);
  console.log(`# of these before the first paint: ${needed} bytes`);
  assert.ok(needed < MAX_FIRST_LOAD_BYTES, `${needed} bytes`);
  await done(page);
});
