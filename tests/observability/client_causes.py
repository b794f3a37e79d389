"""The scenarios of the clients file: a mistake in it, a budget that is used up, keys that cannot be fetched."""

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from aiohttp import web

from service.access.clients import digest_of
from tests.observability.clients import path, request_response
from tests.observability.testbed import Testbed, replace_file
from tests.support.harness import open_raw
from tests.support.jwt_issuer import issuer_table, running_issuer

_TOKEN: Final = "the-token-of-the-kiosk-0123456789"
_KIOSK: Final = f'[clients.kiosk]\ntoken_sha256 = ["{digest_of(_TOKEN)}"]\n'


def add_deployments(testbed: Testbed) -> None:
    """Add a deployment for each scenario."""
    for job, text in (("clients", _KIOSK), ("budget", f"{_KIOSK}tokens_per_month = 1\n"), ("jwks", _KIOSK)):
        file = _file(testbed, job)
        file.write_text(text, encoding="utf-8")
        testbed.add(job, settings={"RELAY_CLIENTS_FILE": str(file)})


async def clients_file(testbed: Testbed) -> None:
    """The clients file gets a mistake, which is then corrected."""
    instance = testbed.deployments["clients"].relays[0].target
    since = time.monotonic()
    replace_file(_file(testbed, "clients"), f"{_KIOSK}max_sesions = 2\n")
    await testbed.expect_firing("RelayClientsFileRefused", "clients", since, instance=instance)
    recovered = time.monotonic()
    replace_file(_file(testbed, "clients"), _KIOSK)
    await testbed.expect_resolved("RelayClientsFileRefused", "clients", recovered)


async def budget(testbed: Testbed) -> None:
    """A client uses up its month; then the limit is raised."""
    since = time.monotonic()
    client = await open_raw(testbed.deployments["budget"].port, path(), {"Authorization": f"Bearer {_TOKEN}"})
    await request_response(client)
    await client.close()
    await testbed.expect_firing("RelayBudgetNearlyUsed", "budget", since, client="kiosk")
    recovered = time.monotonic()
    replace_file(_file(testbed, "budget"), f"{_KIOSK}tokens_per_month = 1_000_000\n")
    await testbed.expect_resolved("RelayBudgetNearlyUsed", "budget", recovered)


async def key_set(testbed: Testbed) -> None:
    """The identity provider answers the request for its keys with an error, then with the keys."""
    relay = testbed.deployments["jwks"].relays[0]

    async def fail(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=503)

    async with running_issuer() as issuer:
        issuer.answer = fail
        replace_file(_file(testbed, "jwks"), _KIOSK + issuer_table(issuer.url))
        since = time.monotonic()
        await relay.start()
        await testbed.expect_firing("RelayJwksFailing", "jwks", since, instance=relay.target)
        recovered = time.monotonic()
        issuer.answer = None
        await testbed.expect_resolved("RelayJwksFailing", "jwks", recovered)


def _file(testbed: Testbed, job: str) -> Path:
    return testbed.folder / f"clients-{job}.toml"


SCENARIOS: Final[tuple[Callable[[Testbed], Awaitable[None]], ...]] = (clients_file, budget, key_set)
