"""service/realtime/live_usage.py."""

import math
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.realtime.live_events import BackendResponse, Decision, LiveEvent, SessionUsage, Transcript
from service.realtime.live_usage import MAX_RESPONSE_IDS, Charge, LiveMeter, SpeechTimer


def report(seconds: float, active: float | None = None, paused: float | None = None) -> LiveEvent:
    """An update of the usage."""
    return LiveEvent(usage=SessionUsage(seconds, active, paused))


def response(identifier: str) -> BackendResponse:
    """A response of a backend model."""
    return BackendResponse(identifier, "gpt-5-mini", "response.completed", None)


def user(start: float, end: float) -> Transcript:
    """A fragment of the user's speech."""
    return Transcript("user", start, end)


def assistant(start: float, end: float) -> Transcript:
    """A fragment of the assistant's speech."""
    return Transcript("assistant", start, end)


def test_reports_are_cumulative() -> None:
    """Each report adds what is new in it, and an older one nothing."""
    meter = LiveMeter()

    assert [12, 3, 0, 15] == [meter.add(report(seconds)).active_seconds for seconds in (12, 15, 14, 30)]
    assert (30, 0) == meter.billable_seconds()


def test_paused_seconds_are_apart() -> None:
    """The final report has no breakdown: what it adds is active."""
    meter = LiveMeter()

    assert Charge(8, 4) == meter.add(report(12, 8, 4))
    assert Charge(1, 0) == meter.add(LiveEvent(usage=SessionUsage(13), closed_reason="close_requested"))
    assert (9, 4) == meter.billable_seconds()


def test_seconds_that_are_called_paused_later_are_charged_once() -> None:
    """Reports without a breakdown count as active; the sum of the charges never exceeds what the provider reported."""
    meter = LiveMeter()

    charges = [meter.add(event) for event in (report(30), report(40, 20, 20), report(60, 30, 30), report(60))]
    assert [Charge(30, 0), Charge(0, 10), Charge(0, 20), Charge()] == charges


def test_usage_is_confirmed_by_the_closed_event_only() -> None:
    """A `session.closed` without usage does not confirm it."""
    meter = LiveMeter()
    meter.add(report(12))
    meter.add(LiveEvent(closed_reason="expired"))
    assert not meter.is_confirmed

    meter.add(LiveEvent(usage=SessionUsage(13), closed_reason="expired"))
    assert meter.is_confirmed


def test_greatest_context_ratio_counts() -> None:
    """It decreases after a compaction."""
    meter = LiveMeter()
    assert meter.usage_ratio is None
    for ratio in (0.2, 0.9, 0.1):
        meter.add(LiveEvent(usage_ratio=ratio))

    assert meter.usage_ratio == 0.9


def test_response_counts_once() -> None:
    """A repeated id adds nothing; decisions have none."""
    meter, decision = LiveMeter(), Decision("m", None)

    assert response("resp_1") == meter.add(LiveEvent(response=response("resp_1"))).backend
    assert Charge() == meter.add(LiveEvent(response=response("resp_1")))
    assert response("resp_2") == meter.add(LiveEvent(response=response("resp_2"))).backend
    assert [decision, decision] == [meter.add(LiveEvent(decision=decision)).backend for _ in range(2)]


def test_response_ids_are_bounded() -> None:
    """The oldest are forgotten."""
    meter = LiveMeter()
    for number in range(MAX_RESPONSE_IDS + 10):
        assert meter.add(LiveEvent(response=response(f"resp_{number}"))).backend is not None

    assert len(meter._response_ids) == MAX_RESPONSE_IDS
    assert meter.add(LiveEvent(response=response(f"resp_{MAX_RESPONSE_IDS}"))).backend is None


seconds = st.none() | st.floats(0, 86_400)
events = st.builds(
    partial(LiveEvent, incident=None, session_id=None, model=None, decision=None, transcript=None),
    usage=st.none() | st.builds(SessionUsage, st.floats(0, 86_400), seconds, seconds),
    closed_reason=st.none() | st.just("expired"),
    usage_ratio=st.none() | st.floats(0, 1),
    response=st.none() | st.builds(response, st.sampled_from(["resp_1", "resp_2", "resp_3"])),
)


@given(st.lists(events, max_size=20))
def test_charges_add_up_to_the_greatest_report(sequence: list[LiveEvent]) -> None:
    """No charge is negative, each response is charged once, and repeating all events adds nothing."""
    meter = LiveMeter()
    charges = [meter.add(event) for event in sequence]
    active, paused = meter.billable_seconds()
    reports = [event.usage for event in sequence if event.usage is not None]
    identifiers = [charge.backend.id for charge in charges if isinstance(charge.backend, BackendResponse)]

    assert all(charge.active_seconds >= 0 and charge.paused_seconds >= 0 for charge in charges)
    assert math.fsum(charge.active_seconds + charge.paused_seconds for charge in charges) == pytest.approx(
        active + paused
    )
    assert math.fsum(charge.paused_seconds for charge in charges) <= paused + 1e-6
    assert active + paused >= max((report.seconds for report in reports), default=0.0) - 1e-6
    assert sorted(identifiers) == sorted({event.response.id for event in sequence if event.response is not None})
    assert all(Charge() == meter.add(event) for event in sequence)


def test_answer_is_measured_on_the_timeline() -> None:
    """The user's transcript arrives after the answer has begun, and only its end counts."""
    timer = SpeechTimer()

    assert [None] * 4 == [
        timer.add(part) for part in (user(200, 400), assistant(1400, 1600), user(400, 1000), assistant(1600, 1800))
    ]
    assert timer.add(assistant(3400, 3600)) == pytest.approx(0.4)
    assert timer.finish() is None


def test_greeting_is_no_answer() -> None:
    """The assistant speaks first, then continues after a pause."""
    timer = SpeechTimer()

    assert [None] * 3 == [
        timer.add(part) for part in (assistant(600, 800), assistant(2800, 3000), assistant(6000, 6200))
    ]
    assert timer.finish() is None


def test_interruption_is_measured_by_its_own_answer() -> None:
    """Speech of the user within an answer counts for the next one."""
    timer = SpeechTimer()
    found = [
        timer.add(part)
        for part in (
            user(0, 1000),
            assistant(1200, 1400),
            assistant(1400, 2400),
            user(1800, 3000),
            assistant(3500, 3700),
            user(9000, 9200),
        )
    ]

    assert [pytest.approx(0.2), pytest.approx(0.5)] == [seconds for seconds in found if seconds is not None]
    assert timer.finish() is None


def test_last_answer_is_measured_at_the_end() -> None:
    """No later fragment shows that the user's speech is complete."""
    timer = SpeechTimer()
    timer.add(user(0, 1000))
    timer.add(assistant(1600, 1800))

    assert timer.finish() == pytest.approx(0.6)


def test_silence_of_a_minute_is_no_latency() -> None:
    """The assistant speaks of its own accord."""
    timer = SpeechTimer()
    timer.add(user(0, 1000))
    timer.add(assistant(90_000, 90_200))

    assert timer.finish() is None


transcripts = st.builds(
    lambda speaker, start, length: Transcript(speaker, start, start + length),
    st.sampled_from(["user", "assistant"]),
    st.floats(0, 200_000),
    st.floats(0, 5_000),
)


@given(st.lists(transcripts, max_size=30))
def test_latency_is_never_negative(parts: list[Transcript]) -> None:
    """Fragments in any order give no latency outside the bounds."""
    timer = SpeechTimer()
    found = [*(timer.add(part) for part in parts), timer.finish()]

    assert all(seconds is None or 0 <= seconds <= 60 for seconds in found)
