// What the programs share: see common.py.
import { openSync, writeSync } from "node:fs";

export const URL = process.env.CALL_URL, TOKEN = process.env.CALL_TOKEN, QUERY = process.env.CALL_QUERY ?? "";
const CHUNK = 1920; // 40 ms of PCM16 at 24 kHz
const answer = openSync("answer.pcm", "a");

export const websocketUrl = () =>
  `${URL.replace("http", "ws")}/realtime?model=gpt-realtime${QUERY && "&"}${QUERY}`;
export const play = (audio) => writeSync(answer, audio);
export const problem = (text) => console.log("PROBLEM:", text);

export async function* microphone() {
  let rest = Buffer.alloc(0);
  for await (const data of process.stdin) {
    rest = Buffer.concat([rest, data]);
    for (; rest.length >= CHUNK; rest = rest.subarray(CHUNK)) yield rest.subarray(0, CHUNK);
  }
}

export class Playback {
  add(item, audio) {
    if (item !== this.item) [this.item, this.began, this.ms] = [item, performance.now(), 0];
    this.ms += audio.length / 48;
    play(audio);
  }

  interrupt() {
    const played = performance.now() - this.began, item = this.item;
    this.item = undefined;
    return item === undefined || played >= this.ms ? null : [item, Math.floor(played)];
  }
}
