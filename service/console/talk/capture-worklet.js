// The microphone, or a recording in its place, as chunks of 40 ms of 24 kHz PCM16. Without either it produces silence.

const RATE = 24_000;
const CHUNK = RATE / 25;

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.step = sampleRate / RATE;
    this.time = 0; // of the next output sample, in input samples behind `previous`
    this.previous = 0;
    this.chunk = new Int16Array(CHUNK);
    this.filled = 0;
    this.energy = 0;
    /** @type {Float32Array | null} */
    this.recording = null;
    this.at = 0;
    this.isOpen = true;
    this.port.onmessage = ({ data }) => {
      if (data === "close") this.isOpen = false;
      else [this.recording, this.at] = [data, 0];
    };
  }

  /** @param {Float32Array[][]} inputs @param {Float32Array[][]} outputs */
  process(inputs, outputs) {
    const channel = inputs[0]?.[0];
    const size = channel?.length ?? outputs[0]?.[0]?.length ?? 128;
    for (let at = 0; at < size; at += 1) this.take(this.recorded() ?? channel?.[at] ?? 0);
    return this.isOpen;
  }

  /** The next sample of the recording; null if none plays. */
  recorded() {
    if (!this.recording) return null;
    const sample = this.recording[this.at];
    this.at += 1;
    if (sample !== undefined) return sample;
    this.recording = null;
    this.port.postMessage({ type: "recording-ended" });
    return null;
  }

  /** Takes a sample at the rate of the device. @param {number} sample */
  take(sample) {
    for (; this.time < 1; this.time += this.step) this.put(this.previous + (sample - this.previous) * this.time);
    this.time -= 1;
    this.previous = sample;
  }

  /** Adds a sample of 24 kHz. @param {number} sample */
  put(sample) {
    const limited = Math.max(-1, Math.min(1, sample));
    this.chunk[this.filled] = Math.round(limited * 32_767);
    this.filled += 1;
    this.energy += limited * limited;
    if (this.filled < CHUNK) return;
    const pcm = this.chunk;
    const level = Math.sqrt(this.energy / CHUNK);
    this.port.postMessage({ type: "chunk", pcm, level, isRecording: this.recording !== null }, [pcm.buffer]);
    this.chunk = new Int16Array(CHUNK);
    this.filled = 0;
    this.energy = 0;
  }
}

registerProcessor("capture", Capture);

export {}; // a module of its own
