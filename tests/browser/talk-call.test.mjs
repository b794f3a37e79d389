// A call on the talk page: speak, hear, interrupt, read.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { events, pcm, played, stage } from "./browser.mjs";
import { Bench, PATIENCE_MS, choose, recording } from "./talk.mjs";

/** @type {Bench} */
let bench;

before(async () => {
  bench = await Bench.create({ recording: recording() });
  await bench.relay();
});
after(() => bench?.close());

/** Starts a call, and waits until the session is ready. */
async function call(options) {
  const opened = await bench.open({ bypassCSP: true });
  await choose(opened.page, options);
  await opened.page.click("#start");
  await stage(opened.page, "session ready");
  return opened;
}

/** Waits for a condition in the page. */
function until(page, condition, argument) {
  return page.waitForFunction(condition, argument, { timeout: PATIENCE_MS });
}

/** Waits until this many events of a type have come. */
function received(page, type, count = 1) {
  return until(page, ([type, count]) => window.heard.received.filter((event) => event.type === type).length >= count, [type, count]);
}

/** Waits until the loudspeaker has been silent for a second. */
function silent(page) {
  return until(page, () => {
    const last = window.heard.chunks.slice(-188); // 128 samples each
    return last.length === 188 && last.every((chunk) => chunk.every((sample) => sample === 0));
  });
}

/** Where `part` begins in `whole`, or -1. */
function find(whole, part) {
  const [text, wanted] = [whole, part].map((samples) => Buffer.from(samples.buffer, samples.byteOffset, samples.byteLength));
  for (let at = text.indexOf(wanted); at >= 0; at = text.indexOf(wanted, at + 1)) if (at % 2 === 0) return at / 2;
  return -1;
}

/** The received audio of the answers, by item. */
async function answers(page) {
  const deltas = await events(page, "received", "response.output_audio.delta");
  const items = [...new Set(deltas.map((event) => event.item_id))];
  return items.map((item) => ({ item, audio: pcm(deltas.filter((event) => event.item_id === item).map((event) => event.delta)) }));
}

test("speech from the microphone is answered, and every sample of the answer is heard", async () => {
  const { page, context, problems } = await call({ turns: "push" });
  await page.keyboard.down("Space");
  await until(page, () => window.heard.sent.filter((event) => event.type === "input_audio_buffer.append").length >= 125); // 5 s
  await page.keyboard.up("Space");
  await received(page, "response.done");
  await stage(page, "first audio");
  await silent(page);

  const [answer] = await answers(page);
  const sent = pcm((await events(page, "sent", "input_audio_buffer.append")).map((event) => event.audio));
  const loudest = answer.audio.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0);
  assert.ok(loudest > 3000, `the recorded voice, not ${loudest}`);
  assert.ok(find(sent, answer.audio) >= 0, "the simulator repeats what it was sent");
  const heard = await played(page);
  assert.deepEqual(sounding(heard), sounding(answer.audio), "the loudspeaker got each sample once, in order");
  if (await hasNoGap(page)) assert.ok(find(heard, trimmed(answer.audio)) >= 0, "without a gap");
  const words = await page.locator("#transcript li").allTextContents();
  assert.deepEqual([words.length, words[0].startsWith("You"), words[1].startsWith("Assistant")], [2, true, true]);
  assert.deepEqual(await page.locator("#stages li").evaluateAll((nodes) => nodes.map((node) => node.dataset.state)), Array(7).fill("ok"));
  assert.match(await page.innerText("#figures"), /Speech to answer\s+[\d.]+ m?s/);
  assert.deepEqual(problems, []);
  await context.close();
});

test("speech during an answer stops it at once, and reports to the provider what was heard", async () => {
  const { page, context } = await call({ turns: "push", microphone: false });
  await page.click("#sample");
  await stage(page, "first audio");
  await page.focus("#push");
  await page.keyboard.down("Space"); // the answer, four seconds long, has just begun
  await received(page, "conversation.item.truncated");
  await page.keyboard.up("Space");
  await silent(page);

  const [{ item, audio }] = await answers(page);
  const [truncation] = await events(page, "sent", "conversation.item.truncate");
  const heard = sounding(await played(page));
  assert.equal(truncation.item_id, item);
  assert.ok(heard.length > 0 && heard.length < sounding(audio).length, "a part of the answer");
  assert.deepEqual(heard, sounding(audio).subarray(0, heard.length), "its begin, and nothing behind it");
  const reported = sounding(audio.subarray(0, truncation.audio_end_ms * 24)).length;
  assert.ok(Math.abs(heard.length - reported) < 24 * 300, `${heard.length} samples were heard, ${reported} reported`);
  assert.equal(await page.locator("#transcript .interrupted").count(), 1);
  await context.close();
});

/** The samples that are not zero: a busy machine may put silence between two of them. */
function sounding(samples) {
  return samples.filter((sample) => sample !== 0);
}

/** Whether the page counted no gap in the answer. */
async function hasNoGap(page) {
  return /Gaps in the answer\s+–/.test(await page.innerText("#figures"));
}

/** Without the silence around. */
function trimmed(samples) {
  const first = samples.findIndex((sample) => sample !== 0);
  const last = samples.findLastIndex((sample) => sample !== 0);
  return samples.subarray(first, last + 1);
}

test("hands-free, the provider finds the speech, and new speech interrupts the answer", async () => {
  const { page, context } = await call({ microphone: false });
  await page.click("#sample");
  await stage(page, "speech heard");
  await stage(page, "first audio");
  await page.click("#sample");
  await received(page, "conversation.item.truncated");
  const [{ item_id: item }] = await events(page, "sent", "conversation.item.truncate");
  assert.equal((await answers(page)).some((answer) => answer.item === item), true);
  await context.close();
});

test("a text is answered in speech", async () => {
  const { page, context } = await call({ microphone: false });
  await page.fill("#text", "<b>Bonjour</b>");
  await page.press("#text", "Enter");
  await received(page, "response.done");
  await stage(page, "first audio");
  await silent(page);
  assert.deepEqual(sounding(await played(page)), sounding((await answers(page))[0].audio));
  assert.match(await page.innerText("#transcript"), /You\s+<b>Bonjour<\/b>\s+Assistant\s+<b>Bonjour<\/b>/);
  assert.equal(await page.locator("#transcript b").count(), 0);
  await context.close();
});

test("GPT-Live hears the microphone, answers, and is closed with its bill", async () => {
  const { page, context, problems } = await call({ api: "live" });
  await stage(page, "speech heard");
  await stage(page, "first audio");
  await silent(page);
  await page.click("#end");
  await page.waitForSelector("#status[data-state=ended]");

  const output = pcm((await events(page, "received", "session.output_audio.delta")).map((event) => event.delta));
  const voice = trimmed(output);
  const heard = sounding(await played(page));
  assert.ok(voice.length > 20_000, `${voice.length} samples`);
  assert.deepEqual(heard, sounding(output).subarray(0, heard.length), "every sample is heard, in order");
  assert.ok(heard.length >= sounding(voice).length, "to the end");
  assert.match(await page.innerText("#transcript"), /You\s+Polly hears[\s\S]*Assistant\s+Polly[\s\S]*billed: \d+\.\d s/);
  assert.equal(await page.locator("#failure *").count(), 0);
  assert.deepEqual(problems, []);
  await context.close();
});

test("muted, the microphone sends nothing, and the end leaves it to others", async () => {
  const { page, context } = await call({});
  await page.click("#mute");
  const count = () => page.evaluate(() => window.heard.sent.filter((event) => event.type === "input_audio_buffer.append").length);
  await until(page, () => document.querySelector("#mute")?.getAttribute("aria-pressed") === "true");
  const audio = pcm((await events(page, "sent", "input_audio_buffer.append")).map((event) => event.audio));
  const before = await count();
  await until(page, (before) => window.heard.sent.filter((event) => event.type === "input_audio_buffer.append").length > before + 50, before);
  const all = pcm((await events(page, "sent", "input_audio_buffer.append")).map((event) => event.audio));
  assert.ok(all.subarray(audio.length + 960).every((sample) => sample === 0), "silence in place of the microphone");
  await page.click("#end");
  await page.waitForSelector("#status[data-state=ended]");
  assert.equal(await page.locator("#failure *").count(), 0);
  await context.close();
});
