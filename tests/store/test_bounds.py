"""What the memory of an instance keeps of the store."""

import pytest

from service.store import state
from service.store.interface import Amounts, Scope, Spending
from service.store.state import StoreState
from tests.store.conftest import FakeClock


def test_state_forgets_the_least_recent_user_and_no_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of users can have names of their own; the clients file bounds the clients."""
    monkeypatch.setattr(state, "MAX_USERS", 3)
    clock = FakeClock()
    kept = StoreState(clock)

    def spend(record: int, user: int) -> None:
        clock.advance(1_000)
        scopes = (Scope("app"), Scope("app", f"user-{user}"))
        kept.spend([Spending(f"record-{record}", scopes, Amounts(tokens=10))])

    for record, user in enumerate((0, 1, 2, 0, 3, 4)):
        spend(record, user)
    users = [Scope("app", f"user-{user}") for user in range(5)]
    totals = kept.totals([Scope("app"), *users])

    assert 60 == totals[Scope("app")].month.tokens
    assert [20, 0, 0, 10, 10] == [totals[user].month.tokens for user in users]
