// One call: microphone, connection, events, loudspeaker. It reports everything to the page, and knows no element of it.

import { CallAudio } from "./audio.js";
import { decodePcm, encodePcm } from "./base64.js";
import { Problem } from "./causes.js";
import { Connection, address } from "./connection.js";
import { fromProblem, providerEvidence } from "./failure.js";
import { LiveApi } from "./live.js";
import { RealtimeApi } from "./realtime.js";
import { Stages } from "./stages.js";
import { Timing } from "./timing.js";

/** @typedef {import("./events.js").Options} Options */
/** @typedef {import("./events.js").Role} Role */
/** @typedef {import("./failure.js").Failure} Failure */
/** @typedef {"starting" | "open" | "ending" | "ended"} State */
/** @typedef {"relay" | "provider" | "ready" | "answer" | "gaps"} Figure */

/**
 * @typedef {object} View what the page shows of a call
 * @property {(state: State) => void} state
 * @property {(stages: readonly import("./stages.js").Stage[]) => void} stages
 * @property {(failure: Failure, isFatal: boolean) => void} failure
 * @property {(text: string) => void} note
 * @property {(direction: "sent" | "received" | "page", event: any) => void} log
 * @property {(role: Role, item: string, text: string, isWhole: boolean) => void} text
 * @property {(item: string) => void} interrupted
 * @property {(side: Role, level: number) => void} level
 * @property {(figure: Figure, value: number, more?: number | null) => void} figure
 * @property {(kind: "speech" | "answer" | "stop") => void} mark in the plot
 */

const SAMPLE = "sample.wav";
const READY_SECONDS = 20;
const CLOSE_SECONDS = 15;
const PING_SECONDS = 5;
const PING_TIMEOUT_SECONDS = 10;
const SILENCE_SECONDS = 6;
const SILENT = 0.0004;
const TAIL_MS = 2_000; // of silence behind the sample sentence, in which the provider finds its end
const MIN_PRESS_CHUNKS = 3; // 120 ms; the provider refuses less than 100
const CHUNK_MS = 40;

export class Call {
  isMuted = false;
  /** @type {State} */ #state = "starting";
  /** @type {number[]} */ #timers = [];
  #isPressed = false;
  #isUnanswered = false;
  /** @type {import("./events.js").WireError | null} */ #providerError = null;
  #pressedChunks = 0;
  #tailUntil = 0;
  #gaps = 0;
  #openedAt = 0;
  #updateSentAt = 0;
  #timing = new Timing();
  #options;
  #view;
  #stages;
  #audio;
  #api;
  #connection;

  /** @param {Options} options @param {View} view */
  constructor(options, view) {
    this.#options = options;
    this.#view = view;
    this.#stages = new Stages(view.stages);
    this.#api = new (options.api === "live" ? LiveApi : RealtimeApi)(options, this.#sink());
    this.#audio = new CallAudio({
      onChunk: (pcm, level, isRecording) => this.#hear(pcm, level, isRecording),
      onRecordingEnded: () => this.#sampleEnded(),
      onMicrophoneLost: () => view.failure(fromProblem(new Problem("microphone_lost")), false),
      onLevel: (level) => view.level("assistant", level),
      onAudible: () => this.#audible(),
      onEnded: () => undefined,
      onGap: () => view.figure("gaps", (this.#gaps += 1)),
    });
    const url = address(this.#api.path, this.#api.query, options.query);
    this.#connection = new Connection(url, options.token, {
      onOpen: () => this.#opened(),
      onEvent: (event) => this.#receive(event),
      onEnd: (failure) => {
        if (!failure) view.note("The provider has closed the call.");
        this.#ended(failure);
      },
    });
    view.log("page", { type: "page.call", url: url.href, api: options.api });
  }

  get state() {
    return this.#state;
  }

  get canText() {
    return this.#api.canText;
  }

  /** Opens microphone, loudspeaker and connection. Failures go to the view. */
  async start() {
    this.#setState("starting");
    try {
      await this.#openAudio();
      if (this.#state !== "starting") return;
      this.#stages.begin("connecting");
      await this.#ping();
      if (this.#state !== "starting") return;
      await this.#audio.connect(this.#api.buffering);
      if (this.#state !== "starting") return;
      this.#stages.pass("connecting");
      this.#stages.begin("upgrade");
      this.#openedAt = performance.now();
      this.#connection.open();
    } catch (error) {
      if (this.#state === "ended") return;
      this.#ended(fromProblem(error instanceof Problem ? error : new Problem("audio_blocked", [["browser", String(error)]])));
    }
  }

  async #openAudio() {
    const { withMicrophone } = this.#options;
    if (withMicrophone) this.#stages.begin("microphone");
    await this.#audio.open(withMicrophone);
    if (this.#state !== "starting") return;
    if (!withMicrophone) return this.#stages.skip("microphone");
    this.#stages.pass("microphone");
    this.#view.log("page", { type: "page.microphone", name: this.#audio.microphone });
  }

  /** Asks the relay whether it lives, and shows the time. Raises Problem. */
  async #ping() {
    const begun = performance.now();
    try {
      const response = await fetch("livez", { cache: "no-store", signal: AbortSignal.timeout(PING_TIMEOUT_SECONDS * 1000) });
      await response.text();
    } catch (error) {
      throw new Problem("relay_unreachable", [["address", location.origin], ["browser", String(error)]]);
    }
    this.#view.figure("relay", performance.now() - begun);
  }

  #opened() {
    this.#stages.pass("upgrade");
    this.#stages.begin("first event");
    this.#after(READY_SECONDS, () => this.#stages.list[4]?.state !== "ok" && this.#fail(new Problem("no_response", [["waited", `${READY_SECONDS} s for the session`], ...providerEvidence(this.#providerError)])));
    this.#api.opened();
  }

  /** @param {any} event */
  #receive(event) {
    this.#view.log("received", event);
    if (event.type === "relay.draining") {
      this.#view.note(`The relay is about to stop: this call ends in ${Math.ceil(Number(event.closes_in_seconds ?? 0))} s. ${event.remedy ?? ""}`);
    }
    this.#api.read(event);
  }

  /** @param {Record<string, unknown>} event */
  #send(event) {
    if (event.type === "session.update") this.#updateSentAt = performance.now();
    this.#view.log("sent", event);
    this.#connection.send(event);
  }

  /** @returns {import("./events.js").Sink} */
  #sink() {
    return {
      send: (event) => this.#send(event),
      onFirstEvent: () => {
        this.#stages.pass("first event");
        this.#stages.begin("session ready");
      },
      onReady: () => this.#ready(),
      onSpeechStarted: () => this.#speechStarted(),
      onSpeechStopped: () => this.#timing.turnEnded(performance.now(), true),
      onHeard: () => this.#stages.pass("speech heard"),
      onAudio: (item, base64) => !this.#api.isStale(item) && this.#audio.play(item, decodePcm(base64)),
      onAudioEnd: (item) => this.#audio.end(item),
      onText: (role, item, text, isWhole) => !(role === "assistant" && this.#api.isStale(item)) && this.#view.text(role, item, text, isWhole),
      onNote: (text) => this.#view.note(text),
      onError: (error) => this.#error(error),
      onClosed: () => this.#ended(null),
    };
  }

  #ready() {
    this.#stages.pass("session ready");
    this.#view.figure("ready", performance.now() - this.#openedAt);
    if (this.#updateSentAt) this.#view.figure("provider", performance.now() - this.#updateSentAt);
    this.#setState("open");
    this.#stages.begin("speech heard");
    this.#every(PING_SECONDS, () => void this.#ping().then(() => (this.#isUnanswered = false), (problem) => this.#unanswered(problem)));
    if (this.#audio.hasMicrophone) this.#after(SILENCE_SECONDS, () => this.#checkSilence());
  }

  /** A dead network closes no WebSocket for minutes. @param {Problem} problem */
  #unanswered(problem) {
    if (this.#state === "open" && !this.#isUnanswered) this.#view.failure(fromProblem(problem), false);
    this.#isUnanswered = true;
  }

  #checkSilence() {
    if (this.#timing.loudest < SILENT) this.#view.failure(fromProblem(new Problem("microphone_silent", [["microphone", this.#audio.microphone]])), false);
  }

  /** @param {import("./events.js").WireError} error */
  #error(error) {
    if (error.type === "relay_error") {
      // The relay dials before it answers the upgrade, except for GPT-Live, where the provider refuses the start.
      if (this.#stages.list[3]?.state !== "ok") this.#stages.fail(this.#options.api === "live" && error.upstream_code ? "first event" : "upgrade");
      return;
    }
    this.#providerError = error;
    this.#view.note(`The provider reports an error: ${[error.code, error.message].filter(Boolean).join(": ")}`);
  }

  /** @param {Int16Array} pcm @param {number} level @param {boolean} isRecording */
  #hear(pcm, level, isRecording) {
    const now = performance.now();
    const isSilenced = this.#options.isHandsFree ? this.isMuted && !isRecording : !this.#isPressed;
    this.#view.level("user", isSilenced ? 0 : level);
    if (this.#state !== "open") return;
    if (!isSilenced && this.#timing.heard(level, now)) this.#onset();
    if (isRecording) this.#tailUntil = now + TAIL_MS;
    if (this.#isPressed) this.#pressedChunks += 1;
    const isSent = this.#api.needsSilence || (this.#options.isHandsFree ? this.#audio.hasMicrophone || now < this.#tailUntil : this.#isPressed);
    if (isSent) this.#api.appendAudio(encodePcm(isSilenced ? new Int16Array(pcm.length) : pcm));
  }

  #onset() {
    this.#view.mark("speech");
    if (this.#stages.list[5]?.state === "running") this.#stages.begin("speech heard", this.#timing.onset);
  }

  #speechStarted() {
    this.#stages.pass("speech heard");
    void this.#interrupt();
  }

  /** Stops the assistant at once, and reports to the provider how much was heard. */
  async #interrupt() {
    if (!this.#api.canText) return; // GPT-Live falls silent by itself
    const stopped = await this.#audio.stop();
    if (!stopped?.wasPlaying) return;
    this.#view.mark("stop");
    this.#view.interrupted(stopped.item);
    this.#api.interrupted(stopped.item, stopped.playedMs);
  }

  #audible() {
    const now = performance.now();
    const ms = this.#timing.audible(now, this.#api.canText);
    if (ms === null) return;
    this.#view.mark("answer");
    this.#view.figure("answer", ms, this.#timing.median);
    if (this.#stages.list[5]?.state === "running") this.#stages.skip("speech heard");
    if (this.#stages.list[6]?.state !== "ok") this.#stages.begin("first audio", now - ms);
    this.#stages.pass("first audio");
  }

  /** Push-to-talk: the user begins. */
  press() {
    if (this.#state !== "open" || this.#options.isHandsFree || this.#isPressed) return;
    this.#isPressed = true;
    this.#pressedChunks = 0;
    void this.#interrupt();
    this.#api.press();
  }

  /** Push-to-talk: the user has ended. */
  release() {
    if (!this.#isPressed) return;
    this.#isPressed = false;
    if (this.#pressedChunks < MIN_PRESS_CHUNKS) return this.#view.note(`Hold the key while you speak, for at least ${MIN_PRESS_CHUNKS * CHUNK_MS} ms.`);
    this.#timing.turnEnded(performance.now(), false);
    this.#api.release();
  }

  /** Speaks the sample sentence in place of the user. */
  async sample() {
    try {
      if (!this.#options.isHandsFree) this.press();
      await this.#audio.speak(SAMPLE);
    } catch (error) {
      this.#isPressed = false;
      this.#view.note(`The sample sentence cannot be loaded: ${error}`);
    }
  }

  #sampleEnded() {
    if (!this.#options.isHandsFree) this.release();
  }

  /** Sends a text in place of speech. @param {string} text */
  say(text) {
    void this.#interrupt();
    this.#timing.turnEnded(performance.now(), false);
    this.#view.text("user", `text-${performance.now()}`, text, true);
    this.#api.say(text);
  }

  /** Ends the call in order. */
  end() {
    if (this.#state === "ending" || this.#state === "ended") return;
    if (this.#state !== "open" || !this.#api.close()) return this.#ended(null);
    this.#setState("ending");
    this.#after(CLOSE_SECONDS, () => this.#ended(null));
  }

  /** @param {Problem} problem */
  #fail(problem) {
    this.#ended(fromProblem(problem));
  }

  /** @param {Failure | null} failure */
  #ended(failure) {
    if (this.#state === "ended") return;
    if (failure && this.#state === "starting") this.#stages.fail();
    else this.#stages.settle();
    this.#setState("ended");
    this.#connection.end();
    for (const timer of this.#timers) window.clearInterval(timer); // also ends a timeout
    void this.#audio.close();
    this.#view.level("user", 0);
    this.#view.level("assistant", 0);
    this.#view.log("page", { type: "page.ended", ...(failure ?? {}) });
    if (failure) this.#view.failure(failure, true);
  }

  /** @param {State} state */
  #setState(state) {
    this.#state = state;
    this.#view.state(state);
  }

  /** @param {number} seconds @param {() => void} action */
  #after(seconds, action) {
    this.#timers.push(window.setTimeout(action, seconds * 1000));
  }

  /** @param {number} seconds @param {() => void} action */
  #every(seconds, action) {
    this.#timers.push(window.setInterval(action, seconds * 1000));
  }
}
