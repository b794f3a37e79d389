// openai-node: its Realtime socket. It accepts only wss.
import OpenAI from "openai";
import { OpenAIRealtimeWS } from "openai/realtime/ws";
import { QUERY, TOKEN, URL, Playback, microphone, problem } from "./common.mjs";

const client = new OpenAI({ apiKey: TOKEN, baseURL: QUERY ? `${URL}?${QUERY}` : URL });
const socket = await OpenAIRealtimeWS.create(client, { model: "gpt-realtime" });
const playback = new Playback();
let isOver = false;
socket.on("error", (error) => problem(`${error.message} ${JSON.stringify(error.error ?? null)}`));
socket.on("response.output_audio.delta", ({ item_id, delta }) => playback.add(item_id, Buffer.from(delta, "base64")));
socket.on("input_audio_buffer.speech_started", () => {
  const cut = playback.interrupt();
  if (cut) socket.send({ type: "conversation.item.truncate", item_id: cut[0], content_index: 0, audio_end_ms: cut[1] });
});
socket.socket.on("close", (code) => {
  if (!isOver) problem(`closed with ${code}`);
});
await new Promise((resolve) => socket.socket.once("open", resolve));
const input = { turn_detection: { type: "server_vad" }, transcription: { model: "gpt-4o-mini-transcribe" } };
socket.send({ type: "session.update", session: { type: "realtime", audio: { input } } });
for await (const chunk of microphone()) {
  socket.send({ type: "input_audio_buffer.append", audio: chunk.toString("base64") });
}
isOver = true;
socket.close();
