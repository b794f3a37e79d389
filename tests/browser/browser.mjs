// Chromium for the tests of the talk page: a fake microphone, and a recorder of what leaves for the loudspeaker.

import { chromium } from "playwright-core";

const TAP = `
  registerProcessor("tap", class extends AudioWorkletProcessor {
    process([[channel]]) {
      if (channel) this.port.postMessage(channel.slice());
      return true;
    }
  });
`;

/**
 * Chromium. `microphone` is "granted", "refused" or "missing"; `recording` a WAV file that the microphone plays once.
 * @param {{microphone?: string, recording?: string, args?: string[]}} options
 */
export function launch({ microphone = "granted", recording, args: more = [] } = {}) {
  const args = [...more, "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--autoplay-policy=user-gesture-required"];
  if (microphone !== "missing") args.push("--use-fake-device-for-media-stream");
  if (microphone === "granted") args.push("--use-fake-ui-for-media-stream");
  if (recording) args.push(`--use-file-for-fake-audio-capture=${recording}%noloop`);
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args });
}

/**
 * A page on which every event of the socket is recorded. With `bypassCSP` also what leaves for the loudspeaker: that needs a
 * script of the test's own, which the page's policy forbids.
 * @param {import("playwright-core").Browser} browser
 * @param {string} url
 * @param {import("playwright-core").BrowserContextOptions} options
 */
export async function open(browser, url, options = {}) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  const problems = [];
  page.on("pageerror", (error) => problems.push(String(error)));
  await page.addInitScript(listen, options.bypassCSP ? TAP : "");
  await page.goto(url);
  return { context, page, problems };
}

/** Runs in the page. @param {string} tap the recorder's module; none where the page's policy permits no other script */
function listen(tap) {
  const heard = (window.heard = { chunks: [], sent: [], received: [], urls: [] });
  const isTapped = tap !== "";
  const connect = AudioNode.prototype.connect;
  if (tap) {
    const addModule = AudioWorklet.prototype.addModule;
    AudioWorklet.prototype.addModule = async function (name) {
      if (tap) await addModule.call(this, URL.createObjectURL(new Blob([tap], { type: "text/javascript" })));
      tap = "";
      return addModule.call(this, name);
    };
  }
  AudioNode.prototype.connect = function (target, ...rest) {
    if (isTapped && target instanceof AudioDestinationNode && this.numberOfInputs === 0) {
      const tap = new AudioWorkletNode(this.context, "tap", { numberOfOutputs: 1, outputChannelCount: [1] });
      tap.port.onmessage = ({ data }) => heard.chunks.push(data);
      connect.call(this, tap);
      connect.call(tap, target);
    }
    return connect.call(this, target, ...rest);
  };
  window.WebSocket = class extends WebSocket {
    constructor(url, protocols) {
      super(url, protocols);
      heard.urls.push(String(url));
      this.addEventListener("message", ({ data }) => heard.received.push({ at: performance.now(), ...JSON.parse(data) }));
    }
    send(data) {
      heard.sent.push(JSON.parse(data));
      super.send(data);
    }
  };
}

/** What left for the loudspeaker, as PCM16. @param {import("playwright-core").Page} page */
export async function played(page) {
  const samples = await page.evaluate(() => window.heard.chunks.flatMap((chunk) => [...chunk].map((sample) => Math.round(sample * 32768))));
  return Int16Array.from(samples);
}

/** The events that the page received or sent. @param {import("playwright-core").Page} page @param {"sent" | "received"} side @param {string} type */
export function events(page, side, type) {
  return page.evaluate(([side, type]) => window.heard[side].filter((event) => event.type === type), [side, type]);
}

/** Audio of events as PCM16. @param {string[]} texts base64 */
export function pcm(texts) {
  const bytes = Buffer.concat(texts.map((text) => Buffer.from(text, "base64")));
  return new Int16Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
}

/** Waits for a step of the call. @param {import("playwright-core").Page} page @param {string} name @param {string} state */
export function stage(page, name, state = "ok") {
  return page.locator(`#stages li[data-state="${state}"]`, { hasText: name }).waitFor({ timeout: 60_000 });
}
