"""A locked policy holds on each upstream connection of a session, and no event of a replacement shows its instructions."""

import json
from pathlib import Path
from typing import Any

import pytest

from service.simulator import End, Fault, Moment
from service.simulator.response import Response
from tests.clients_file.relays import TOKENS, table, write
from tests.continuity.caller import calling
from tests.continuity.relays import failing, stage
from tests.support.harness import eventually

SECRET = "CANARY-you-sell-trains"
POLICY = f"""
[policies.kiosk]
instructions = "{SECRET}"
voice = "cedar"
locked = ["instructions", "voice"]
"""
HEADERS = {"Authorization": f"Bearer {TOKENS['kiosk']}"}
CUTS = ("response.created", "response.output_item.added", "response.output_audio.delta", "response.done")


@pytest.mark.parametrize("cut", CUTS)
async def test_answer_that_is_cut_shows_no_instructions(
    tmp_path: Path, cut: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a provider whose responses have them, and the relay's event that ends one; each connection has the policy."""
    object_of = Response._object
    monkeypatch.setattr(Response, "_object", lambda *args: {**object_of(*args), "instructions": SECRET})
    path = tmp_path / "clients.toml"
    write(path, table("kiosk", 'policy = "kiosk"') + POLICY)
    settings: dict[str, Any] = {"RELAY_CLIENTS_FILE": str(path), "RELAY_MODEL": "gpt-realtime-mini"}
    moment = Moment.BEFORE_SENT if cut == "response.done" else Moment.AFTER_SENT
    async with (
        stage(failing(Fault(moment, End.RESET, event=cut)), **settings) as found,
        calling(found.relay, headers=HEADERS) as caller,
    ):
        caller.say("hello")
        caller.send("session.update", session={"type": "realtime", "instructions": "Sell ships."})
        caller.send("response.create")
        await eventually(lambda: found.swaps("loss") == 1, 10)
        await caller.until(lambda: any(e["response"]["status"] == "completed" for e in caller.of_type("response.done")))
        caller.send("session.update", session={"type": "realtime", "audio": {"output": {"voice": "ash"}}})
        await caller.until("error", 2)

        assert ["instructions_locked", "field_locked"] == [event["error"]["code"] for event in caller.of_type("error")]
        assert SECRET not in json.dumps(caller.events)
        for conversation in found.conversations:
            assert SECRET == conversation.sessions[-1]["instructions"]
            assert "cedar" == conversation.sessions[-1]["audio"]["output"]["voice"]
        assert 2 == len(found.conversations)
