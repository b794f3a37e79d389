"""Secrets do not leak: every scenario uses five canaries, and every surface is searched for them."""

import io
import json
import logging
from collections.abc import Iterator

import aiohttp
import pytest
import structlog

from service.app import App
from service.settings import load_settings
from service.simulator import Simulator, SimulatorOptions
from service.simulator.scenarios import Scenario
from service.telemetry import logs
from tests.support.harness import QUIET_INTERVALS, RawClient, Relay, open_raw

TOKENS = ("CANARY1token-abcdefghijklmnop", "CANARY2token-abcdefghijklmnop")
CLIENT_KEY = "sk-CANARY3clients-own-key-123456"
PROMPT = "CANARY4 my secret plan"
KEY_TAIL = "CANARY5tail"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Collect the log as the process writes it."""
    stream = io.StringIO()
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    yield stream
    structlog.reset_defaults()
    root.handlers[:], root.level = before
    for name in ("aiohttp.access", "aiohttp.websocket"):
        logging.getLogger(name).disabled = False


async def read_all(client: RawClient) -> str:
    """Return everything that a client receives: status, headers, body, events, close reason."""
    received = [str(client.answer)]
    if client.answer.status == 101:
        client.send_event(type="session.update", session={"type": "realtime", "instructions": PROMPT})
        client.send_event(type="nonsense", text="x")
        for _ in range(3):
            event = await client.next_event()
            if event is None or event["type"] == "error":
                received.append(json.dumps(event))
                break
            # The upstream may echo to the client what the client itself has sent.
            received.append(json.dumps(event).replace(PROMPT, ""))
        if event is not None and event["error"]["type"] == "relay_error":
            received.append(str(await client.until_close()))
    await client.close()
    return " ".join(received)


async def surfaces(relay: Relay) -> str:
    """Return everything that an operator reads: metrics and health reports."""
    texts = [relay.metrics_text()]
    async with aiohttp.ClientSession() as session:
        for url in (relay.internal_url, relay.url):
            for path in ("/healthz?verbose", "/readyz", "/livez"):
                async with session.get(url + path) as response:
                    texts.append(await response.text() + str(response.headers))
    return " ".join(texts)


@pytest.mark.parametrize("scenario", [scenario.value for scenario in Scenario if not scenario.is_live_only])
async def test_no_surface_holds_a_secret(scenario: str, log: io.StringIO) -> None:
    """Key, tokens, a client's own key and a prompt: in no log line, metric, health report, body, event or close reason."""
    environ = {
        "OPENAI_API_KEY": f"sk-sim-{scenario}-CANARY0key-{KEY_TAIL}",
        "RELAY_CLIENT_TOKENS": f"{TOKENS[0]},web:{TOKENS[1]}",
        "RELAY_ACCESS": "tokens",
        "RELAY_PORT": "0",
        "RELAY_INTERNAL_PORT": "0",
        "RELAY_DIAL_TIMEOUT_SECONDS": "0.3",
        "RELAY_LOG_LEVEL": "debug",
    }
    async with Simulator(SimulatorOptions(pace=0, slow_first_event_seconds=0.1)) as simulator:
        app = App(load_settings(environ | {"OPENAI_BASE_URL": simulator.url}), intervals=QUIET_INTERVALS)
        logs.configure("json", "debug", app.redactor, log)
        await app.start()
        relay = Relay(app, [], simulator)
        texts = []
        try:
            requests = (
                {"Authorization": f"Bearer {TOKENS[0]}", "OpenAI-Organization": CLIENT_KEY},
                {"Sec-WebSocket-Protocol": f"openai-insecure-api-key.{TOKENS[1]}", "Origin": "http://localhost"},
                {"Authorization": f"Bearer {CLIENT_KEY}"},
            )
            texts += [await read_all(await open_raw(app.public_port, headers=headers)) for headers in requests]
            texts.append(await read_all(await open_raw(app.public_port, f"/v1/realtime?model=m&token={TOKENS[0]}")))
            texts.append(await surfaces(relay))
        finally:
            await app.drain()
            await app.stop()
    texts.append(log.getvalue())

    assert "service.started" in log.getvalue()
    assert [] == [text[max(0, text.find("CANARY") - 200) :][:400] for text in texts if "CANARY" in text]
    for line in log.getvalue().splitlines():
        assert {"timestamp", "level", "event"} <= json.loads(line).keys()
