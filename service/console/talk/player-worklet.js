// Plays 24 kHz PCM16 without gaps: chunks wait in a queue, and playing starts once `lead` is there, or that time has passed.
//
// Receives {type: "play", item, pcm}, {type: "end", item} behind the last chunk of an item, {type: "stop"}, which empties the
// queue at once, and "close". Reports levels, the first audible sample of an item, the end of one, and what `stop` cut off.

const RATE = 24_000;
const AUDIBLE = 0.002;
const REPORT = RATE / 25;
const SILENT = 8; // of 32768; GPT-Live sends a dither of up to 3 while it is silent

class Player extends AudioWorkletProcessor {
  /** @param {{processorOptions: {leadMs: number, maxSilenceMs: number}}} options */
  constructor({ processorOptions }) {
    super();
    this.step = RATE / sampleRate;
    this.time = 0;
    this.previous = 0;
    this.current = 0;
    this.lead = (processorOptions.leadMs * RATE) / 1000;
    this.maxSilence = (processorOptions.maxSilenceMs * RATE) / 1000;
    /** @type {{item: string, pcm: Int16Array | null}[]} */
    this.queue = [];
    this.queued = 0; // samples
    this.at = 0; // in the first chunk
    this.waited = 0;
    this.isPlaying = false;
    this.item = "";
    this.played = 0; // samples of the item
    this.isAudible = false;
    this.quiet = 0; // samples since the last audible one
    this.energy = 0;
    this.count = 0;
    this.isOpen = true;
    this.port.onmessage = ({ data }) => this.receive(data);
  }

  /** @param {any} message */
  receive(message) {
    if (message === "close") this.isOpen = false;
    else if (message.type === "stop") this.stop();
    else if (message.type === "end") this.queue.push({ item: message.item, pcm: null });
    else if (!this.isSurplus(message.pcm)) {
      this.queue.push({ item: message.item, pcm: message.pcm });
      this.queued += message.pcm.length;
    }
  }

  /** Whether a chunk is silence that would only add delay. @param {Int16Array} pcm */
  isSurplus(pcm) {
    return this.queued > this.maxSilence && pcm.every((sample) => Math.abs(sample) <= SILENT);
  }

  stop() {
    const item = this.queue[0]?.item ?? this.item;
    const playedMs = item === this.item ? (this.played * 1000) / RATE : 0;
    this.port.postMessage({ type: "stopped", item, playedMs, wasPlaying: this.queue.length > 0 });
    this.queue = [];
    this.queued = this.at = this.waited = this.played = 0;
    this.previous = this.current = 0;
    this.isPlaying = false;
  }

  /** @param {Float32Array[][]} _inputs @param {Float32Array[][]} outputs */
  process(_inputs, outputs) {
    const output = outputs[0]?.[0];
    if (!output) return this.isOpen;
    this.begin(output.length);
    for (let at = 0; at < output.length; at += 1) output[at] = this.sample();
    return this.isOpen;
  }

  /** @param {number} size */
  begin(size) {
    if (this.isPlaying || !this.queue.length) return;
    this.waited += size * this.step;
    if (this.queued < this.lead && this.waited < this.lead) return;
    this.isPlaying = true;
    this.waited = 0;
  }

  /** The next sample at the rate of the device. */
  sample() {
    for (this.time += this.step; this.time >= 1; this.time -= 1) {
      this.previous = this.current;
      this.current = this.isPlaying ? this.next() : 0;
    }
    const sample = this.previous + (this.current - this.previous) * this.time;
    this.energy += sample * sample;
    this.count += 1;
    if (this.count >= REPORT / this.step) this.report();
    return sample;
  }

  /** The next sample of the queue; silence at its end. @returns {number} */
  next() {
    const head = this.queue[0];
    if (!head) return this.runDry();
    if (head.item !== this.item) [this.item, this.played, this.isAudible] = [head.item, 0, false];
    if (!head.pcm) {
      this.queue.shift();
      this.port.postMessage({ type: "ended", item: head.item });
      if (!this.queue.length) this.isPlaying = false;
      return this.isPlaying ? this.next() : 0;
    }
    const value = (head.pcm[this.at] ?? 0) / 32_768;
    this.at += 1;
    this.played += 1;
    this.queued -= 1;
    if (this.at >= head.pcm.length) {
      this.queue.shift();
      this.at = 0;
    }
    this.listen(value);
    return value;
  }

  /** Reports the first audible sample of an item, and the first one behind half a second of silence. @param {number} value */
  listen(value) {
    this.quiet = Math.abs(value) > AUDIBLE ? 0 : this.quiet + 1;
    if (this.quiet > RATE / 2) this.isAudible = false;
    if (this.isAudible || this.quiet) return;
    this.isAudible = true;
    this.port.postMessage({ type: "audible", item: this.item });
  }

  /** The queue is empty before the end of the item. */
  runDry() {
    this.isPlaying = false;
    this.port.postMessage({ type: "gap", item: this.item });
    return 0;
  }

  report() {
    const level = Math.sqrt(this.energy / this.count);
    this.port.postMessage({ type: "level", level, queuedMs: (this.queued * 1000) / RATE });
    this.energy = this.count = 0;
  }
}

registerProcessor("player", Player);

export {}; // a module of its own
