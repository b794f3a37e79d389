"""What every implementation of the store does: memory and a real Redis."""

import asyncio
import hashlib

import pytest

from service.store.interface import (
    LEASE_SECONDS,
    SECRET_MEMORY_SECONDS,
    Amounts,
    Ceiling,
    Held,
    Limits,
    Member,
    Refused,
    Scope,
    Spending,
    Totals,
)
from tests.store.conftest import START, BackendUnderTest

KIOSK = Scope("kiosk")
ALICE, BOB = Scope("kiosk", "alice@example.com"), Scope("kiosk", "bob")
LEASE_MS = round(LEASE_SECONDS * 1000)
DAY_MS = 86_400_000
DIGEST = hashlib.sha256(b"ek_canary").hexdigest()


async def _member(under_test: BackendUnderTest, pod: str = "pod-a") -> Member:
    return (await under_test.store.register(pod)).member


def _sessions(maximum: int | None, scope: Scope = KIOSK) -> Limits:
    return Limits(scope=scope, sessions=maximum)


# -- leases -----------------------------------------------------------------------------------------------------------


async def test_acquire_refuses_above_the_maximum_over_all_pods(under_test: BackendUnderTest) -> None:
    """The places of one client are shared, and a released one is free at once."""
    store = under_test.store
    one, two = await _member(under_test, "pod-a"), await _member(under_test, "pod-b")

    assert await store.acquire(one, "a", [_sessions(2)]) is True
    assert await store.acquire(two, "b", [_sessions(2)]) is True
    assert await store.acquire(two, "c", [_sessions(2)]) == Refused(KIOSK, "max_sessions", 2, 2, None)
    await store.heartbeat(one, ["a", "unknown"])
    assert await store.acquire(two, "c", [_sessions(2)]) is True


async def test_acquire_takes_all_places_or_none(under_test: BackendUnderTest) -> None:
    """A user at its limit takes no place of its client, and the refusal names the user."""
    store, member = under_test.store, await _member(under_test)
    assert await store.acquire(member, "a", [_sessions(3), _sessions(1, ALICE)]) is True

    assert await store.acquire(member, "b", [_sessions(3), _sessions(1, ALICE)]) == Refused(
        ALICE, "max_sessions", 1, 1, None
    )
    assert await store.acquire(member, "c", [_sessions(3), _sessions(1, BOB)]) is True
    assert await store.acquire(member, "d", [_sessions(3)]) is True
    assert await store.acquire(member, "e", [_sessions(3)]) == Refused(KIOSK, "max_sessions", 3, 3, None)


async def test_acquire_of_the_same_lease_counts_once(under_test: BackendUnderTest) -> None:
    """A call whose answer was lost can be repeated."""
    store, member = under_test.store, await _member(under_test)
    limits = [Limits(scope=KIOSK, sessions=2, starts_per_minute=2)]
    assert [await store.acquire(member, "a", limits) for _ in range(3)] == [True, True, True]
    assert await store.acquire(member, "b", limits) is True


async def test_concurrent_acquires_never_exceed_the_maximum(under_test: BackendUnderTest) -> None:
    """Each acquire is atomic."""
    store = under_test.store
    members = [await _member(under_test, f"pod-{pod}") for pod in range(3)]
    results = await asyncio.gather(*(store.acquire(members[n % 3], f"lease-{n}", [_sessions(100)]) for n in range(500)))
    assert sum(result is True for result in results) == 100


async def test_leases_of_a_dead_pod_lapse_after_its_last_heartbeat(under_test: BackendUnderTest) -> None:
    """Not earlier than LEASE_SECONDS, and a heartbeat that comes later is refused."""
    store, clock = under_test.store, under_test.clock
    dead, live = await _member(under_test, "pod-a"), await _member(under_test, "pod-b")
    await store.acquire(dead, "a", [_sessions(1)])
    clock.advance(20_000)
    assert await store.heartbeat(dead, []) is not None
    await store.heartbeat(live, [])
    clock.advance(LEASE_MS - 1)
    await store.heartbeat(live, [])
    assert isinstance(await store.acquire(live, "b", [_sessions(1)]), Refused)

    clock.advance(1)

    assert await store.acquire(live, "b", [_sessions(1)]) is True
    assert await store.heartbeat(dead, []) is None
    assert await store.acquire(dead, "c", [_sessions(9)]) is False
    assert await store.hold(dead, [Held("c", ((KIOSK, 9),))]) is None


async def test_pod_that_registers_again_holds_its_leases_and_learns_which_have_no_place(
    under_test: BackendUnderTest,
) -> None:
    """The sessions exist, so they count; the new fence is larger, and the old membership is over."""
    store, clock = under_test.store, under_test.clock
    first, other = await _member(under_test, "pod-a"), await _member(under_test, "pod-b")
    for lease in "ab":
        await store.acquire(first, lease, [_sessions(3)])
    clock.advance(LEASE_MS)
    other = await _member(under_test, "pod-b")
    for lease in "cd":
        await store.acquire(other, lease, [_sessions(3)])

    again = await _member(under_test, "pod-a")
    over = await store.hold(again, [Held("a", ((KIOSK, 3),)), Held("b", ((KIOSK, 3), (ALICE, None)))])

    assert over == ("b",)
    assert again.fence > first.fence
    assert await store.acquire(other, "e", [_sessions(3)]) == Refused(KIOSK, "max_sessions", 4, 3, None)
    assert await store.hold(again, [Held("a", ((KIOSK, 3),))]) == ()
    assert await store.heartbeat(first, []) is None
    await store.heartbeat(other, ["c", "d"])
    assert await store.acquire(other, "e", [_sessions(3)]) is True


async def test_registering_again_frees_the_earlier_places(under_test: BackendUnderTest) -> None:
    """A registration whose answer was lost counts nothing twice."""
    store = under_test.store
    member = await _member(under_test)
    await store.acquire(member, "a", [_sessions(1)])
    again = await _member(under_test)
    assert await store.hold(again, [Held("a", ((KIOSK, 1),))]) == ()


async def test_leaving_frees_the_places(under_test: BackendUnderTest) -> None:
    """A pod that stops keeps no place."""
    store, member = under_test.store, await _member(under_test)
    await store.acquire(member, "a", [_sessions(1)])
    await store.leave(member)
    assert await store.heartbeat(member, []) is None
    assert await store.acquire(await _member(under_test, "pod-b"), "b", [_sessions(1)]) is True


async def test_clock_that_is_set_back_does_not_keep_a_dead_pod(under_test: BackendUnderTest) -> None:
    """Its leases lapse at the latest LEASE_SECONDS after the step."""
    store, clock = under_test.store, under_test.clock
    dead = await _member(under_test, "pod-a")
    await store.acquire(dead, "a", [_sessions(1)])
    clock.advance(-3_600_000)
    live = await _member(under_test, "pod-b")
    assert isinstance(await store.acquire(live, "b", [_sessions(1)]), Refused)
    clock.advance(LEASE_MS)
    live = await _member(under_test, "pod-b")
    assert await store.acquire(live, "b", [_sessions(1)]) is True


async def test_starts_are_limited_in_any_minute(under_test: BackendUnderTest) -> None:
    """A refusal counts nothing and states when the next start is possible."""
    store, clock, member = under_test.store, under_test.clock, await _member(under_test)
    limits = [Limits(scope=KIOSK, starts_per_minute=2), Limits(scope=ALICE, sessions=2)]
    assert await store.acquire(member, "a", limits) is True
    clock.advance(10_000)
    assert await store.acquire(member, "b", limits) is True
    clock.advance(5_000)
    assert isinstance(refused := await store.acquire(member, "c", limits), Refused)
    assert refused == Refused(KIOSK, "starts_per_minute", 2, 2, 45.0)
    await store.heartbeat(member, ["a"])
    clock.advance(20_000)
    await store.heartbeat(member, [])
    clock.advance(24_999)
    assert isinstance(await store.acquire(member, "c", limits), Refused)
    clock.advance(1)
    await store.heartbeat(member, []) or (member := await _member(under_test))
    assert await store.acquire(member, "c", limits) is True


async def test_start_that_another_limit_refuses_is_not_counted(under_test: BackendUnderTest) -> None:
    """The whole acquire counts, or nothing of it."""
    store, member = under_test.store, await _member(under_test)
    await store.acquire(member, "a", [_sessions(1, ALICE)])
    limits = [Limits(scope=KIOSK, starts_per_minute=1), _sessions(1, ALICE)]
    for _ in range(3):
        assert isinstance(await store.acquire(member, "b", limits), Refused)
    assert await store.acquire(member, "c", [Limits(scope=KIOSK, starts_per_minute=1)]) is True


# -- spending ---------------------------------------------------------------------------------------------------------


async def test_report_that_is_sent_again_counts_once(under_test: BackendUnderTest) -> None:
    """Amounts are those of the whole record; late, lost and repeated reports leave the same totals."""
    store = under_test.store
    first = Spending("record-1", (KIOSK, ALICE), Amounts(100, 10, 1000))
    second = Spending("record-1", (KIOSK, ALICE), Amounts(250, 20, 3000), is_final=True)
    for report in (first, first, second, first, second):
        await store.spend([report])

    used = Totals(second.amounts, second.amounts)
    assert await store.totals([KIOSK, ALICE, BOB]) == {KIOSK: used, ALICE: used, BOB: Totals()}


async def test_reports_in_one_call_return_the_totals_of_all_scopes(under_test: BackendUnderTest) -> None:
    """A batch is one step."""
    totals = await under_test.store.spend(
        [Spending("a", (KIOSK, ALICE), Amounts(1, 2, 3)), Spending("b", (KIOSK, BOB), Amounts(10, 20, 30))]
    )
    assert {scope: used.day for scope, used in totals.items()} == {
        KIOSK: Amounts(11, 22, 33),
        ALICE: Amounts(1, 2, 3),
        BOB: Amounts(10, 20, 30),
    }


async def test_totals_start_again_with_the_day_and_the_month(under_test: BackendUnderTest) -> None:
    """By the store's clock, in UTC; a session over midnight counts on both days what it used on each."""
    store, clock = under_test.store, under_test.clock
    await store.spend([Spending("a", (KIOSK,), Amounts(5))])
    clock.advance(START + DAY_MS - 1 - clock.now)
    await store.spend([Spending("a", (KIOSK,), Amounts(7))])
    assert await store.totals([KIOSK]) == {KIOSK: Totals(Amounts(7), Amounts(7))}
    clock.advance(1)
    assert await store.totals([KIOSK]) == {KIOSK: Totals(Amounts(), Amounts(7))}
    await store.spend([Spending("a", (KIOSK,), Amounts(8))])
    assert await store.totals([KIOSK]) == {KIOSK: Totals(Amounts(1), Amounts(8))}
    clock.advance(4 * DAY_MS)  # the 2nd of December
    assert await store.totals([KIOSK]) == {KIOSK: Totals()}


async def test_clock_that_is_set_back_over_midnight_resets_no_total(under_test: BackendUnderTest) -> None:
    """A day that has begun goes on."""
    store, clock = under_test.store, under_test.clock
    clock.advance(START + 4 * DAY_MS - clock.now)  # the 1st of December, 00:00
    await store.spend([Spending("a", (KIOSK,), Amounts(5))])
    clock.advance(-60_000)
    await store.spend([Spending("b", (KIOSK,), Amounts(5))])
    assert await store.totals([KIOSK]) == {KIOSK: Totals(Amounts(10), Amounts(10))}
    clock.advance(60_000)
    assert await store.totals([KIOSK]) == {KIOSK: Totals(Amounts(10), Amounts(10))}


@pytest.mark.parametrize("period", ["day", "month"])
@pytest.mark.parametrize(("amount", "name"), [("microusd", "usd"), ("tokens", "tokens"), ("milliseconds", "minutes")])
async def test_acquire_refuses_a_scope_that_has_used_up_its_period(
    under_test: BackendUnderTest, period: str, amount: str, name: str
) -> None:
    """At the ceiling, not above it; with the time until the period ends in UTC."""
    store, clock, member = under_test.store, under_test.clock, await _member(under_test)
    ceiling = Ceiling(**{amount: 100})
    day, month = (ceiling, Ceiling()) if period == "day" else (Ceiling(), ceiling)
    limits = [Limits(scope=KIOSK), Limits(scope=ALICE, day=day, month=month)]
    await store.spend([Spending("a", (ALICE,), Amounts(**{amount: 99}))])
    assert await store.acquire(member, "a", limits) is True
    await store.spend([Spending("a", (ALICE,), Amounts(**{amount: 101}))])

    refused = await store.acquire(member, "b", limits)

    end = START + (DAY_MS if period == "day" else 4 * DAY_MS)
    assert isinstance(refused, Refused)
    assert refused[:4] == (ALICE, f"{name}_per_{period}", 101, 100)
    assert refused.retry_after_seconds == pytest.approx((end - clock.now) / 1000)


async def test_limits_are_checked_longest_first(under_test: BackendUnderTest) -> None:
    """A client that is over its month is not asked to come back in a second."""
    store, member = under_test.store, await _member(under_test)
    used_up = Ceiling(microusd=0)
    names = []
    for limits in (
        Limits(scope=KIOSK, sessions=0, starts_per_minute=0, day=used_up, month=used_up),
        Limits(scope=KIOSK, sessions=0, starts_per_minute=0, day=used_up),
        Limits(scope=KIOSK, sessions=0, starts_per_minute=0),
        Limits(scope=KIOSK, starts_per_minute=0),
    ):
        refused = await store.acquire(member, "a", [limits])
        assert isinstance(refused, Refused)
        names.append(refused.limit)
    assert names == ["usd_per_month", "usd_per_day", "max_sessions", "starts_per_minute"]


# -- secrets ----------------------------------------------------------------------------------------------------------


async def test_secret_is_taken_once(under_test: BackendUnderTest) -> None:
    """By one of any number of concurrent requests."""
    store = under_test.store
    assert await store.put_secret(DIGEST, b"\x00payload\n\xff", 60) is True
    assert await store.put_secret(DIGEST, b"other", 60) is False

    assert [b"\x00payload\n\xff"] * 2 == [await store.read_secret(DIGEST) for _ in range(2)]  # which uses it not up
    results = await asyncio.gather(*(store.take_secret(DIGEST) for _ in range(10)))

    assert await store.read_secret(DIGEST) == "used"
    assert sorted(map(str, results)) == sorted([str(b"\x00payload\n\xff"), *["used"] * 9])


async def test_secret_that_was_used_expired_or_never_existed_is_distinguished(under_test: BackendUnderTest) -> None:
    """Until ten minutes past its expiry."""
    store, clock = under_test.store, under_test.clock
    other = hashlib.sha256(b"other").hexdigest()
    for digest in (DIGEST, other):
        await store.put_secret(digest, b"payload", 60)
    await store.take_secret(other)
    assert [await store.take_secret("0" * 64), await store.read_secret("0" * 64)] == ["unknown"] * 2
    clock.advance(60_000)
    assert await store.read_secret(DIGEST) == "expired"
    assert [await store.take_secret(digest) for digest in (DIGEST, other, DIGEST)] == ["expired", "used", "expired"]
    clock.advance(-1)  # a clock that is set back opens nothing
    assert await store.take_secret(DIGEST) == "expired"
    clock.advance(SECRET_MEMORY_SECONDS * 1000)
    assert [await store.take_secret(digest) for digest in (DIGEST, other)] == ["expired", "used"]
    clock.advance(1)
    assert [await store.take_secret(digest) for digest in (DIGEST, other)] == ["unknown", "unknown"]
