"""When an upstream is replaced."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.realtime.continuity.continuity import Boundary
from service.realtime.continuity.swap import Step, StormSpread, Swap, SwapState, SwapTimes, is_recoverable


def new_swap(seconds_left: float | None = 3600.0, **times: float) -> Swap:
    """A live session at time 0."""
    swap = Swap(times=SwapTimes(**times), random=lambda: 0.5)
    swap.schedule(0.0, seconds_left)
    return swap


def at(boundary: Boundary) -> Callable[[], Boundary]:
    """Answers with one boundary."""
    return lambda: boundary


def ready_swap() -> Swap:
    """A session that expires at 3600 and has a second upstream in sync."""
    swap = new_swap()
    swap.preparing(3200)
    swap.dialled(3201)
    swap.configured(3202)
    swap.prepared()
    return swap


def test_renewal_is_prepared_before_the_session_expires() -> None:
    """The spread of 240 seconds is halved by the random number."""
    swap = new_swap()
    assert swap.due(3179, at(Boundary.NONE)) is None
    assert swap.due(3180, at(Boundary.NONE)) is Step.PREPARE
    assert swap.next_at() == 3180


@pytest.mark.parametrize("seconds_left", [None, -5.0, 0.2, 1e9])
def test_session_without_a_usable_expiry_is_not_renewed(seconds_left: float | None) -> None:
    """An `expires_at` that is absent or absurd says nothing."""
    assert new_swap(seconds_left).due(1e8, at(Boundary.SOFT)) is None


def test_setting_replaces_an_expiry_that_is_not_usable() -> None:
    """RELAY_RENEW_AFTER_SECONDS is for upstreams that state no time."""
    assert new_swap(None, renew_after=1000.0).due(999, at(Boundary.SOFT)) is Step.PREPARE


def test_switch_waits_for_a_soft_boundary_then_a_hard_one_then_is_forced() -> None:
    """The closer the end, the less the switch waits for."""
    swap = ready_swap()
    assert swap.due(3300, at(Boundary.HARD)) is None
    assert swap.due(3300, at(Boundary.SOFT)) is Step.SWITCH
    assert swap.due(3539, at(Boundary.HARD)) is None
    assert swap.due(3541, at(Boundary.HARD)) is Step.SWITCH
    assert swap.due(3541, at(Boundary.NONE)) is None
    assert swap.due(3592, at(Boundary.NONE)) is Step.FORCE


def test_forced_switch_goes_on_with_the_prepared_upstream() -> None:
    """There is no second dial."""
    swap = ready_swap()
    assert swap.lost(3592, is_forced=True)
    assert swap.state is SwapState.REPLAY
    assert swap.due(3593, at(Boundary.NONE)) is None


def test_preparation_that_fails_is_repeated_after_longer_and_longer() -> None:
    """A preparation that takes too long fails as well."""
    swap = new_swap()
    waits = []
    now = 3180.0
    for _ in range(3):
        swap.preparing(now)
        assert swap.due(now + 8, at(Boundary.SOFT)) is Step.ABANDON
        swap.preparation_failed(now)
        waits.append(swap.next_at() - now)
        now = swap.next_at()
    assert waits == [30, 60, 120]


def test_preparation_is_repeated_before_the_session_expires() -> None:
    """The waits are cut short by the end of the session."""
    swap = new_swap()
    now = 3180.0
    for _ in range(6):
        swap.preparing(now)
        swap.preparation_failed(now)
        now = swap.next_at()
    assert now < 3600


def test_preparations_behind_the_expiry_keep_their_waits() -> None:
    """Upstream may go on behind its time, or the time is only a setting: a dial a second would never end."""
    swap = new_swap(60.0)
    dials, now = 0, 0.0
    while now < 3600:
        now = max(now, swap.next_at())
        assert swap.due(now, at(Boundary.NONE)) is Step.PREPARE
        swap.preparing(now)
        swap.preparation_failed(now)
        dials += 1
    assert dials < 20


def test_session_that_is_never_renewed_is_not_by_the_setting_either() -> None:
    """A sideband, or the session of a process that drains."""
    swap = new_swap(renew_after=600.0)
    swap.renew_never()
    assert swap.due(100_000, at(Boundary.SOFT)) is None


def test_loss_during_the_preparation_keeps_what_is_prepared() -> None:
    """The new upstream takes over."""
    swap = new_swap()
    swap.preparing(3200)
    swap.dialled(3201)
    assert swap.lost(3201)
    assert swap.state is SwapState.REPLAY


def test_loss_during_the_dial_waits_for_its_result() -> None:
    """The dial of the renewal becomes that of the recovery."""
    swap = new_swap()
    swap.preparing(3200)
    assert swap.lost(3201)
    assert swap.due(3202, at(Boundary.NONE)) is None
    swap.dialled(3203)
    assert swap.state is SwapState.REPLAY


def test_recovery_dials_at_once_and_gives_up_at_its_deadline() -> None:
    """Later attempts wait."""
    swap = new_swap()
    assert swap.lost(10)
    assert swap.due(10, at(Boundary.NONE)) is Step.DIAL
    swap.dialling()
    assert swap.due(11, at(Boundary.NONE)) is None
    assert swap.attempt_failed(11)
    assert swap.due(11.1, at(Boundary.NONE)) is None
    assert swap.due(11.5, at(Boundary.NONE)) is Step.DIAL
    assert swap.due(25, at(Boundary.NONE)) is Step.GIVE_UP


def test_session_that_loses_its_upstream_again_and_again_ends() -> None:
    """Three losses within two minutes are recovered."""
    swap = new_swap()
    for now in (10, 20, 30):
        assert swap.lost(now)
        swap.dialled(now)
        swap.replayed()
        swap.live()
    assert not swap.lost(40)
    assert swap.lost(140)


def test_event_that_kills_each_upstream_ends_the_session() -> None:
    """A new upstream that is lost behind its first event counts as a loss."""
    swap = new_swap()
    assert swap.lost(10)
    for _ in range(2):
        swap.dialled(10)
        assert swap.attempt_failed(10)
    swap.dialled(11)
    assert not swap.attempt_failed(11)


def test_refused_dials_do_not_count_as_losses() -> None:
    """Only the deadline ends these attempts."""
    swap = new_swap()
    assert swap.lost(10)
    for _ in range(8):
        assert swap.attempt_failed(10)


def test_few_losses_are_recovered_at_once() -> None:
    """Ten sessions are no storm."""
    storm = StormSpread()
    assert [storm.delay(0.0, "a", is_urgent=False, random=0.5) for _ in range(10)] == [0.0] * 10


def test_storm_is_spread_over_seconds_and_users_who_wait_come_first() -> None:
    """A thousand sessions lose their upstream at once, of one client or of a thousand."""
    for clients in (1, 1000):
        storm = StormSpread()
        delays = [
            storm.delay(0.0, f"client {number % clients}", is_urgent=number % 10 == 0, random=0.5)
            for number in range(1000)
        ]
        assert 9 < max(delays) < 11
        assert max(delays[::10]) < 1.5
        assert storm.delay(100.0, "client 0", is_urgent=False, random=0.5) == 0.0


def test_clients_take_turns_in_a_storm() -> None:
    """One that loses a thousand sessions delays that of another by its own share."""
    storm = StormSpread()
    many = [storm.delay(0.0, "many", is_urgent=True, random=0.5) for _ in range(1000)]
    assert 9 < max(many) < 11
    assert storm.delay(0.0, "one", is_urgent=False, random=0.5) < 0.05


@pytest.mark.parametrize("code", [None, 1001, 1005, 1006, 1011, 1012, 1013])
def test_loss_is_recoverable(code: int | None) -> None:
    """Unless the account or the key caused it."""
    assert is_recoverable(code)
    assert not is_recoverable(code, is_fatal=True)


@pytest.mark.parametrize("code", [1000, 1002, 1003, 1007, 1008, 1009, 1010, 3000, 4004])
def test_end_is_not_recoverable(code: int) -> None:
    """Unless the session reached its maximum duration."""
    assert not is_recoverable(code)
    assert is_recoverable(code, has_expired=True)


def do(swap: Swap, step: Step | None, outcome: int, now: float) -> bool:
    """Do a step with one of three outcomes: it succeeds, fails, or takes too long; returns whether the session goes on."""
    match step:
        case Step.PREPARE:
            swap.preparing(now)
        case Step.ABANDON:
            swap.preparation_failed(now)
        case Step.SWITCH:
            swap.live()
            swap.schedule(now, 100.0)
        case Step.FORCE:
            return swap.lost(now, is_forced=True)
        case Step.DIAL:
            swap.dialling()
        case Step.RESTART:
            return swap.attempt_failed(now)
        case Step.GIVE_UP:
            return False
        case None:
            return answer(swap, outcome, now)
    return True


def answer(swap: Swap, outcome: int, now: float) -> bool:
    """Upstream does what the session waits for, refuses it, or does nothing."""
    state = swap.state
    if outcome == 1 and state is SwapState.PREPARING:
        swap.dialled(now)
        swap.configured(now)
        swap.prepared()
    elif outcome == 1 and state is SwapState.LOST:
        swap.dialled(now)
    elif outcome == 1 and state is SwapState.REPLAY:
        swap.replayed()
    elif outcome == 1 and state is SwapState.FLUSH:
        swap.live()
        swap.schedule(now, 100.0)
    elif outcome == 2 and state in {SwapState.PREPARING, SwapState.READY}:
        swap.preparation_failed(now)
    elif outcome == 2 and state in {SwapState.LOST, SwapState.REPLAY, SwapState.FLUSH}:
        return swap.attempt_failed(now)
    elif outcome == 3 and state in {SwapState.LIVE, SwapState.PREPARING, SwapState.READY}:
        return swap.lost(now)
    return True


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40), st.sampled_from(Boundary)), max_size=60))
def test_every_swap_ends_by_its_deadline(moves: list[tuple[int, int, Boundary]]) -> None:
    """Whatever upstream does, and whenever: without an upstream the session goes on or ends within seconds."""
    swap, now, lost_since = new_swap(100.0), 0.0, None
    for outcome, tenths, boundary in moves:
        now = min(now + tenths / 10, max(now, swap.next_at()))
        if not do(swap, swap.due(now, at(boundary)), outcome, now):
            return
        if swap.state in {SwapState.LIVE, SwapState.PREPARING, SwapState.READY}:
            lost_since = None
            assert swap.lost_at is None
        elif lost_since is None:
            lost_since = now
        if lost_since is not None:
            assert swap.lost_at == lost_since
            assert now - lost_since <= 15
            assert swap.next_at() <= lost_since + 15


def recovered(swap: Swap, now: float, *, failures: int = 0) -> None:
    """A loss, some dials that fail, and one that does not."""
    assert swap.lost(now)
    for _ in range(failures):
        assert swap.attempt_failed(now)
    swap.dialled(now)
    swap.replayed()
    swap.live()
    swap.schedule(now, 3600.0)


def test_each_loss_is_recovered_as_the_first_one() -> None:
    """The dial and the attempts of the one before say nothing of it."""
    swap = new_swap()
    recovered(swap, 10, failures=4)
    assert swap.lost(20)
    assert (swap.state, swap.due(20, at(Boundary.NONE))) == (SwapState.LOST, Step.DIAL)
    assert swap.attempt_failed(20)
    assert swap.next_at() == 20.375


def test_eleventh_loss_within_an_hour_ends_the_session() -> None:
    """However far apart they are."""
    swap = new_swap()
    for number in range(10):
        recovered(swap, 300.0 * number)
    assert not swap.lost(3_000.0)
    assert swap.lost(3_601.0)


def test_session_that_waits_in_a_storm_has_the_time_of_a_dial() -> None:
    """Its first attempt may come close to the end of the time for a recovery, or behind it."""
    swap = new_swap()
    assert swap.lost(0, delay=14)
    assert swap.due(13.9, at(Boundary.NONE)) is None
    assert swap.due(14, at(Boundary.NONE)) is Step.DIAL
    swap.dialling()
    assert swap.due(21.9, at(Boundary.NONE)) is None
    assert swap.due(22, at(Boundary.NONE)) is Step.GIVE_UP


def test_failures_before_a_renewal_do_not_delay_the_next_one() -> None:
    """The waits between preparations begin anew with each upstream."""
    swap = new_swap()
    for _ in range(3):
        swap.preparing(3180)
        swap.preparation_failed(3180)
    recovered(swap, 3200)
    swap.preparing(6500)
    swap.preparation_failed(6500)
    assert swap.next_at() == 6530
