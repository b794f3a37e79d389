"""The limits of a session and how it is closed for each reason, without sockets."""

from dataclasses import dataclass, replace
from typing import cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.failures import CATALOGUE
from service.realtime.closing import CloseCode
from service.realtime.scanner_items import Violation
from service.relay import ending
from service.relay.ending import CloseInstruction, Ending, Side
from service.relay.watchdog import RATE_WINDOW_SECONDS, RateMeter, SessionLimits, due_ending, quiet_until
from service.wire.leg import Leg
from service.wire.signs_of_life import ACK_CHECK_SECONDS

NOW = 1000.0
LIMITS = SessionLimits(max_message_bytes=1, idle_timeout_seconds=900, max_session_seconds=3900)


@given(
    st.lists(st.tuples(st.floats(0.1, 3), st.integers(0, 200)), max_size=60),
    st.integers(1, 50),
)
def test_rate_is_averaged_over_the_window(steps: list[tuple[float, int]], limit: int) -> None:
    """A client within ten times the limit in every ten seconds never exceeds it; one that sends twice as much does."""
    meter, limit_per_window = RateMeter(limit), limit * RATE_WINDOW_SECONDS
    now, total, history = 0.0, 0, [(-2 * RATE_WINDOW_SECONDS, 0)]
    for pause, added in steps:
        now, total = now + pause, total + added
        # The longest window of the meter: ten seconds and the pause before this call.
        before = max(count for moment, count in history if moment <= now - RATE_WINDOW_SECONDS - pause)
        history.append((now, total))

        if meter.is_exceeded(now, total):
            assert total - before > limit_per_window
    steady = RateMeter(limit)
    assert any(steady.is_exceeded(0.5 * tick, limit * tick) for tick in range(1, 60))
    assert not RateMeter(0).is_exceeded(1.0, 1_000_000)


@given(st.integers(0, 40), st.floats(2, 60), st.integers(1, 2), st.integers(1, 50))
def test_steady_rate_below_the_limit_is_not_exceeded_after_stalls(
    ticks: int, stall: float, stalls: int, limit: int
) -> None:
    """A client at nine tenths of its limit, wherever in the window the process stalls; one at twice the limit is found."""
    for rate, expected in ((0.9 * limit, False), (2.0 * limit, True)):
        meter, sent, now = RateMeter(limit), 0.0, NOW
        exceeded = meter.is_exceeded(now, 0)
        for _ in range(stalls):
            for _ in range(ticks):
                now, sent = now + 0.5, sent + 0.5 * rate
                exceeded |= meter.is_exceeded(now, int(sent))
            now += stall
            meter.credit_stall(now, stall)
            sent += stall * rate
        for _ in range(80):
            now, sent = now + 0.5, sent + 0.5 * rate
            exceeded |= meter.is_exceeded(now, int(sent))
        assert exceeded is expected


@dataclass
class LegState:
    """A leg as the watchdog sees it."""

    held_since: float | None = None
    full_since: float | None = None
    last_alive_at: float = NOW
    last_received_at: float = NOW
    acknowledged_bytes: int = 0
    can_send: bool = True
    disconnected: bool = False

    def peer_disconnected(self) -> bool:
        """As reported by the kernel."""
        return self.disconnected


def reason(
    client: LegState | None = None,
    upstream: LegState | None = None,
    limits: SessionLimits = LIMITS,
    *,
    started_at: float = NOW,
    active_at: float = NOW,
) -> str | None:
    """The reason of the due ending, or None."""
    legs = cast("Leg", client or LegState()), cast("Leg", upstream or LegState())
    end = due_ending(NOW, *legs, limits, started_at=started_at, active_at=active_at)
    return end.reason if end else None


@pytest.mark.parametrize(
    ("leg", "expected"),
    [
        (LegState(), None),
        (LegState(last_alive_at=NOW - 38), None),
        (LegState(last_alive_at=NOW - 40), "lost"),
        (LegState(last_received_at=NOW - 119), None),  # it acknowledges data
        (LegState(last_received_at=NOW - 121), "lost"),
        (LegState(last_received_at=NOW - 121, held_since=NOW - 19), None),
        (LegState(last_alive_at=NOW - 40, held_since=NOW - 19), None),  # it was not read
        (LegState(full_since=NOW - 19), None),
        (LegState(full_since=NOW - 21), "too_slow"),
        (LegState(full_since=NOW - 21, held_since=NOW - 21), "too_slow"),
    ],
)
@pytest.mark.parametrize("side", ["client", "upstream"])
def test_silent_and_slow_peers_end_the_session(leg: LegState, expected: str | None, side: str) -> None:
    """After 39 s of silence, unless the leg is held, and after 20 s in which everything is left unread."""
    assert (expected and f"{side}_{expected}") == reason(**{side: leg})  # type: ignore[arg-type]  # the key is one of the two


def test_held_client_that_disconnected_ends_the_session() -> None:
    """A held upstream that disconnected does not: its last frames are read when the client catches up."""
    assert reason(client=LegState(held_since=NOW, disconnected=True)) == "client_lost"
    assert reason(upstream=LegState(held_since=NOW, disconnected=True)) is None
    assert reason(client=LegState(disconnected=True)) is None  # the event loop reports it


@given(
    legs=st.tuples(
        *[
            st.builds(
                LegState,
                held_since=st.none() | st.just(NOW) if is_upstream else st.none(),
                last_alive_at=st.floats(NOW - 60, NOW),
                last_received_at=st.floats(NOW - 150, NOW),
            )
            for is_upstream in (False, True)
        ]
    ),
    started_at=st.floats(NOW - 4000, NOW),
    active_at=st.floats(NOW - 1000, NOW),
    token_seconds=st.none() | st.floats(0, 4000),
    later=st.floats(0, 130),
)
@example(legs=(LegState(), LegState()), started_at=NOW, active_at=NOW, token_seconds=1.0, later=2.0)
def test_nothing_is_due_while_it_is_quiet(
    legs: tuple[LegState, LegState], started_at: float, active_at: float, token_seconds: float | None, later: float
) -> None:
    """Nor does an acknowledgement count; and a full leg is never quiet."""
    client, upstream = (cast("Leg", leg) for leg in legs)
    limits = replace(LIMITS, token_seconds=token_seconds)
    until = quiet_until(client, upstream, limits, started_at=started_at, active_at=active_at)
    now = NOW + later
    if now < until:
        assert due_ending(now, client, upstream, limits, started_at=started_at, active_at=active_at) is None
        assert all(now - leg.last_alive_at < ACK_CHECK_SECONDS for leg in legs)
    for leg in legs:
        leg.full_since = NOW
        assert 0 == quiet_until(client, upstream, LIMITS, started_at=started_at, active_at=active_at)
        leg.full_since = None


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
def test_duration_and_idle_limits(limits: SessionLimits, started: float, active: float, expected: str | None) -> None:
    """0 is no limit."""
    assert expected == reason(limits=limits, started_at=started, active_at=active)


@pytest.mark.parametrize(
    ("side", "code", "echoed", "forwarded"),
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
def test_close_is_echoed_and_forwarded(side: Side, code: int | None, echoed: int | None, forwarded: int) -> None:
    """The sender gets its code; the other side gets code and text, as far as they may be sent."""
    end = ending.peer_closed(side, code, "text")
    closer, other = (end.client, end.upstream) if side == "client" else (end.upstream, end.client)

    assert (f"{side}_closed", False) == (end.reason, end.send_error)
    assert CloseInstruction(echoed, close_received=True) == closer
    assert CloseInstruction(forwarded, "text") == other


def test_session_expired_is_recognised_by_close_reason_or_event() -> None:
    """The provider's time limit: close code 1001 with its reason text, or the error event before it."""
    reason_text = "Your session hit the maximum duration of 60 minutes."
    assert ending.peer_closed("upstream", 1001, reason_text).reason == "session_expired"
    assert ending.peer_closed("upstream", 1000, "", expired=True).reason == "session_expired"
    assert ending.peer_closed("upstream", 1001, "deploy").reason == "upstream_closed"
    assert ending.peer_closed("client", 1001, reason_text, expired=True).reason == "client_closed"


@pytest.mark.parametrize(
    ("end", "client", "upstream", "send_error"),
    [
        (ending.peer_lost("client"), "abort", 1001, False),
        (ending.peer_lost("upstream"), 1011, "abort", True),
        (ending.peer_broke_protocol("client", Violation(CloseCode.PROTOCOL_ERROR, "x")), 1002, 1001, False),
        (ending.peer_broke_protocol("client", Violation(CloseCode.MESSAGE_TOO_BIG, "x")), 1009, 1001, True),
        (ending.peer_broke_protocol("upstream", Violation(CloseCode.MESSAGE_TOO_BIG, "x")), 1011, 1009, True),
        (ending.relay_ended("client_too_slow"), "abort", 1001, False),
        (ending.relay_ended("upstream_too_slow"), 1011, "abort", True),
        (ending.relay_ended("relay_draining"), 1001, 1001, True),
        (ending.relay_ended("ended_by_operator"), 1001, 1001, True),
        (ending.relay_ended("internal_error"), 1011, 1001, True),
    ],
)
def test_close_instructions_of_each_ending(
    end: Ending, client: int | str, upstream: int | str, send_error: bool
) -> None:
    """A close frame or an abort for each side; the client's close frame carries the text of the catalogue."""

    def code_or_abort(close: CloseInstruction) -> int | str | None:
        return "abort" if close.abort else close.code

    assert (client, upstream, send_error) == (code_or_abort(end.client), code_or_abort(end.upstream), end.send_error)
    if isinstance(client, int):
        assert CATALOGUE[end.reason].close_text == end.client.text
