"""service/telemetry/recent.py: counts of the last hour, the last failures and the lag, all bounded."""

import json
import sys

from hypothesis import given
from hypothesis import strategies as st

from service.failures import CATALOGUE, Failure, Phase
from service.telemetry.recent import (
    BUCKET_SECONDS,
    MAX_BUCKETS,
    MAX_CHARACTERS,
    MAX_FAILURES,
    RecentFailures,
    RecentLag,
    RecentOutcomes,
)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        """The time, in seconds."""
        return self.now


def test_window_counts_each_outcome_once() -> None:
    """In the point in which it happened; what is older than the window is left out."""
    clock = Clock()
    outcomes = RecentOutcomes(clock)
    for age in (3650, 3590, 310, 290, 0):
        clock.now = 1_000_000 - age
        outcomes.succeeded()
        outcomes.failed("key_rejected")
    clock.now = 1_000_000

    short, long = outcomes.window(300, 30), outcomes.window(3600, 60)

    assert [2, 2] == [sum(short.succeeded), sum(short.failed)]
    assert (1, 1, 30) == (short.succeeded[0], short.succeeded[-1], len(short.succeeded))
    assert [4, 4] == [sum(long.succeeded), sum(long.failed)]
    assert (1, 1, 60) == (long.succeeded[0], long.succeeded[-1], len(long.succeeded))
    assert {"key_rejected": 4} == long.by_reason


def test_success_ratio_leaves_out_what_clients_cause() -> None:
    """As the objective does; the reason is shown all the same."""
    outcomes = RecentOutcomes(Clock())
    assert outcomes.window(300, 30).success_ratio is None
    outcomes.failed("token_invalid")
    outcomes.failed("relay_draining")
    assert outcomes.window(300, 30).success_ratio is None
    outcomes.succeeded()
    outcomes.failed("upstream_error")
    window = outcomes.window(300, 30)

    assert 0.5 == window.success_ratio
    assert {"token_invalid": 1, "relay_draining": 1, "upstream_error": 1} == window.by_reason


def test_counts_are_bounded() -> None:
    """A bucket for each ten seconds of an hour, each with at most one count for each reason."""
    clock = Clock()
    outcomes = RecentOutcomes(clock)
    for _ in range(3 * MAX_BUCKETS):
        clock.now += BUCKET_SECONDS
        for reason in CATALOGUE:
            outcomes.failed(reason)

    assert MAX_BUCKETS == len(outcomes._buckets)
    assert {len(CATALOGUE)} == {len(bucket.failures) for bucket in outcomes._buckets}
    assert {MAX_BUCKETS} == set(outcomes.window(3600, 60).by_reason.values())


def test_failures_are_bounded_and_newest_first() -> None:
    """In number and in the length of their texts, whatever clients send."""
    failures = RecentFailures(Clock())
    long = "x" * 100_000
    for number in range(MAX_FAILURES + 50):
        failure = Failure("upstream_error", Phase.UPGRADE, detail=long, upstream_code=long, evidence={"ray": long})
        failures.connection_failed(
            "connect_failed", failure, session_id=str(number), client=long, address=long, model=long
        )
    listed = failures.newest(1000)

    assert (MAX_FAILURES, MAX_FAILURES + 50) == (len(listed), failures.total)
    assert [str(MAX_FAILURES + 49), "50"] == [listed[0].session_id, listed[-1].session_id]
    shown = json.dumps([failure.shown(lambda text: text) for failure in listed], ensure_ascii=False)
    assert len(shown) < MAX_FAILURES * (6 * MAX_CHARACTERS + 2000)
    assert sys.getsizeof(failures._of_clients) + sys.getsizeof(failures._others) < 20_000


def test_flood_of_clients_leaves_other_failures_listed() -> None:
    """In the order of time: what clients cause has half of the places, and all of them if nothing else happens."""
    failures = RecentFailures(Clock())

    def fail(reason: str, number: int) -> None:
        where = {"session_id": str(number), "client": "c", "address": "a"}
        failures.connection_failed("refused", Failure(reason), model=None, **where)

    for number in range(150):
        fail("upstream_error", number)
    for number in range(150, 1000):
        fail("token_missing", number)
    fail("key_rejected", 1000)
    listed = [int(failure.session_id) for failure in failures.newest(MAX_FAILURES)]

    assert [1000, *range(999, 899, -1), *range(149, 50, -1)] == listed
    assert [1000, 999] == [int(failure.session_id) for failure in failures.newest(2)]
    assert 1001 == failures.total


@given(st.text(max_size=300), st.text(max_size=300), st.text(max_size=300))
def test_texts_from_outside_are_strings_of_the_document(client: str, model: str, detail: str) -> None:
    """Each is one JSON string, redacted once, and no key."""
    failures = RecentFailures(Clock())
    failures.session_ended("upstream_lost", session_id="0", client=client, address="a", model=model, detail=detail)
    redacted: list[str] = []

    def redact(text: str) -> str:
        redacted.append(text)
        return text

    first, second = (failures.newest(1)[0].shown(redact) for _ in range(2))

    assert first is second
    assert json.loads(json.dumps(first)) == first
    assert {"client", "model", "detail"} <= first.keys()
    assert client[: MAX_CHARACTERS - 1] == str(first["client"])[: MAX_CHARACTERS - 1]
    assert len(redacted) <= 5


def test_lag_covers_the_last_minute() -> None:
    """The greatest lag is forgotten with its sample."""
    lag = RecentLag()
    assert (None, None) == (lag.last, lag.greatest)
    lag.observe(0.5)
    for _ in range(119):
        lag.observe(0.001)
    assert (0.001, 0.5) == (lag.last, lag.greatest)
    lag.observe(0.002)
    assert (0.002, 0.002) == (lag.last, lag.greatest)
