"""service/relay/continuity/fair_slots.py: how clients share the slots for renewals and recoveries."""

import asyncio

import pytest

from service.relay.continuity.fair_slots import FairSlots


class Dials:
    """Dials whose end a test decides."""

    def __init__(self, maximum: int) -> None:
        self._slots = FairSlots(maximum)
        self.begun: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []
        self._ends: list[asyncio.Event] = []

    def dial(self, client: str) -> asyncio.Task[None]:
        """Begin as soon as there is a slot."""
        self.tasks.append(task := asyncio.ensure_future(self._dial(client)))
        return task

    async def _dial(self, client: str) -> None:
        async with self._slots.slot(client):
            self.begun.append(client)
            self._ends.append(end := asyncio.Event())
            await end.wait()

    async def end_first(self) -> None:
        """End the first dial that runs, and let the next one begin."""
        self._ends.pop(0).set()
        await settle()


async def settle() -> None:
    """Let everything happen that can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_clients_take_turns() -> None:
    """A client with one session waits for one dial of another, not for all of them."""
    dials = Dials(1)
    for client in ["many"] * 5 + ["one", "two"] + ["many"]:
        dials.dial(client)
    await settle()
    for _ in range(8):
        await dials.end_first()
    assert dials.begun == ["many", "many", "one", "two"] + ["many"] * 4
    await asyncio.gather(*dials.tasks)


async def test_slots_are_bounded() -> None:
    """For one client as for many."""
    dials = Dials(3)
    for number in range(5):
        dials.dial(f"client {number}")
    await settle()
    assert len(dials.begun) == 3
    await dials.end_first()
    assert len(dials.begun) == 4
    for _ in range(4):
        await dials.end_first()
    await asyncio.gather(*dials.tasks)


@pytest.mark.parametrize("is_given", [False, True], ids=["waiting", "in the turn in which its slot comes"])
async def test_dial_that_is_cancelled_keeps_no_slot(is_given: bool) -> None:
    """The next one gets it."""
    dials = Dials(1)
    dials.dial("a")
    second = dials.dial("b")
    await settle()
    if is_given:
        dials._ends.pop(0).set()
        await asyncio.sleep(0)  # the first dial ends in this turn, and the second one would begin in the next
    second.cancel()
    await settle()
    dials.dial("c")
    if not is_given:
        await dials.end_first()
    await settle()
    assert dials.begun == ["a", "c"]
    await dials.end_first()


async def test_dial_that_is_cancelled_costs_its_client_no_turn() -> None:
    """As the session of a client that leaves meanwhile."""
    dials = Dials(1)
    for client in "abbc":
        dials.dial(client)
    await settle()
    dials.tasks[1].cancel()
    for _ in range(3):
        await dials.end_first()
    assert dials.begun == ["a", "b", "c"]
    await asyncio.gather(*dials.tasks, return_exceptions=True)
