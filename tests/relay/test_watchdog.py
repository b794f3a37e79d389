"""What the clock and the table of endings decide, without sockets."""

from dataclasses import dataclass
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.failures import CATALOGUE
from service.realtime.closing import CloseCode
from service.realtime.scanner_items import Violation
from service.relay import ending
from service.relay.ending import CloseInstruction, Ending, Side
from service.relay.watchdog import RATE_WINDOW_SECONDS, RateMeter, SessionLimits, due_ending
from service.wire.leg import Leg

NOW = 1000.0
LIMITS = SessionLimits(max_message_bytes=1, idle_timeout_seconds=900, max_session_seconds=3900)


@given(
    st.lists(st.tuples(st.floats(0.1, 3), st.integers(0, 200)), max_size=60),
    st.integers(1, 50),
)
def test_a_rate_is_an_average(steps: list[tuple[float, int]], most: int) -> None:
    """Nobody is stopped who kept to ten times the limit in any ten seconds; who sends twice as much for long is."""
    meter, bound = RateMeter(most), most * RATE_WINDOW_SECONDS
    now, total, history = 0.0, 0, [(-2 * RATE_WINDOW_SECONDS, 0)]
    for pause, added in steps:
        now, total = now + pause, total + added
        # The longest window that the meter may have looked at: ten seconds and the pause before this look.
        before = max(count for moment, count in history if moment <= now - RATE_WINDOW_SECONDS - pause)
        history.append((now, total))

        if meter.is_exceeded(now, total):
            assert total - before > bound
    steady = RateMeter(most)
    assert any(steady.is_exceeded(0.5 * tick, most * tick) for tick in range(1, 60))
    assert not RateMeter(0).is_exceeded(1.0, 1_000_000)


@dataclass
class LegState:
    """A leg as the watchdog sees it."""

    held_since: float | None = None
    full_since: float | None = None
    last_alive_at: float = NOW
    gone: bool = False

    def peer_disconnected(self) -> bool:
        """What the kernel would say."""
        return self.gone


def reason(
    client: LegState | None = None,
    upstream: LegState | None = None,
    limits: SessionLimits = LIMITS,
    *,
    started_at: float = NOW,
    active_at: float = NOW,
) -> str | None:
    """The reason of the verdict, or None."""
    legs = cast("Leg", client or LegState()), cast("Leg", upstream or LegState())
    end = due_ending(NOW, *legs, limits, started_at=started_at, active_at=active_at)
    return end.reason if end else None


@pytest.mark.parametrize(
    ("leg", "why"),
    [
        (LegState(), None),
        (LegState(last_alive_at=NOW - 38), None),
        (LegState(last_alive_at=NOW - 40), "lost"),
        (LegState(last_alive_at=NOW - 40, held_since=NOW - 19), None),  # it was not listened to
        (LegState(full_since=NOW - 19), None),
        (LegState(full_since=NOW - 21), "too_slow"),
        (LegState(full_since=NOW - 21, held_since=NOW - 21), "too_slow"),
    ],
)
@pytest.mark.parametrize("side", ["client", "upstream"])
def test_silence_and_slowness(leg: LegState, why: str | None, side: str) -> None:
    """Either side may be silent for 39 s and leave everything unread for 20 s, unless it is we who do not listen."""
    assert (why and f"{side}_{why}") == reason(**{side: leg})  # type: ignore[arg-type]  # the key is one of the two


def test_only_a_held_client_is_looked_after() -> None:
    """A client that is gone ends the session although it is held; upstream's last words wait until the client reads on."""
    assert reason(client=LegState(held_since=NOW, gone=True)) == "client_lost"
    assert reason(upstream=LegState(held_since=NOW, gone=True)) is None
    assert reason(client=LegState(gone=True)) is None  # the event loop tells of that


@pytest.mark.parametrize(
    ("limits", "started", "active", "expected"),
    [
        (LIMITS, NOW - 3899, NOW, None),
        (LIMITS, NOW - 3901, NOW, "max_duration"),
        (LIMITS, NOW - 901, NOW - 901, "idle_timeout"),
        (LIMITS, NOW - 3901, NOW - 901, "max_duration"),
        (SessionLimits(max_message_bytes=1), 0.0, 0.0, None),
    ],
)
def test_duration_and_idleness(limits: SessionLimits, started: float, active: float, expected: str | None) -> None:
    """Both have their bound, and 0 is no bound."""
    assert expected == reason(limits=limits, started_at=started, active_at=active)


@pytest.mark.parametrize(
    ("side", "code", "told", "onward"),
    [
        ("client", 1000, 1000, 1000),
        ("client", None, None, 1000),
        ("client", 4999, 4999, 4999),
        ("client", 1014, 1011, 1011),
        ("upstream", 1001, 1001, 1001),
        ("upstream", None, None, 1000),
        ("upstream", 1007, 1007, 1007),
    ],
)
def test_a_close_is_answered_and_passed_on(side: Side, code: int | None, told: int | None, onward: int) -> None:
    """Who says CLOSE gets the same code back; the other gets code and text, as far as they may be sent."""
    end = ending.peer_closed(side, code, "text")
    closer, other = (end.client, end.upstream) if side == "client" else (end.upstream, end.client)

    assert (f"{side}_closed", False) == (end.reason, end.send_error)
    assert CloseInstruction(told, close_received=True) == closer
    assert CloseInstruction(onward, "text") == other


def test_an_expired_session_is_known_by_its_words() -> None:
    """The provider's own time limit has a reason of its own, known by 1001 and its words or by the event before it."""
    words = "Your session hit the maximum duration of 60 minutes."
    assert ending.peer_closed("upstream", 1001, words).reason == "session_expired"
    assert ending.peer_closed("upstream", 1000, "", expired=True).reason == "session_expired"
    assert ending.peer_closed("upstream", 1001, "deploy").reason == "upstream_closed"
    assert ending.peer_closed("client", 1001, words, expired=True).reason == "client_closed"


@pytest.mark.parametrize(
    ("end", "client", "upstream", "tell"),
    [
        (ending.peer_lost("client"), "abort", 1001, False),
        (ending.peer_lost("upstream"), 1011, "abort", True),
        (ending.peer_broke_protocol("client", Violation(CloseCode.PROTOCOL_ERROR, "x")), 1002, 1001, False),
        (ending.peer_broke_protocol("client", Violation(CloseCode.MESSAGE_TOO_BIG, "x")), 1009, 1001, True),
        (ending.peer_broke_protocol("upstream", Violation(CloseCode.MESSAGE_TOO_BIG, "x")), 1011, 1009, True),
        (ending.relay_ended("client_too_slow"), "abort", 1001, False),
        (ending.relay_ended("upstream_too_slow"), 1011, "abort", True),
        (ending.relay_ended("relay_draining"), 1001, 1001, True),
        (ending.relay_ended("internal_error"), 1011, 1001, True),
    ],
)
def test_what_each_side_is_told(end: Ending, client: int | str, upstream: int | str, tell: bool) -> None:
    """A CLOSE to whoever can hear it, nothing to the others; the client's carries the catalogue's words."""

    def told(farewell: CloseInstruction) -> int | str | None:
        return "abort" if farewell.abort else farewell.code

    assert (client, upstream, tell) == (told(end.client), told(end.upstream), end.send_error)
    if isinstance(client, int):
        assert CATALOGUE[end.reason].close_text == end.client.text
