// @openai/agents-realtime: an agent in a RealtimeSession over a WebSocket.
import { RealtimeAgent, RealtimeSession } from "@openai/agents-realtime";
import { TOKEN, microphone, play, problem, websocketUrl } from "./common.mjs";

const agent = new RealtimeAgent({ name: "agent", instructions: "Be brief." });
const session = new RealtimeSession(agent, { transport: "websocket", model: "gpt-realtime" });
session.on("audio", ({ data }) => play(Buffer.from(data)));
session.on("error", ({ error }) => problem(JSON.stringify(error) ?? String(error)));
await session.connect({ apiKey: TOKEN, url: websocketUrl() });
for await (const chunk of microphone()) {
  session.sendAudio(chunk.buffer.slice(chunk.byteOffset, chunk.byteOffset + chunk.length));
}
session.close();
