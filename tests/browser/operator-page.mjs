// Opens the operator's page in Chromium, and fails a test whose page reports an error.

import assert from "node:assert/strict";
import { chromium } from "playwright-core";

import { Stage } from "./stage.mjs";

const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"];
/** Bound on every wait: only a hang reaches it. */
const PATIENCE_MS = 60_000;

/** A browser and a relay, for the tests of one file. */
export class Bench {
  static async create() {
    const bench = new Bench();
    bench.stage = new Stage();
    bench.browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS });
    return bench;
  }

  /** Starts a relay in place of the one before. */
  async relay(settings = {}) {
    const { public: url, internal } = await this.stage.ask("start", { settings });
    Object.assign(this, { public: url, internal });
  }

  /**
   * Opens a page of the running relay. `errors` collects what the page reports; those that match `expected` are left out.
   */
  async open(hash = "", { expected = /^$/, mock = null, ...options } = {}) {
    const context = await this.browser.newContext({
      viewport: { width: 1440, height: 900 },
      reducedMotion: "reduce",
      ...options,
    });
    context.setDefaultTimeout(PATIENCE_MS);
    const page = await context.newPage();
    page.errors = [];
    page.requested = [];
    page.on(
      "console",
      (message) => message.type() === "error" && !expected.test(message.text()) && page.errors.push(message.text()),
    );
    page.on("pageerror", (error) => page.errors.push(String(error)));
    page.on("request", (request) => page.requested.push(`${request.method()} ${new URL(request.url()).pathname}`));
    if (mock) await page.route("**/api/**", (route) => answer(route, mock));
    await page.goto(`${this.internal}/${hash}`);
    return page;
  }

  async close() {
    await this.browser?.close();
    await this.stage?.close();
  }
}

/** Closes a page, which has reported no error. */
export async function done(page) {
  assert.deepEqual(page.errors, []);
  await page.context().close();
}

/** Answers a request from `mock`, a document for each path; other requests reach the relay. */
async function answer(route, mock) {
  const { pathname } = new URL(route.request().url());
  const found = mock[pathname];
  if (found === undefined) return route.continue();
  if (typeof found === "string") return route.fulfill({ body: found, contentType: "text/markdown" });
  return route.fulfill({ json: typeof found === "function" ? found() : found });
}

/** Waits until the text of the first element contains `text`, or matches it. */
export async function shows(page, selector, text) {
  const wanted = page.locator(selector).filter({ hasText: text });
  await wanted
    .first()
    .waitFor({ timeout: PATIENCE_MS })
    .catch(async (error) => {
      const found = await page.locator(selector).allTextContents();
      throw new Error(`${selector} does not show ${text}, but ${JSON.stringify(found).slice(0, 500)}`, { cause: error });
    });
}

/** Waits until a function of the page returns something true. */
export async function until(page, condition, argument) {
  return page.waitForFunction(condition, argument, { timeout: PATIENCE_MS });
}
