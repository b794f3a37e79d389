"""Unexpected exceptions of swaps: wherever one is raised, it ends its session with `internal_error` at once."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from service.realtime.continuity.continuity import Continuity
from service.realtime.continuity.kept import TRANSCRIBED
from service.realtime.continuity.replay import Replay
from service.relay.continuity import connections
from service.relay.continuity.connections import RetiredConnection
from service.relay.continuity.kept_conversation import KeptConversation
from service.relay.continuity.preparation import Preparation
from service.relay.continuity.renewable_session import RenewableSession
from service.relay.continuity.swapper import Swapper
from service.simulator import End
from service.upstream.dial import UpstreamConnection
from service.web.client_dialler import ClientDialler
from tests.continuity.caller import Caller, calling
from tests.continuity.relays import Stage, prepare, renew, stage
from tests.support.continued_call import upstream_frame
from tests.support.harness import eventually


def broken(*_: object, **__: object) -> None:
    """Raise."""
    raise ZeroDivisionError


async def until_lost(found: Stage, caller: Caller) -> None:
    """Lose upstream."""
    caller.say("hello")
    await caller.until("conversation.item.done")
    await found.simulator.drop_all(End.RESET)


async def until_renewed(found: Stage, caller: Caller) -> None:
    """Have something to restore, and the renewal due."""
    caller.say("hello")
    await caller.until("conversation.item.done")
    await renew(found)


RECOVERIES: dict[str, tuple[type, str]] = {
    "when upstream is lost": (Continuity, "upstream_lost"),
    "in the dial": (ClientDialler, "dial_for"),
    "before the replay": (Continuity, "start_replay"),
    "in the replay": (Replay, "take"),
    "in an answer to the replay": (Replay, "received"),
    "at the switch": (KeptConversation, "flush"),
    "in its end": (Swapper, "_finished"),
}
RENEWALS: dict[str, tuple[type, str]] = {
    "in the timer": (Swapper, "_prepare"),
    "in the dial": (ClientDialler, "dial_for"),
    "in the replay": (Replay, "take"),
    "in an answer to the replay": (Replay, "received"),
    "at the switch": (RenewableSession, "replace_upstream"),
}


async def ends_with_internal_error(found: Stage, caller: Caller) -> None:
    """The client is sent it, it is counted and logged, and no connection is left."""
    await caller.until_over()
    assert await found.ended() == "internal_error"
    assert caller.of_type("error")[-1]["error"]["code"] == "internal_error"
    assert found.relay.events("session.failed")
    await eventually(lambda: all(record.closed for record in found.simulator.connections))
    await eventually(lambda: not found.relay.app.sessions)


@pytest.mark.parametrize("where", RECOVERIES)
async def test_exception_in_a_recovery_ends_the_session(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not wait for its deadline."""
    async with stage() as found, calling(found.relay) as caller:
        monkeypatch.setattr(*RECOVERIES[where], broken)
        await until_lost(found, caller)
        await ends_with_internal_error(found, caller)


@pytest.mark.parametrize("where", RENEWALS)
async def test_exception_in_a_renewal_ends_the_session(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known of what has been done of it."""
    async with stage() as found, calling(found.relay) as caller:
        monkeypatch.setattr(*RENEWALS[where], broken)
        await until_renewed(found, caller)
        await ends_with_internal_error(found, caller)


async def test_exception_in_a_late_event_of_the_former_connection_ends_the_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is read for its late transcripts."""

    class Retired(RetiredConnection):
        """Gets one at once."""

        def __init__(self, connected: UpstreamConnection, *others: Any) -> None:
            super().__init__(connected, *others)
            late = upstream_frame({"type": TRANSCRIBED, "item_id": "a", "transcript": "late"})
            receiver = connected.leg._receiver
            assert receiver is not None
            asyncio.get_running_loop().call_soon(receiver.receive, late)

    monkeypatch.setattr(connections, "RetiredConnection", Retired)
    monkeypatch.setattr(Continuity, "old_upstream_event", broken)
    async with stage() as found, calling(found.relay) as caller:
        await until_renewed(found, caller)
        await ends_with_internal_error(found, caller)


async def test_exception_at_a_drain_ends_one_session_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are drained."""
    async with stage() as found, calling(found.relay) as caller:
        await prepare(found, caller)
        monkeypatch.setattr(Preparation, "abort", raising_once(Preparation.abort))
        [session] = found.relay.app.sessions
        session.announce_drain(60)
        await ends_with_internal_error(found, caller)


def raising_once(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that raises when it is called for the first time."""
    calls: list[object] = []

    def call(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 1:
            raise ZeroDivisionError
        return method(*args)

    return call
