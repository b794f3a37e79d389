"""The lines of docs/clients.md that print reason and remedy, run with the real SDK against a relay that refuses."""

import json
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from service.failures import CATALOGUE
from tests.support.harness import KEY_CANARY, TOKEN_CANARY, simulated_relay
from tests.support.sdk import openai_client

CLIENTS = Path(__file__).resolve().parents[2] / "docs" / "clients.md"
TOKENS = {"RELAY_ACCESS": "tokens", "RELAY_CLIENT_TOKENS": TOKEN_CANARY}


def documented_lines() -> str:
    """The Python example of the section, as the body of a coroutine with a `client`."""
    section = CLIENTS.read_text(encoding="utf-8").split("### Print reason and remedy", 1)[1]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found
    return "async def run(client):\n" + textwrap.indent(found[1], "    ")


@pytest.mark.parametrize(
    ("token", "key", "reason"),
    [
        ("wrong-token", KEY_CANARY, "token_invalid"),
        (TOKEN_CANARY, "sk-sim-key-rejected", "key_rejected"),
        (TOKEN_CANARY, "sk-sim-quota-exhausted", "quota_exhausted"),
    ],
)
async def test_openai_python_prints_reason_and_remedy(
    token: str, key: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The SDK raises with the status; the lines print the relay's code, message and remedy."""
    names: dict[str, Any] = {}
    exec(compile(documented_lines(), str(CLIENTS), "exec"), names)  # noqa: S102 - the documented lines themselves
    async with (
        simulated_relay(None, OPENAI_API_KEY=key, **TOKENS) as relay,
        openai_client(token, f"{relay.url}/v1") as client,
    ):
        await names["run"](client)

    row = CATALOGUE[reason]
    assert f"{reason}\n{row.sentence}\n" in capsys.readouterr().out


async def test_openai_python_receives_the_event_on_request() -> None:
    """With `on_failure=event` a refused token is the first event, then close code 3000."""
    async with (
        simulated_relay(None, **TOKENS) as relay,
        openai_client("wrong-token", f"{relay.url}/v1") as client,
        client.realtime.connect(model="gpt-realtime", extra_query={"on_failure": "event"}) as connection,
    ):
        error = json.loads(await connection.recv_bytes())["error"]

    assert ("token_invalid", CATALOGUE["token_invalid"].remedy) == (error["code"], error["remedy"])
