"""Ways round a budget that a client could try, each over sockets. The table in docs/clients-and-limits.md lists them."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from service.realtime.frames import Opcode, build_frame
from service.realtime.incidents import TRANSCRIPTION_COMPLETED
from service.realtime.pricing import cost_usd
from service.realtime.usage import parse_usage
from service.relay.response_counter import MAX_RESPONSES
from service.store.memory import MemoryBackend
from service.store.periods import DAY_MS
from tests.clients_file.relays import TOKENS, connect, refusal, relay_of, table, write
from tests.clients_file.test_budgets import next_of, respond, spent_by
from tests.support.harness import RawClient, Relay, eventually, open_raw
from tests.support.live_upstream import START, LiveConnection, LiveUpstream, closed, live_connection
from tests.support.raw_websocket_server import CREATED, Script, ServerConnection
from tests.support.scripted_upstream import PATH, scripted_relay
from tests.support.simulator_client import speech

_RATES: Final = "unpriced_usd_per_million_tokens = 100\nunpriced_usd_per_minute = 1"
_USAGE: Final = {
    "total_tokens": 50,
    "input_tokens": 10,
    "output_tokens": 40,
    "input_token_details": {"text_tokens": 10},
    "output_token_details": {"text_tokens": 40},
}
_MASK: Final = b"\1\2\3\4"


class Provider:
    """Runs all the responses that it is asked for at once, as the provider does out of band; each has 50 tokens.

    `answers_cancel` says whether `response.cancel` ends one of them. `ends` is set to end all.
    """

    def __init__(self, *, answers_cancel: bool = True, usage: Any = _USAGE) -> None:
        self.requested = 0
        self.usage = usage
        self.answers_cancel = answers_cancel
        self.ends = asyncio.Event()

    async def __call__(self, connection: ServerConnection) -> None:
        """The script of a connection."""
        connection.send(CREATED)
        ending = asyncio.ensure_future(self._end_all(connection))
        async for message in connection.messages():
            try:
                event = json.loads(message)
            except UnicodeDecodeError:
                connection.send_close(1007)
                break
            if event["type"] == "response.create":
                self.requested += 1
                connection.send(b'{"type":"response.created","response":{"id":"resp_1"}}')
                connection.send(json.dumps({"type": "response.output_audio.delta", "delta": "A" * 64_000}).encode())
            elif event["type"] == "response.cancel" and self.answers_cancel:
                self._end(connection)
        ending.cancel()

    async def _end_all(self, connection: ServerConnection) -> None:
        await self.ends.wait()
        for _ in range(self.requested):
            self._end(connection)

    def _end(self, connection: ServerConnection) -> None:
        response = {"status": "completed", "usage": self.usage}
        connection.send(json.dumps({"type": "response.done", "response": response}).encode())


@asynccontextmanager
async def provided(
    path: Path, provider: Script, limits: str, **settings: Any
) -> AsyncIterator[tuple[Relay, RawClient]]:
    """A relay on this provider, and its client."""
    write(path, table("kiosk", limits))
    async with scripted_relay(provider, RELAY_CLIENTS_FILE=str(path), **settings) as (relay, _):
        client = await open_raw(relay.app.public_port, PATH, {"Authorization": f"Bearer {TOKENS['kiosk']}"})
        try:
            yield relay, client
        finally:
            await client.close()


async def tokens_at_the_end(relay: Relay) -> int:
    """What its sessions have spent."""
    await eventually(lambda: relay.metric("realtime_relay_sessions_active") == 0)
    return (await spent_by(relay)).tokens


def live_client(
    path: Path, upstream: LiveUpstream, limits: str, **settings: Any
) -> AbstractAsyncContextManager[LiveConnection]:
    """A relay on this GPT-Live, and its client."""
    write(path, table("kiosk", limits))
    headers = {"Authorization": f"Bearer {TOKENS['kiosk']}"}
    return live_connection(upstream, headers=headers, RELAY_CLIENTS_FILE=str(path), **settings)


_HIDDEN: Final = {
    "plain": '{"type":"response.create","response":{"conversation":"none"}}',
    "last of two types": '{"type":"input_audio_buffer.append","audio":"AAAA","type":"response.create"}',
    "escaped": '{"x":1,"t\\u0079pe":"response.cre\\u0061te"}',
    "behind audio": '{"type":"input_audio_buffer.append","audio":"' + "A" * 100_000 + '","type":"response.create"}',
}


@pytest.mark.parametrize("way", _HIDDEN)
async def test_responses_out_of_band_cannot_exceed_a_budget_together(way: str, path: Path) -> None:
    """Requested in one write, however the request is written: at most four run, and the session ends after them."""
    provider = Provider()
    async with provided(path, provider, "tokens_per_session = 60") as (_, client):
        request = build_frame(Opcode.TEXT, _HIDDEN[way].encode(), _MASK)
        client.writer.write(request * 20)
        refused = [(await next_of(client, "error"))["error"]["code"] for _ in range(20 - MAX_RESPONSES)]
        assert ({"too_many_responses"}, MAX_RESPONSES) == (set(refused), provider.requested)
        provider.ends.set()

        assert "budget_exhausted" == (await next_of(client, "error"))["error"]["code"]
        assert provider.requested == MAX_RESPONSES


async def test_request_that_is_refused_names_its_event_and_the_session_goes_on(path: Path) -> None:
    """Once a response has ended the next one can be requested."""
    provider = Provider()
    async with provided(path, provider, "tokens_per_session = 9999") as (_, client):
        for number in range(MAX_RESPONSES + 1):
            client.send_event(type="response.create", event_id=f"mine_{number}")
        error = (await next_of(client, "error"))["error"]
        assert ("too_many_responses", "mine_4", "now") == (error["code"], error["event_id"], error["retry"])
        provider.ends.set()
        for _ in range(MAX_RESPONSES):
            await next_of(client, "response.done")
        client.send_event(type="response.create")
        assert "response.created" == (await next_of(client, "response.created", "error"))["type"]


async def test_session_without_a_budget_in_responses_has_no_limit_on_them(path: Path) -> None:
    """Its events pass unread."""
    provider = Provider()
    async with provided(path, provider, "minutes_per_day = 5") as (_, client):
        for _ in range(MAX_RESPONSES + 1):
            client.send_event(type="response.create")
        await eventually(lambda: provider.requested == MAX_RESPONSES + 1)


@pytest.mark.parametrize("leave", ["half a frame", "half a message"])
async def test_client_that_leaves_within_a_message_pays_for_its_response(leave: str, path: Path) -> None:
    """Upstream got nothing of that message, so the relay can cancel the response and read its tokens."""
    async with provided(path, Provider(), "tokens_per_day = 9999") as (relay, client):
        client.send_event(type="response.create")
        await next_of(client, "response.output_audio.delta")
        if leave == "half a frame":
            event = b'{"type":"input_audio_buffer.append","audio":"' + b"A" * 200_000
            client.writer.write(build_frame(Opcode.TEXT, event, _MASK)[:150_000])
        else:
            frame = build_frame(Opcode.TEXT, b'{"type":"input_audio_buffer.', _MASK)
            client.writer.write(bytes([frame[0] & 0x7F]) + frame[1:])  # without FIN
        await client.writer.drain()
        client.reset()
        assert 50 == await tokens_at_the_end(relay)


async def test_response_whose_tokens_never_arrive_counts_by_what_was_heard(path: Path) -> None:
    """The client makes the provider close the connection, with text that is not UTF-8: 20 tokens are a second of audio."""
    records = path.with_name("records.jsonl")
    async with provided(path, Provider(), "tokens_per_day = 9999", RELAY_RECORDS=str(records)) as (relay, client):
        client.send_event(type="response.create")
        await next_of(client, "response.output_audio.delta")
        client.send_frame(Opcode.TEXT, b'{"type":"x","y":"\xff"}')
        assert {} == await next_of(client, "never")
        await client.close()
        assert 20 == await tokens_at_the_end(relay)
        await eventually(lambda: records.exists() and records.read_text().endswith("\n"))
    record = json.loads(records.read_text())
    assert (20, False) == (record["tokens"]["total"], record["usage_confirmed"])


async def test_provider_that_does_not_answer_the_cancellation_changes_nothing(path: Path) -> None:
    """The first response had 50 tokens, the context of the second: with it and a second of audio 120 in all."""
    provider = Provider(answers_cancel=False)
    async with provided(path, provider, "tokens_per_day = 9999") as (relay, client):
        client.send_event(type="response.create")
        await next_of(client, "response.output_audio.delta")
        provider.ends.set()
        await next_of(client, "response.done")
        client.send_event(type="response.create")
        await next_of(client, "response.output_audio.delta")
        client.reset()
        assert 120 == await tokens_at_the_end(relay)


@pytest.mark.parametrize("usage", [None, {"total_tokens": 50}])
@pytest.mark.parametrize("limits", ["tokens_per_day = 9999", f"usd_per_session = 9\n{_RATES}"])
async def test_session_ends_where_the_provider_reports_no_tokens(limits: str, usage: Any, path: Path) -> None:
    """Missing or inconsistent: no budget could hold, also with a price of the operator."""
    provider = Provider(usage=usage)
    async with provided(path, provider, limits) as (relay, client):
        client.send_event(type="response.create")
        await next_of(client, "response.output_audio.delta")
        provider.ends.set()
        await next_of(client, "response.done")
        error = (await next_of(client, "error"))["error"]
        assert "budget_exhausted" == error["code"]
        assert "budgets in minutes instead" in error["remedy"]
        await client.close()
        await eventually(lambda: bool(relay.events("session.ended")))
        assert "a response or transcription without its usage" == relay.events("session.ended")[0]["detail"]


@pytest.mark.parametrize("kind", ["transcription", "realtime"])
async def test_transcription_counts_and_ends_a_session(kind: str, path: Path) -> None:
    """Of a transcription session, and of the input of a conversation, whose client requests no response."""
    url = "/v1/realtime?" + ("intent=transcription" if kind == "transcription" else "model=gpt-realtime")
    turn = {"turn_detection": None, "transcription": {"model": "gpt-4o-transcribe"}}
    async with relay_of(path, table("kiosk", "usd_per_day = 0.00001")) as relay:
        client = await connect(relay, path=url)
        client.send_event(type="session.update", session={"type": kind, "audio": {"input": turn}})
        client.send_event(type="input_audio_buffer.append", audio=base64.b64encode(speech(2000)).decode())
        client.send_event(type="input_audio_buffer.commit")
        assert "budget_exhausted" == (await next_of(client, "error"))["error"]["code"]
        await client.close()
        assert (await spent_by(relay)).microusd >= 10


@pytest.mark.parametrize(
    ("usage", "detail"),
    [
        (None, "a response or transcription without its usage"),
        ({"type": "tokens", "total_tokens": 50}, "a response or transcription without its usage"),
        ({"type": "duration", "seconds": 6}, "tokens_per_session: 60 of 60 tokens used"),
        ({"type": "tokens", "input_tokens": 50, "output_tokens": 10}, "tokens_per_session: 60 of 60 tokens used"),
    ],
)
async def test_transcription_counts_tokens_or_ends_the_session(usage: Any, detail: str, path: Path) -> None:
    """Seconds count as tokens of audio; where nothing is reported no budget could hold."""

    async def transcribe(connection: ServerConnection) -> None:
        connection.send(CREATED)
        connection.send(json.dumps({"type": TRANSCRIPTION_COMPLETED, "transcript": "Rome", "usage": usage}).encode())
        await connection.until_close()

    async with provided(path, transcribe, "tokens_per_session = 60") as (relay, client):
        assert "budget_exhausted" == (await next_of(client, "error"))["error"]["code"]
        await client.close()
        await eventually(lambda: bool(relay.events("session.ended")))
    assert detail == relay.events("session.ended")[0]["detail"]


async def test_translation_counts_by_the_clock(path: Path) -> None:
    """Silence included: no event reports what it costs."""
    async with relay_of(path, table("kiosk", "usd_per_session = 0.001")) as relay:
        client = await connect(relay, path="/v1/realtime/translations?model=gpt-realtime-translate")
        assert "budget_exhausted" == (await next_of(client, "error"))["error"]["code"]
        await client.close()
        assert (402, "budget_exhausted") != await refusal(relay)


async def test_update_of_the_model_changes_neither_model_nor_price(path: Path) -> None:
    """The provider ignores it, and the price is that of the model in the URL."""
    async with relay_of(path, table("kiosk", "usd_per_day = 5")) as relay:
        client = await connect(relay, path="/v1/realtime?model=gpt-realtime-2.1")
        client.send_event(type="session.update", session={"type": "realtime", "model": "gpt-realtime-mini"})
        updated = (await next_of(client, "session.updated", "error"))["session"]
        usage = parse_usage((await respond(client))["response"]["usage"])
        await client.close()
        await eventually(lambda: relay.metric("realtime_relay_sessions_active") == 0)
        cost = cost_usd("gpt-realtime-2.1", usage)
        assert cost is not None
        assert "gpt-realtime-2.1" == updated["model"]
        assert cost * 1e6 == pytest.approx((await spent_by(relay)).microusd, abs=1)


async def test_update_of_gpt_live_to_a_model_without_a_price_is_refused(path: Path) -> None:
    """As at the start; the session goes on."""
    async with relay_of(path, table("kiosk", "usd_per_day = 1")) as relay:
        client = await connect(relay, path="/v1/live/sessions")
        client.send_event(type="session.start", session={"model": "gpt-live-1"})
        await next_of(client, "session.started")
        delegation = {"type": "responses", "responses": {"model": "gpt-5"}}
        client.send_event(type="session.update", session={"delegation": delegation})
        assert "model_refused" == (await next_of(client, "error", "session.updated"))["error"]["code"]
        await client.close()


@pytest.mark.parametrize("is_reported", [True, False])
async def test_start_of_gpt_live_whose_client_leaves_counts(is_reported: bool, path: Path) -> None:
    """By the usage that the provider reports when the relay closes the session, else by the clock."""
    records = path.with_name("records.jsonl")
    last = closed(seconds=12.0) if is_reported else {"type": "session.closed", "reason": "close_requested"}
    upstream = LiveUpstream(on_start=None, on_close=last)
    async with live_client(path, upstream, "usd_per_day = 9", RELAY_RECORDS=str(records)) as live:
        live.client.send_event(**START)
        await eventually(lambda: len(upstream.received) == 1)
        live.client.reset()
        assert "client_left" == (await live.failed())["reason"]
        await eventually(lambda: records.exists() and records.read_text().endswith("\n"))
        record = json.loads(records.read_text())
        spent = await spent_by(live.relay)
        assert spent.microusd == round(record["usd"] * 1_000_000)
        assert (10_000 == spent.microusd) == is_reported  # 12 seconds at 0.05 USD a minute
        assert spent.microusd > 0
    assert ("client_left", "live") == (record["reason"], record["api"])


async def test_gpt_live_ends_where_no_tokens_of_a_backend_model_are_reported(path: Path) -> None:
    """Also with a price of the operator for such models, which would be that of no token."""
    upstream = LiveUpstream()
    async with live_client(path, upstream, f"usd_per_day = 9\n{_RATES}") as live:
        live.client.send_event(**START)
        await next_of(live.client, "session.started")
        ended = {"type": "response.completed", "response": {"id": "resp_1", "model": "m"}}
        upstream.send({"type": "response.event", "event": ended})
        error = (await next_of(live.client, "error"))["error"]
        assert "budget_exhausted" == error["code"]
        assert "budgets in minutes instead" in error["remedy"]


async def test_clock_of_the_store_resets_a_budget_at_midnight_and_once(path: Path) -> None:
    """An open session goes on in the new day with a new budget. A clock that is set back afterwards gives no third one."""
    async with relay_of(path, table("kiosk", "tokens_per_day = 60")) as relay:
        backend = relay.app.store._backend
        assert isinstance(backend, MemoryBackend)
        state = backend._state
        real, shift = state._clock, 0
        state._clock = lambda: real() + shift
        open_all_night = await connect(relay)
        client = await connect(relay)
        while (await respond(client))["type"] != "error":
            pass
        await client.close()
        assert (402, "budget_exhausted") == await refusal(relay)

        shift = DAY_MS
        assert 0 == (await spent_by(relay)).tokens
        assert "response.done" == (await respond(open_all_night))["type"]
        while (await respond(open_all_night))["type"] == "response.done":
            pass
        await open_all_night.close()
        assert (402, "budget_exhausted") == await refusal(relay)
        shift = DAY_MS - 3_600_000 * (1 + (real() % DAY_MS) // 3_600_000)  # yesterday again
        assert (402, "budget_exhausted") == await refusal(relay)
