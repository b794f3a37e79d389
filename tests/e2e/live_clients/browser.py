"""The page of docs/clients.md in Chromium, whose microphone plays a recording. Nothing drives the browser: a probe does."""

import asyncio
import base64
import json
import os
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from tests.e2e.live_clients.outcome import ClientFailed, Outcome

_SECONDS: Final = 180  # only a hang lasts longer
_RATE: Final = 24_000
_LEAD: Final = bytes(_RATE * 2)  # a second of silence, in which the session starts
_FLAGS: Final = (
    "--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--autoplay-policy=no-user-gesture-required",
)  # fmt: skip
_PROBE: Final = """
<script>
  // Records what the page sends and receives, starts it, and stops it when the answer has been heard to its end.
  const sent = [], received = [];
  let isAnswered = false, silentFrames = 0;
  const report = (result) => fetch("/result", { method: "POST", body: JSON.stringify(result) });
  const listen = (delta) => {
    received.push(delta);
    const isSilent = [...atob(delta)].every((character) => character === "\\0");
    isAnswered ||= !isSilent;
    silentFrames = isSilent ? silentFrames + 1 : 0;
    if (isAnswered && silentFrames === 8) document.getElementById("stop").click();
  };
  window.WebSocket = class extends WebSocket {
    constructor(...words) {
      super(...words);
      this.addEventListener("message", ({ data }) => {
        const event = JSON.parse(data);
        if (event.type === "session.output_audio.delta") listen(event.delta);
      });
      this.addEventListener("close", ({ code }) => setTimeout(() => report({
        sent, received, code, protocol: this.protocol, words: document.getElementById("words").textContent,
      })));
    }
    send(data) {
      const event = JSON.parse(data);
      if (event.type === "session.input_audio.append") sent.push(event.audio);
      super.send(data);
    }
  };
  addEventListener("error", ({ message }) => report({ problem: message }));
  addEventListener("unhandledrejection", ({ reason }) => report({ problem: String(reason) }));
  addEventListener("load", () => document.getElementById("start").click());
</script>
"""


async def run(chromium: Path, page: str, folder: Path, speech: bytes) -> Outcome:
    """Open a page with buttons `start` and `stop` and a paragraph `words`. Raises ClientFailed."""
    recording = folder / "speech.wav"
    with wave.open(str(recording), "wb") as file:
        file.setparams((1, 2, _RATE, 0, "NONE", "not compressed"))
        file.writeframes(_LEAD + speech + _LEAD * 20)
    result: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    async with (
        _server(page.replace("<script", f"{_PROBE}<script", 1), result) as url,
        _browser(chromium, folder, recording, url),
    ):
        try:
            found = await asyncio.wait_for(result, _SECONDS)
        except TimeoutError:
            log = (folder / "chromium.log").read_text(errors="replace")
            raise ClientFailed(f"the page did not finish within {_SECONDS} s:\n{log[-3000:]}") from None
    if "problem" in found:
        raise ClientFailed(f"the page failed: {found['problem']}")
    if found["protocol"] != "realtime":
        raise ClientFailed(f"the relay accepted the subprotocol {found['protocol']!r}")
    sent, received = (b"".join(map(base64.b64decode, found[name])) for name in ("sent", "received"))
    return Outcome(sent=sent, received=received, output=f"{found['words']}, close {found['code']}")


@asynccontextmanager
async def _server(page: str, result: asyncio.Future[dict[str, Any]]) -> AsyncIterator[str]:
    async def show(_: web.Request) -> web.Response:
        return web.Response(text=page, content_type="text/html")

    async def take(request: web.Request) -> web.Response:
        found = json.loads(await request.read())
        if not result.done():
            result.set_result(found)
        return web.Response()

    application = web.Application(client_max_size=64 << 20)
    application.router.add_get("/", show)
    application.router.add_post("/result", take)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _browser(chromium: Path, folder: Path, recording: Path, url: str) -> AsyncIterator[None]:
    flags = [*_FLAGS, f"--user-data-dir={folder / 'profile'}", f"--use-file-for-fake-audio-capture={recording}%noloop"]
    if os.geteuid() == 0:
        flags.append("--no-sandbox")  # Chromium refuses to run as root with it
    with (folder / "chromium.log").open("wb") as log:
        child = await asyncio.create_subprocess_exec(str(chromium), *flags, url, stdout=log, stderr=log)
    try:
        yield
    finally:
        if child.returncode is None:
            child.terminate()
        try:
            await asyncio.wait_for(child.wait(), 20)
        except TimeoutError:
            child.kill()
            await child.wait()
