"""Every failure that the demo client can cause, and the outcome that it expects.

Failures of the provider are scenarios of the simulator, selected with `?simulate=`. The demo client causes the failures of
clients itself. `reason` is the relay's reason, as in its log, its metrics and `docs/failures.md`.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from calls import MODEL, REALTIME_PATH, Call, Outcome, Refused, RelayClient

TOKEN: Final = "demo-token-trouble"  # noqa: S105 - demo tokens, see demo.env
LOOP_TOKEN: Final = "demo-token-looper"  # noqa: S105
CROWD_TOKENS: Final = ("demo-token-crowd", "demo-token-visitor")
NO_FAILURE: Final = "well"
"""The reason of a case in which the session continues."""
_CASE_SECONDS: Final = 75.0  # the relay detects the slowest failure, a silent peer, within 60 s
_TURN_SECONDS: Final = 5.0
_CALL_COUNT: Final = 150  # above the limits in demo.env
_CONNECTABLE_SECONDS: Final = 45.0
Query = Sequence[tuple[str, str]]
_MODEL: Final = (("model", MODEL),)

Cause = Callable[[RelayClient], Awaitable[Outcome]]


@dataclass(frozen=True, slots=True)
class FailureCase:
    """A failure and how to cause it.

    `observed` is the code that the client receives if it is not the reason; None if the client receives no code.
    """

    reason: str
    cause: Cause
    observed: str | None = ""

    @property
    def observed_reason(self) -> str | None:
        """The code that the client must receive."""
        return self.reason if self.observed == "" else self.observed


def refused_call(token: str | None = TOKEN, query: Query = _MODEL, headers: Mapping[str, str] | None = None) -> Cause:
    """A connection that fails, or opens and immediately receives an error."""

    async def cause(relay: RelayClient) -> Outcome:
        async with relay.call(token, query=query, headers=headers) as call:
            await call.wait_for("session.created", _CASE_SECONDS)
            return call.outcome

    return cause


def refused_by_provider(scenario: str) -> Cause:
    """A connection that the provider refuses by this scenario."""
    return refused_call(query=(*_MODEL, ("simulate", scenario)))


def failing_session(scenario: str) -> Cause:
    """A call that opens; it sends turns until it receives an error or the call ends."""

    async def cause(relay: RelayClient) -> Outcome:
        async with relay.call(TOKEN, query=(*_MODEL, ("simulate", scenario))) as call:
            await call.wait_for("session.created", _CASE_SECONDS)
            deadline = asyncio.get_running_loop().time() + _CASE_SECONDS
            while asyncio.get_running_loop().time() < deadline:
                await send_turn(call)
                await call.wait_for("response.done", _TURN_SECONDS)
                if call.is_closed or call.outcome.reason is not None:
                    break
            return call.outcome

    return cause


async def send_turn(call: Call) -> None:
    """Send a text message and request a response."""
    content = [{"type": "input_text", "text": "Hello, how is the weather over there today?"}]
    await call.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
    await call.send("response.create", response={"output_modalities": ["text"]})


@asynccontextmanager
async def open_call(relay: RelayClient, token: str = TOKEN) -> AsyncIterator[Call]:
    """An open call that has received `session.created`."""
    async with relay.call(token) as call:
        await call.wait_for("session.created", _CASE_SECONDS)
        yield call


async def request_without_upgrade(relay: RelayClient) -> Outcome:
    """A plain GET request to the WebSocket endpoint."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with relay.http.get(relay.url + REALTIME_PATH, params=_MODEL, headers=headers) as response:
        return Outcome(response.status)  # not reached: raise_refusal raises for every status but 101


async def exceed_session_limit(relay: RelayClient) -> Outcome:
    """More calls of one client than its limit allows."""
    return await _fill(relay, (TOKEN,))


async def fill_the_relay(relay: RelayClient) -> Outcome:
    """More calls of several clients than the relay's limit allows."""
    return await _fill(relay, (*CROWD_TOKENS,))


async def _fill(relay: RelayClient, tokens: tuple[str, ...]) -> Outcome:
    async with AsyncExitStack() as calls:
        for number in range(_CALL_COUNT):
            await calls.enter_async_context(open_call(relay, tokens[number % len(tokens)]))
    return Outcome(message=f"{_CALL_COUNT} calls were accepted")


async def connect_in_a_loop(relay: RelayClient) -> Outcome:
    """One client that reconnects in a loop."""
    for _ in range(_CALL_COUNT):
        async with relay.call(LOOP_TOKEN):
            pass
    return Outcome(message=f"{_CALL_COUNT} short calls were accepted")


async def stay_idle(relay: RelayClient) -> Outcome:
    """A call without messages."""
    async with open_call(relay) as call:
        await call.wait_for(None, _CASE_SECONDS)
        return call.outcome


async def exceed_duration(relay: RelayClient) -> Outcome:
    """A call that does not end by itself."""
    async with open_call(relay) as call:
        deadline = asyncio.get_running_loop().time() + _CASE_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            await send_turn(call)
            if await call.wait_for(None, 1.0):
                break
        return call.outcome


async def send_big_message(relay: RelayClient) -> Outcome:
    """One message above the size limit."""
    async with open_call(relay) as call:
        await call.send("input_audio_buffer.append", audio="A" * (2 << 20))
        await call.wait_for(None, _CASE_SECONDS)
        return call.outcome


async def flood(relay: RelayClient) -> Outcome:
    """More messages per second than the limit allows."""
    async with open_call(relay) as call:
        for _ in range(30 * _CALL_COUNT):
            if not await call.send("input_audio_buffer.clear"):
                break
        await call.wait_for("response.done", _CASE_SECONDS)
        while call.outcome.close_code is None and await call.wait_for(None, _CASE_SECONDS):
            if call.outcome.reason is not None:
                break
        return call.outcome


async def stop_reading(relay: RelayClient) -> Outcome:
    """Cause much output and read none of it."""
    async with open_call(relay) as call:
        call.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        content = [{"type": "input_text", "text": "word " * 100_000}]
        for _ in range(100):
            item = {"type": "message", "role": "user", "content": content}
            if not await call.send("conversation.item.create", item=item):
                break
            await asyncio.sleep(0.2)
        return call.outcome


async def send_unmasked_frame(relay: RelayClient) -> Outcome:
    """An unmasked frame."""
    async with open_call(relay) as call:
        call.transport.write(b"\x81\x02hi")
        await call.wait_for(None, _CASE_SECONDS)
        return call.outcome


async def reset_connection(relay: RelayClient) -> Outcome:
    """A client that resets its connection without a close frame."""
    async with open_call(relay) as call:
        linger = struct.pack("ii", 1, 0)  # RST instead of FIN
        call.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        call.transport.abort()
        return call.outcome


PROVIDER_CASES: Final = {
    "key-rejected": FailureCase("key_rejected", refused_by_provider("key-rejected")),
    "key-missing": FailureCase("key_missing", refused_by_provider("key-missing")),
    "key-forbidden": FailureCase("key_forbidden", refused_by_provider("key-forbidden")),
    "quota-exhausted": FailureCase("quota_exhausted", refused_by_provider("quota-exhausted")),
    "model-not-found": FailureCase("model_not_found", refused_by_provider("model-not-found")),
    "invalid-model": FailureCase("model_not_found", refused_by_provider("invalid-model")),
    "beta-shape": FailureCase("beta_shape", refused_by_provider("beta-shape")),
    "rate-limited-inband": FailureCase("rate_limited", refused_by_provider("rate-limited-inband")),
    "overloaded": FailureCase("upstream_overloaded", refused_by_provider("overloaded")),
    "close-only": FailureCase("key_rejected", refused_by_provider("close-only")),
    "drop": FailureCase("dropped_early", refused_by_provider("drop")),
    "reset": FailureCase("dropped_early", refused_by_provider("reset")),
    "hang": FailureCase("first_event_timeout", refused_by_provider("hang")),
    "hang-before-101": FailureCase("reply_timeout", refused_by_provider("hang-before-101")),
    "slow-first-event": FailureCase(NO_FAILURE, refused_by_provider("slow-first-event"), observed=None),
    "redirect": FailureCase("redirect_refused", refused_by_provider("redirect")),
    "no-upgrade": FailureCase("bad_reply", refused_by_provider("no-upgrade")),
    "wrong-accept": FailureCase("bad_reply", refused_by_provider("wrong-accept")),
    "http-401": FailureCase("key_rejected", refused_by_provider("http-401")),
    "http-403": FailureCase("key_forbidden", refused_by_provider("http-403")),
    "http-403-geo": FailureCase("region_blocked", refused_by_provider("http-403-geo")),
    "http-404": FailureCase("model_not_found", refused_by_provider("http-404")),
    "http-429": FailureCase("rate_limited", refused_by_provider("http-429")),
    "http-429-quota": FailureCase("quota_exhausted", refused_by_provider("http-429-quota")),
    "http-500": FailureCase("upstream_error", refused_by_provider("http-500")),
    "http-502": FailureCase("upstream_error", refused_by_provider("http-502")),
    "http-503": FailureCase("upstream_overloaded", refused_by_provider("http-503")),
    "http-504": FailureCase("upstream_error", refused_by_provider("http-504")),
    "http-520-html": FailureCase("upstream_error", refused_by_provider("http-520-html")),
    "model-access-late": FailureCase(NO_FAILURE, failing_session("model-access-late"), observed="model_not_found"),
    "expire-soon": FailureCase("session_expired", failing_session("expire-soon")),
    "expire-silent": FailureCase("session_expired", failing_session("expire-silent"), observed=None),
    "server-error-mid": FailureCase(NO_FAILURE, failing_session("server-error-mid"), observed="server_error"),
    "rate-limited-mid": FailureCase(NO_FAILURE, failing_session("rate-limited-mid"), observed="rate_limit_exceeded"),
    "drop-mid": FailureCase("upstream_lost", failing_session("drop-mid")),
    "reset-mid": FailureCase("upstream_lost", failing_session("reset-mid")),
    "going-away-mid": FailureCase("upstream_closed", failing_session("going-away-mid"), observed=None),
    "internal-error-mid": FailureCase("upstream_closed", failing_session("internal-error-mid"), observed=None),
    "stall-mid": FailureCase("upstream_lost", failing_session("stall-mid")),
}
"""By scenario of the simulator. `good` and the scenario for REST requests are omitted: a single call cannot show them."""

CLIENT_CASES: Final = {
    "no-token": FailureCase("token_missing", refused_call(token=None)),
    "wrong-token": FailureCase("token_invalid", refused_call(token="wrong")),  # noqa: S106 - not a secret
    "strange-origin": FailureCase(
        "origin_refused", refused_call(token=None, headers={"Origin": "https://evil.example"})
    ),
    "no-model": FailureCase("model_missing", refused_call(query=())),
    "model-not-allowed": FailureCase("model_refused", refused_call(query=(("model", "gpt-4"),))),
    "two-models": FailureCase("bad_request", refused_call(query=(*_MODEL, *_MODEL))),
    "no-websocket": FailureCase("not_a_websocket", request_without_upgrade),
    "too-many-calls": FailureCase("too_many_sessions", exceed_session_limit),
    "relay-full": FailureCase("relay_full", fill_the_relay),
    "connect-loop": FailureCase("too_many_connects", connect_in_a_loop),
    "big-message": FailureCase("message_too_big", send_big_message),
    "flood": FailureCase("rate_exceeded", flood),
    "slow-reader": FailureCase("client_too_slow", stop_reading, observed=None),
    "broken-frame": FailureCase("client_protocol_error", send_unmasked_frame, observed=None),
    "vanish": FailureCase("client_lost", reset_connection, observed=None),
    "say-nothing": FailureCase("idle_timeout", stay_idle),
    "talk-too-long": FailureCase("max_duration", exceed_duration),
}

FAILURE_CASES: Final = PROVIDER_CASES | CLIENT_CASES


async def run_case(relay: RelayClient, case: FailureCase) -> Outcome:
    """Cause a failure once; returns the outcome that the client observed."""
    try:
        return await case.cause(relay)
    except Refused as refused:
        return refused.outcome


async def wait_until_connectable(relay: RelayClient) -> bool:
    """Wait until a call opens, False on timeout. After a definite failure the relay refuses this client for 15 seconds."""
    deadline = asyncio.get_running_loop().time() + _CONNECTABLE_SECONDS
    while asyncio.get_running_loop().time() < deadline:
        try:
            async with open_call(relay):
                return True
        except Refused:
            await asyncio.sleep(3.0)  # each refused attempt counts towards the limit on reconnects
    return False
