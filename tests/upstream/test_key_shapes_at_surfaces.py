"""A key that plainly is no key: never sent to OpenAI, named at every surface; sent to another server, with a warning."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from service.simulator import Simulator, SimulatorOptions
from tests.support.doctor_chain import run_provider_chain
from tests.support.harness import KEY_CANARY, open_raw, running_relay
from tests.upstream.test_key_files import surfaces

NO_KEYS = {
    "@Microsoft.KeyVault(SecretUri=https://CANARY.vault.azure.net/secrets/k)": "is a reference to Azure Key Vault",
    "op://CANARY/item/key": "is a 1Password reference",
    "arn:aws:secretsmanager:eu-west-1:123456789012:secret:CANARY": "is a reference to a secret store",
    "${CANARY_KEY}": "contains a variable or template",
    f'{{"key":"{KEY_CANARY}"}}': "is a JSON document",
    "ENC[AES256_GCM,data:CANARY,type:str]": "is encrypted",
    f"{KEY_CANARY} # prod key": "ends with a comment",
    f"LLM_KEY={KEY_CANARY}": "is a line NAME=value",
    "/run/CANARY/key": "is the name of a file",
    "undefined": "is a word",
    "sk-admin-CANARY0123456789abcdefghijk": "is an admin key, which cannot open sessions",
}


@asynccontextmanager
async def counting_proxy() -> AsyncIterator[tuple[int, list[None]]]:
    """A proxy that accepts connections and closes them: its port, and an entry for each connection."""
    connections: list[None] = []

    def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(None)
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], connections


@pytest.mark.parametrize("key", NO_KEYS)
async def test_value_that_is_no_key_is_never_sent_to_openai(tmp_path: Path, key: str) -> None:
    """Neither clients nor health checks nor the doctor connect. Every surface names what the value is, and none shows it."""
    async with counting_proxy() as (port, connections):
        environ = {"OPENAI_API_KEY": key, "RELAY_UPSTREAM_PROXY": f"http://127.0.0.1:{port}"}
        async with running_relay(
            OPENAI_BASE_URL="https://api.openai.com/v1",
            OPENAI_API_KEY=key,
            RELAY_UPSTREAM_PROXY=environ["RELAY_UPSTREAM_PROXY"],
        ) as relay:
            texts = await surfaces(relay, 424, "key_malformed")
            texts["start"] = str(relay.events("key.problem_found"))
            output = str(relay.logs) + relay.used_series()
        report = await run_provider_chain(environ, tmp_path)
        texts["doctor"] = f"{report['key'].reason} {report.text('key')}"

    assert [] == connections
    for surface, text in texts.items():
        assert f"The key {NO_KEYS[key]}" in text, surface
    assert "CANARY" not in output + str(texts) + report.document


@pytest.mark.parametrize("key", ["op://vault/item/key", "${OPENAI_API_KEY}", "/run/secrets/key", "id:secret", "EMPTY"])
async def test_compatible_server_gets_the_key_as_it_is(key: str) -> None:
    """It decides by itself. What looks like a mistake is a warning at the start, and the session opens."""
    async with (
        Simulator(SimulatorOptions(pace=0)) as simulator,
        running_relay(simulator=simulator, OPENAI_API_KEY=key) as relay,
    ):
        client = await open_raw(relay.app.public_port)
        await client.close()

        assert 101 == client.answer.status
        assert {"warning"} >= {line["log_level"] for line in relay.events("key.problem_found")}
        assert len(relay.events("key.problem_found")) == (key not in {"id:secret", "EMPTY"})
