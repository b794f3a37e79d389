"""Every failure that the demo's caller can make, and what is to come of it.

What the provider does wrong is a scenario of the simulator, asked for with `?simulate=`. What a client does wrong, the
caller does. `reason` is the relay's word for it: what its log, its metrics and `docs/failures.md` call the failure.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from calls import CONVERSATIONS, MODEL, Call, Line, Outcome, Refused

TOKEN: Final = "demo-token-trouble"  # noqa: S105 - these stand in demo.env
LOOP_TOKEN: Final = "demo-token-looper"  # noqa: S105
CROWD_TOKENS: Final = ("demo-token-crowd", "demo-token-visitor")
WELL: Final = "well"
"""The reason of what is no failure."""
_SECONDS: Final = 75.0  # the slowest, a silence, is noticed within 60
_TURN_SECONDS: Final = 5.0
_MANY: Final = 150  # more than the limits of demo.env
_PATIENCE_SECONDS: Final = 45.0
Query = Sequence[tuple[str, str]]
_MODEL: Final = (("model", MODEL),)

Make = Callable[[Line], Awaitable[Outcome]]


@dataclass(frozen=True, slots=True)
class Trouble:
    """One failure. `seen`: what the caller is told, where that is not the reason; None where it is told nothing."""

    reason: str
    make: Make
    seen: str | None = ""

    @property
    def told(self) -> str | None:
        """The reason that the caller is to see."""
        return self.reason if self.seen == "" else self.seen


def refused(token: str | None = TOKEN, query: Query = _MODEL, headers: Mapping[str, str] | None = None) -> Make:
    """A call that is not to come about, or to be told at once why not."""

    async def make(line: Line) -> Outcome:
        async with line.call(token, query=query, headers=headers) as call:
            await call.wait_for("session.created", _SECONDS)
            return call.outcome

    return make


def simulated(scenario: str) -> Make:
    """A call that the provider refuses."""
    return refused(query=(*_MODEL, ("simulate", scenario)))


def broken(scenario: str) -> Make:
    """A call that begins well; turns are tried until something is told, or the call is over."""

    async def make(line: Line) -> Outcome:
        async with line.call(TOKEN, query=(*_MODEL, ("simulate", scenario))) as call:
            await call.wait_for("session.created", _SECONDS)
            deadline = asyncio.get_running_loop().time() + _SECONDS
            while asyncio.get_running_loop().time() < deadline:
                await one_turn(call)
                await call.wait_for("response.done", _TURN_SECONDS)
                if call.is_over or call.outcome.reason is not None:
                    break
            return call.outcome

    return make


async def one_turn(call: Call) -> None:
    """Say something typed, and ask for an answer."""
    content = [{"type": "input_text", "text": "Hello, how is the weather over there today?"}]
    await call.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
    await call.send("response.create", response={"output_modalities": ["text"]})


@asynccontextmanager
async def opened(line: Line, token: str = TOKEN) -> AsyncIterator[Call]:
    """A call that is well."""
    async with line.call(token) as call:
        await call.wait_for("session.created", _SECONDS)
        yield call


async def ask_without_upgrade(line: Line) -> Outcome:
    """A request for the socket's address that is none for a socket."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with line.http.get(line.url + CONVERSATIONS, params=_MODEL, headers=headers) as response:
        return Outcome(response.status)  # not reached: the line tells of any answer but 101 by itself


async def open_too_many(line: Line) -> Outcome:
    """One client, more calls than it may have."""
    return await _fill(line, (TOKEN,))


async def fill_the_relay(line: Line) -> Outcome:
    """Several clients, more calls than the relay takes."""
    return await _fill(line, (*CROWD_TOKENS,))


async def _fill(line: Line, tokens: tuple[str, ...]) -> Outcome:
    async with AsyncExitStack() as calls:
        for number in range(_MANY):
            await calls.enter_async_context(opened(line, tokens[number % len(tokens)]))
    return Outcome(message=f"{_MANY} calls were let in")


async def connect_in_a_loop(line: Line) -> Outcome:
    """One client that connects again and again."""
    for _ in range(_MANY):
        async with line.call(LOOP_TOKEN):
            pass
    return Outcome(message=f"{_MANY} short calls were let in")


async def say_nothing(line: Line) -> Outcome:
    """A call in which nobody speaks."""
    async with opened(line) as call:
        await call.wait_for(None, _SECONDS)
        return call.outcome


async def talk_too_long(line: Line) -> Outcome:
    """A call without an end."""
    async with opened(line) as call:
        deadline = asyncio.get_running_loop().time() + _SECONDS
        while asyncio.get_running_loop().time() < deadline:
            await one_turn(call)
            if await call.wait_for(None, 1.0):
                break
        return call.outcome


async def send_too_much_at_once(line: Line) -> Outcome:
    """One message above the limit."""
    async with opened(line) as call:
        await call.send("input_audio_buffer.append", audio="A" * (2 << 20))
        await call.wait_for(None, _SECONDS)
        return call.outcome


async def flood(line: Line) -> Outcome:
    """More messages than speech has."""
    async with opened(line) as call:
        for _ in range(30 * _MANY):
            if not await call.send("input_audio_buffer.clear"):
                break
        await call.wait_for("response.done", _SECONDS)
        while call.outcome.close_code is None and await call.wait_for(None, _SECONDS):
            if call.outcome.reason is not None:
                break
        return call.outcome


async def read_nothing(line: Line) -> Outcome:
    """Ask for much and read none of it."""
    async with opened(line) as call:
        call.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        content = [{"type": "input_text", "text": "word " * 100_000}]
        for _ in range(100):
            item = {"type": "message", "role": "user", "content": content}
            if not await call.send("conversation.item.create", item=item):
                break
            await asyncio.sleep(0.2)
        return call.outcome


async def break_the_protocol(line: Line) -> Outcome:
    """A frame that is not masked."""
    async with opened(line) as call:
        call.transport.write(b"\x81\x02hi")
        await call.wait_for(None, _SECONDS)
        return call.outcome


async def vanish(line: Line) -> Outcome:
    """A client that is gone without a word."""
    async with opened(line) as call:
        linger = struct.pack("ii", 1, 0)  # RST instead of FIN
        call.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        call.transport.abort()
        return call.outcome


SCENARIOS: Final = {
    "key-rejected": Trouble("key_rejected", simulated("key-rejected")),
    "key-missing": Trouble("key_missing", simulated("key-missing")),
    "key-forbidden": Trouble("key_forbidden", simulated("key-forbidden")),
    "quota-exhausted": Trouble("quota_exhausted", simulated("quota-exhausted")),
    "model-not-found": Trouble("model_not_found", simulated("model-not-found")),
    "invalid-model": Trouble("model_not_found", simulated("invalid-model")),
    "beta-shape": Trouble("beta_shape", simulated("beta-shape")),
    "rate-limited-inband": Trouble("rate_limited", simulated("rate-limited-inband")),
    "overloaded": Trouble("upstream_overloaded", simulated("overloaded")),
    "close-only": Trouble("key_rejected", simulated("close-only")),
    "drop": Trouble("dropped_early", simulated("drop")),
    "reset": Trouble("dropped_early", simulated("reset")),
    "hang": Trouble("first_event_timeout", simulated("hang")),
    "hang-before-101": Trouble("reply_timeout", simulated("hang-before-101")),
    "slow-first-event": Trouble(WELL, simulated("slow-first-event"), seen=None),
    "redirect": Trouble("redirect_refused", simulated("redirect")),
    "no-upgrade": Trouble("bad_reply", simulated("no-upgrade")),
    "wrong-accept": Trouble("bad_reply", simulated("wrong-accept")),
    "http-401": Trouble("key_rejected", simulated("http-401")),
    "http-403": Trouble("key_forbidden", simulated("http-403")),
    "http-403-geo": Trouble("region_blocked", simulated("http-403-geo")),
    "http-404": Trouble("model_not_found", simulated("http-404")),
    "http-429": Trouble("rate_limited", simulated("http-429")),
    "http-429-quota": Trouble("quota_exhausted", simulated("http-429-quota")),
    "http-500": Trouble("upstream_error", simulated("http-500")),
    "http-502": Trouble("upstream_error", simulated("http-502")),
    "http-503": Trouble("upstream_overloaded", simulated("http-503")),
    "http-504": Trouble("upstream_error", simulated("http-504")),
    "http-520-html": Trouble("upstream_error", simulated("http-520-html")),
    "model-access-late": Trouble(WELL, broken("model-access-late"), seen="model_not_found"),
    "expire-soon": Trouble("session_expired", broken("expire-soon")),
    "expire-silent": Trouble("session_expired", broken("expire-silent"), seen=None),
    "server-error-mid": Trouble(WELL, broken("server-error-mid"), seen="server_error"),
    "rate-limited-mid": Trouble(WELL, broken("rate-limited-mid"), seen="rate_limit_exceeded"),
    "drop-mid": Trouble("upstream_lost", broken("drop-mid")),
    "reset-mid": Trouble("upstream_lost", broken("reset-mid")),
    "going-away-mid": Trouble("upstream_closed", broken("going-away-mid"), seen=None),
    "internal-error-mid": Trouble("upstream_closed", broken("internal-error-mid"), seen=None),
    "stall-mid": Trouble("upstream_lost", broken("stall-mid")),
}
"""By the simulator's names; without the two that a single call cannot show: good, and what concerns REST alone."""

CLIENTS: Final = {
    "no-token": Trouble("token_missing", refused(token=None)),
    "wrong-token": Trouble("token_invalid", refused(token="wrong")),  # noqa: S106 - and it is
    "strange-origin": Trouble("origin_refused", refused(headers={"Origin": "https://evil.example"})),
    "no-model": Trouble("model_missing", refused(query=())),
    "model-not-allowed": Trouble("model_refused", refused(query=(("model", "gpt-4"),))),
    "two-models": Trouble("bad_request", refused(query=(*_MODEL, *_MODEL))),
    "no-websocket": Trouble("not_a_websocket", ask_without_upgrade),
    "too-many-calls": Trouble("too_many_sessions", open_too_many),
    "relay-full": Trouble("relay_full", fill_the_relay),
    "connect-loop": Trouble("too_many_connects", connect_in_a_loop),
    "big-message": Trouble("message_too_big", send_too_much_at_once),
    "flood": Trouble("rate_exceeded", flood),
    "slow-reader": Trouble("client_too_slow", read_nothing, seen=None),
    "broken-frame": Trouble("client_protocol_error", break_the_protocol, seen=None),
    "vanish": Trouble("client_lost", vanish, seen=None),
    "say-nothing": Trouble("idle_timeout", say_nothing),
    "talk-too-long": Trouble("max_duration", talk_too_long),
}

TROUBLES: Final = SCENARIOS | CLIENTS


async def make_trouble(line: Line, trouble: Trouble) -> Outcome:
    """Make a failure once; how it looked to the caller."""
    try:
        return await trouble.make(line)
    except Refused as fault:
        return fault.outcome


async def all_is_well(line: Line) -> bool:
    """Wait until calls come about: after a definite refusal the relay answers everybody from memory for 15 seconds."""
    deadline = asyncio.get_running_loop().time() + _PATIENCE_SECONDS
    while asyncio.get_running_loop().time() < deadline:
        try:
            async with opened(line, CROWD_TOKENS[0]):  # its own: calls so short are counted, client by client
                return True
        except Refused:
            await asyncio.sleep(1.0)
    return False
