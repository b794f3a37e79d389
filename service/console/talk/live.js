// GPT-Live: the client speaks first, input audio is the clock, and audio comes without turns.

/** @typedef {import("./events.js").Options} Options */
/** @typedef {import("./events.js").Sink} Sink */
/** @typedef {import("./events.js").Api} Api */

const ITEM = "live";
const PAUSE_MS = 1_500; // between two words of one side: a new paragraph of the transcript

/** @implements {Api} */
export class LiveApi {
  path = "v1/live/sessions";
  query = {};
  buffering = { leadMs: 160, maxSilenceMs: 400 };
  needsSilence = true;
  canText = false;
  #options;
  #sink;
  #isStarted = false;
  #said = { role: "", end: 0, count: 0 };

  /** @param {Options} options @param {Sink} sink */
  constructor(options, sink) {
    this.#options = options;
    this.#sink = sink;
  }

  opened() {
    const { model, voice } = this.#options;
    this.#sink.send({ type: "session.start", session: { model, ...(voice ? { audio: { output: { voice } } } : {}) } });
  }

  /** @param {any} event */
  read(event) {
    const sink = this.#sink;
    switch (event.type) {
      case "session.started":
        sink.onFirstEvent();
        this.#isStarted = true;
        return sink.onReady();
      case "session.output_audio.delta":
        return sink.onAudio(ITEM, event.delta);
      case "session.input_transcript.delta":
        sink.onHeard();
        return this.#text("user", event);
      case "session.output_transcript.delta":
        return this.#text("assistant", event);
      case "session.closed":
        this.#isStarted = false;
        sink.onNote(`The session is closed (${event.reason}); billed: ${Number(event.usage?.seconds ?? 0).toFixed(1)} s.`);
        return event.reason === "close_requested" ? sink.onClosed() : undefined;
      case "error":
        return sink.onError(event.error ?? {});
    }
  }

  /** @param {import("./events.js").Role} role @param {any} event */
  #text(role, event) {
    const start = Number(event.start_ms ?? 0);
    const isNew = role !== this.#said.role || start - this.#said.end > PAUSE_MS;
    this.#said = { role, end: Number(event.end_ms ?? start), count: this.#said.count + (isNew ? 1 : 0) };
    this.#sink.onText(role, `${ITEM}-${this.#said.count}`, event.delta ?? "", false);
  }

  /** @param {string} base64 */
  appendAudio(base64) {
    if (this.#isStarted) this.#sink.send({ type: "session.input_audio.append", audio: base64 });
  }

  press() {}

  release() {}

  say() {}

  interrupted() {}

  isStale() {
    return false;
  }

  close() {
    if (this.#isStarted) this.#sink.send({ type: "session.close" });
    return this.#isStarted;
  }
}
