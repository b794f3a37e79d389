// The Realtime API, version GA: https://platform.openai.com/docs/guides/realtime

/** @typedef {import("./events.js").Options} Options */
/** @typedef {import("./events.js").Sink} Sink */
/** @typedef {import("./events.js").Api} Api */

const FORMAT = Object.freeze({ type: "audio/pcm", rate: 24_000 });
const TRANSCRIPTION_MODEL = "gpt-4o-mini-transcribe";

/** @implements {Api} */
export class RealtimeApi {
  path = "v1/realtime";
  buffering = { leadMs: 60, maxSilenceMs: Infinity };
  needsSilence = false;
  canText = true;
  #options;
  #sink;
  #isStarted = false;
  #response = ""; // the id of the response in progress
  #cancelled = ""; // the id of the last one that was cancelled; what it sent before that is still on its way
  /** @type {Set<string>} */ #stale = new Set();

  /** @param {Options} options @param {Sink} sink */
  constructor(options, sink) {
    this.#options = options;
    this.#sink = sink;
  }

  get query() {
    return { model: this.#options.model };
  }

  opened() {}

  #configure() {
    const { voice, isHandsFree } = this.#options;
    const input = { format: FORMAT, transcription: { model: TRANSCRIPTION_MODEL }, turn_detection: isHandsFree ? { type: "server_vad" } : null };
    const output = { format: FORMAT, ...(voice ? { voice } : {}) };
    this.#sink.send({ type: "session.update", session: { type: "realtime", output_modalities: ["audio"], audio: { input, output } } });
  }

  /** @param {any} event */
  read(event) {
    const sink = this.#sink;
    if (event.response_id && event.response_id === this.#cancelled && /\.(delta|done)$/.test(event.type)) return undefined;
    switch (event.type) {
      case "session.created":
        sink.onFirstEvent();
        return this.#configure();
      case "session.updated":
        if (!this.#isStarted) sink.onReady();
        this.#isStarted = true;
        return undefined;
      case "input_audio_buffer.speech_started":
        return sink.onSpeechStarted();
      case "input_audio_buffer.speech_stopped":
        return sink.onSpeechStopped();
      case "input_audio_buffer.committed":
        return sink.onHeard();
      case "conversation.item.input_audio_transcription.delta":
        return sink.onText("user", event.item_id, event.delta ?? "", false);
      case "conversation.item.input_audio_transcription.completed":
        return sink.onText("user", event.item_id, event.transcript ?? "", true);
      case "response.created":
        this.#response = event.response?.id ?? "";
        return undefined;
      case "response.output_audio.delta":
        return sink.onAudio(event.item_id, event.delta);
      case "response.output_audio.done":
        return sink.onAudioEnd(event.item_id);
      case "response.output_audio_transcript.delta":
      case "response.output_text.delta":
        return sink.onText("assistant", event.item_id, event.delta ?? "", false);
      case "response.output_audio_transcript.done":
        return sink.onText("assistant", event.item_id, event.transcript ?? "", true);
      case "response.output_text.done":
        return sink.onText("assistant", event.item_id, event.text ?? "", true);
      case "response.done":
        return this.#done(event.response);
      case "error":
        return sink.onError(event.error ?? {});
    }
  }

  /** @param {any} response */
  #done(response) {
    if (response?.id === this.#response) this.#response = "";
    const error = response?.status_details?.error;
    if (response?.status === "failed" && error) this.#sink.onError({ ...error, message: error.message ?? "The response failed." });
  }

  /** @param {string} base64 */
  appendAudio(base64) {
    this.#sink.send({ type: "input_audio_buffer.append", audio: base64 });
  }

  #cancel() {
    if (!this.#response) return;
    this.#cancelled = this.#response;
    this.#sink.send({ type: "response.cancel", response_id: this.#response });
  }

  press() {
    this.#cancel();
    this.#sink.send({ type: "input_audio_buffer.clear" });
  }

  release() {
    this.#sink.send({ type: "input_audio_buffer.commit" });
    this.#sink.send({ type: "response.create" });
  }

  /** @param {string} text */
  say(text) {
    this.#cancel();
    this.#sink.send({ type: "conversation.item.create", item: { type: "message", role: "user", content: [{ type: "input_text", text }] } });
    this.#sink.send({ type: "response.create" });
  }

  /** @param {string} item @param {number} playedMs */
  interrupted(item, playedMs) {
    if (!item || this.#stale.has(item)) return;
    this.#stale.add(item);
    this.#sink.send({ type: "conversation.item.truncate", item_id: item, content_index: 0, audio_end_ms: Math.floor(playedMs) });
  }

  /** @param {string} item */
  isStale(item) {
    return this.#stale.has(item);
  }

  close() {
    return false;
  }
}
