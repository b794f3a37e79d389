// A relay and a browser for the tests of the talk page.

import { spawnSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { fileURLToPath } from "node:url";

import { launch, open } from "./browser.mjs";
import { Stage } from "./stage.mjs";

export const ROOT = fileURLToPath(new URL("../..", import.meta.url));
export const BUILD = `${ROOT}build/browser`;
/** Bound on every wait: only a hang reaches it. */
export const PATIENCE_MS = 60_000;

/** The recorded voice as the microphone plays it: two seconds of silence, the phrase, and silence. */
export function recording() {
  mkdirSync(BUILD, { recursive: true });
  const path = `${BUILD}/speech.wav`;
  const made = spawnSync(process.env.PYTHON ?? `${ROOT}.venv/dev/bin/python`, ["-m", "tests.browser.speech", path], { cwd: ROOT, encoding: "utf8" });
  if (made.status !== 0) throw new Error(`no recorded voice: ${made.stderr}`);
  return path;
}

/** A browser and a relay, for the tests of one file. */
export class Bench {
  /** @param {Parameters<typeof launch>[0]} options of the browser */
  static async create(options = {}) {
    const bench = new Bench();
    bench.stage = new Stage();
    bench.browser = await launch(options);
    return bench;
  }

  /** Starts a relay in place of the one before. @param {Record<string, string>} settings */
  async relay(settings = {}) {
    Object.assign(this, await this.stage.ask("start", { settings }));
  }

  /** Opens the talk page. @param {Record<string, unknown>} options */
  async open({ url = this.public, ...options } = {}) {
    const opened = await open(this.browser, `${url}/`, { reducedMotion: "reduce", viewport: { width: 1440, height: 900 }, ...options });
    opened.page.setDefaultTimeout(PATIENCE_MS);
    return opened;
  }

  async close() {
    await this.browser?.close();
    await this.stage?.close();
  }
}

/** Chooses options of a call. @param {import("playwright-core").Page} page @param {{api?: string, turns?: string, token?: string, query?: string, microphone?: boolean}} options */
export async function choose(page, { api = "realtime", turns = "hands-free", token = "", query = "", microphone = true } = {}) {
  await page.check(`input[name=api][value=${api}]`, { force: true });
  await page.check(`input[name=turns][value=${turns}]`, { force: true });
  await page.fill("#token", token);
  await page.evaluate(() => (document.querySelector("#setup details").open = true));
  await page.fill("#query", query);
  await page.setChecked("#with-microphone", microphone);
}

/** Waits for a failure, and returns what the page shows of it. @param {import("playwright-core").Page} page */
export async function failure(page) {
  await page.waitForSelector("#failure .failure:not(.warning)");
  return page.evaluate(() => {
    const text = (/** @type {string} */ selector) => document.querySelector(`#failure ${selector}`)?.textContent ?? "";
    const names = [...document.querySelectorAll("#failure dt")].map((node) => node.textContent);
    const values = [...document.querySelectorAll("#failure dd")].map((node) => node.textContent);
    return {
      code: text(".code"),
      message: text("h2"),
      remedy: text(".remedy"),
      runbook: document.querySelector("#failure .actions a")?.getAttribute("href"),
      evidence: Object.fromEntries(names.map((name, at) => [name, values[at]])),
      failed: [...document.querySelectorAll("#stages [data-state=failed] .name")].map((node) => node.textContent),
    };
  });
}
