// The sound of a call: microphone and loudspeaker, each behind an AudioWorklet. Nothing is recorded or kept.

import { Problem, microphoneProblem } from "./causes.js";

export const RATE = 24_000;
const STOP_SECONDS = 1;
const RESUME_SECONDS = 3;

/**
 * @typedef {object} Hooks
 * @property {(pcm: Int16Array, level: number, isRecording: boolean) => void} onChunk 40 ms of input
 * @property {() => void} onRecordingEnded
 * @property {() => void} onMicrophoneLost
 * @property {(level: number) => void} onLevel of the output
 * @property {(item: string) => void} onAudible the first audible sample of an item leaves for the loudspeaker
 * @property {(item: string) => void} onEnded
 * @property {() => void} onGap the queue was empty before the end of an item
 */
/** @typedef {{item: string, playedMs: number, wasPlaying: boolean}} Stopped */
/** @typedef {{leadMs: number, maxSilenceMs: number}} Buffering */

export class CallAudio {
  /** @type {AudioContext | null} */ #context = null;
  /** @type {AudioWorkletNode | null} */ #capture = null;
  /** @type {AudioWorkletNode | null} */ #player = null;
  /** @type {MediaStream | null} */ #stream = null;
  /** @type {((stopped: Stopped) => void)[]} */ #stopping = [];
  #isClosed = false;
  #hooks;

  /** @param {Hooks} hooks */
  constructor(hooks) {
    this.#hooks = hooks;
  }

  /** Whether a microphone is open. */
  get hasMicrophone() {
    return this.#stream !== null;
  }

  /** The name of the microphone. */
  get microphone() {
    return this.#stream?.getAudioTracks()[0]?.label ?? "";
  }

  /**
   * Opens loudspeaker and, if wanted, microphone. Raises Problem.
   * @param {boolean} withMicrophone
   */
  async open(withMicrophone) {
    if (!isSecureContext) throw new Problem("insecure_context", [["address", location.origin]]);
    if (typeof AudioContext === "undefined" || typeof AudioWorkletNode === "undefined") throw new Problem("audio_worklet_missing");
    this.#context = new AudioContext({ sampleRate: RATE, latencyHint: "interactive" });
    if (withMicrophone) await this.#openMicrophone();
  }

  /** Connects both with the call, by files of the relay. Raises Problem. @param {Buffering} buffering */
  async connect(buffering) {
    await this.#load();
    if (this.#isClosed) return;
    await this.#join(buffering);
    const context = this.#context;
    // Where the browser blocks audio, the promise stays open.
    await Promise.race([context?.resume(), new Promise((resolve) => setTimeout(resolve, RESUME_SECONDS * 1000))]);
    if (context && !this.#isClosed && context.state !== "running") throw new Problem("audio_blocked", [["audio context", context.state]]);
  }

  async #load() {
    const context = this.#context;
    try {
      await Promise.all(["capture-worklet.js", "player-worklet.js"].map((name) => context?.audioWorklet.addModule(name)));
    } catch (error) {
      throw new Problem("relay_unreachable", [["address", location.origin], ["browser", String(error)]]);
    }
  }

  async #openMicrophone() {
    try {
      const audio = { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 };
      const stream = await navigator.mediaDevices.getUserMedia({ audio });
      if (this.#isClosed) return stop(stream); // the call was ended while the browser asked
      this.#stream = stream;
    } catch (error) {
      throw microphoneProblem(error);
    }
    for (const track of this.#stream.getTracks()) track.addEventListener("ended", () => this.#hooks.onMicrophoneLost());
  }

  /** @param {Buffering} buffering @returns {Promise<void>} */
  async #join(buffering) {
    const context = /** @type {AudioContext} */ (this.#context);
    let source = null;
    if (this.#stream) {
      try {
        source = context.createMediaStreamSource(this.#stream);
      } catch {
        // Firefox accepts no microphone at another rate than that of the device. The worklets then convert.
        await this.#reopenAtDeviceRate();
        return this.#join(buffering);
      }
    }
    this.#capture = new AudioWorkletNode(context, "capture", { numberOfOutputs: 1, outputChannelCount: [1] });
    this.#capture.port.onmessage = ({ data }) => this.#captured(data);
    this.#player = new AudioWorkletNode(context, "player", { numberOfInputs: 0, outputChannelCount: [1], processorOptions: buffering });
    this.#player.port.onmessage = ({ data }) => this.#reported(data);
    source?.connect(this.#capture);
    this.#capture.connect(context.destination); // it outputs silence; without a destination it would not run
    this.#player.connect(context.destination);
  }

  async #reopenAtDeviceRate() {
    await this.#context?.close();
    if (this.#isClosed) throw new Error("the call is over");
    this.#context = new AudioContext({ latencyHint: "interactive" });
    await this.#load();
  }

  /** @param {any} message */
  #captured(message) {
    if (message.type === "chunk") this.#hooks.onChunk(message.pcm, message.level, message.isRecording);
    else this.#hooks.onRecordingEnded();
  }

  /** @param {any} message */
  #reported(message) {
    switch (message.type) {
      case "level":
        return this.#hooks.onLevel(message.level);
      case "audible":
        return this.#hooks.onAudible(message.item);
      case "ended":
        return this.#hooks.onEnded(message.item);
      case "gap":
        return this.#hooks.onGap();
      case "stopped":
        return this.#stopping.shift()?.(message);
    }
  }

  /** Speaks a recording into the call in place of the microphone. Raises an error if it cannot be loaded. @param {string} url */
  async speak(url) {
    const response = await fetch(url);
    if (!response.ok) throw new Error(`${url} answered ${response.status}`);
    const decoded = await this.#context?.decodeAudioData(await response.arrayBuffer());
    if (decoded) this.#capture?.port.postMessage(decoded.getChannelData(0).slice());
  }

  /** @param {string} item @param {Int16Array<ArrayBuffer>} pcm */
  play(item, pcm) {
    this.#player?.port.postMessage({ type: "play", item, pcm }, [pcm.buffer]);
  }

  /** Marks the end of an item. @param {string} item */
  end(item) {
    this.#player?.port.postMessage({ type: "end", item });
  }

  /** Empties the loudspeaker at once. @returns {Promise<Stopped | null>} what was cut off; null if the call is over */
  stop() {
    if (!this.#player) return Promise.resolve(null);
    const stopped = new Promise((/** @type {(stopped: Stopped | null) => void} */ resolve) => {
      this.#stopping.push(resolve);
      setTimeout(() => resolve(null), STOP_SECONDS * 1000);
    });
    this.#player.port.postMessage({ type: "stop" });
    return stopped;
  }

  /** Releases microphone and loudspeaker. */
  async close() {
    this.#isClosed = true;
    if (this.#stream) stop(this.#stream);
    for (const node of [this.#capture, this.#player]) node?.port.postMessage("close");
    this.#capture = this.#player = this.#stream = null;
    const context = this.#context;
    this.#context = null;
    if (context && context.state !== "closed") await context.close();
  }
}

/** @param {MediaStream} stream */
function stop(stream) {
  for (const track of stream.getTracks()) track.stop();
}
