"""Swaps of a session whose client reads nothing meanwhile, and of one whose relay has got another key."""

import asyncio
from pathlib import Path

import pytest

from service.relay.continuity.renewable_session import RenewableSession
from service.simulator import Behaviour, End
from tests.continuity.caller import Caller, calling
from tests.continuity.relays import FAST, Stage, force, renew, session_of, stage
from tests.continuity.test_bounds import refusing
from tests.continuity.test_recovery import is_alive
from tests.support.harness import KEY_CANARY, eventually

LONG = Behaviour(answer_seconds=120)
"""More than all buffers on the way to the client hold."""


async def fill(caller: Caller, session: RenewableSession) -> None:
    """Let an answer begin, and the client read no more of it."""
    caller.send("response.create")
    await caller.until("response.created")
    caller._reading.cancel()
    caller.client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await eventually(lambda: session._client.full_since is not None, 10)
    assert session._upstream.held_since is not None


@pytest.mark.parametrize("how", ["forced", "loss"])
async def test_swap_while_the_client_reads_nothing_loses_nothing_and_resumes(how: str) -> None:
    """The next connection is held as the one before was; the cut answer ends, and another one arrives whole."""
    async with stage(LONG) as found, calling(found.relay) as caller:
        session = session_of(found)
        caller.say("hello")
        await caller.until("conversation.item.done")
        await fill(caller, session)
        await swap(found, session, how)
        assert session._upstream.held_since is not None
        assert session._client.buffered_bytes < 1 << 18
        caller.client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        caller._reading = asyncio.ensure_future(caller._read())
        await caller.until("response.done", 2, 30)
        assert [end["response"]["status"] for end in caller.of_type("response.done")] == ["cancelled", "completed"]
        await is_alive(caller)
        assert session._upstream.held_since is None
        caller.check()


async def swap(found: Stage, session: RenewableSession, how: str) -> None:
    """Replace upstream."""
    if how == "loss":
        session._upstream.abort()
    else:
        await renew(found)
        await force(found)
    await eventually(lambda: found.swaps(how) == 1, 10)


async def test_connection_after_a_rotation_has_the_new_key(tmp_path: Path) -> None:
    """The session began with a key that is perhaps revoked by now."""
    file = tmp_path / "key"
    file.write_text(KEY_CANARY)
    async with stage(OPENAI_API_KEY="", OPENAI_API_KEY_FILE=str(file)) as found, calling(found.relay) as caller:
        file.write_text(f"{KEY_CANARY}-next")
        await eventually(lambda: found.relay.metric("realtime_relay_key_rotations_total", result="taken"), 10)
        await found.simulator.drop_all(End.RESET)
        await eventually(lambda: found.swaps("loss") == 1)
        await is_alive(caller)
        carried = [record for record in found.upstreams if record.conversation and record.conversation.sessions]
        keys = {record.headers["Authorization"].removeprefix("Bearer ") for record in (carried[0], carried[-1])}
        assert keys == {KEY_CANARY, f"{KEY_CANARY}-next"}
        caller.check()


async def test_answers_of_the_relay_that_the_client_does_not_read_are_bounded() -> None:
    """It retrieves an item that the next connection lacks, of 300 kB, again and again: nothing else would hold it back."""
    async with stage(FAST, refusing("conversation.item.create", 1)) as found, calling(found.relay) as caller:
        caller.say("x" * 300_000)
        await caller.until("conversation.item.done")
        await found.simulator.drop_all(End.RESET)
        await eventually(lambda: found.swaps("loss") == 1)
        caller.send("conversation.item.retrieve", item_id=caller.items[0])
        await caller.until("conversation.item.retrieved")
        caller._reading.cancel()
        caller.client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for _ in range(100):
            caller.send("conversation.item.retrieve", item_id=caller.items[0])
        await eventually(lambda: found.relay.events("session.ended"))  # long before the limit on reading nothing
        assert await found.ended() == "client_too_slow"
