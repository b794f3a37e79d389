"""Azure OpenAI behind a company's CONNECT proxy, with a CA that only SSL_CERT_FILE names."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest

from tests.support.certificates import Authority
from tests.support.harness import eventually, open_raw, running_relay
from tests.support.live_client import live_simulator
from tests.support.raw_http_server import Exchange, answer_health_check
from tests.support.relay_process import run, serving
from tests.support.tcp_server import Serve, listening

HOST = "res.openai.azure.com"
REFUSALS = {
    "flat": (403, {"code": "403", "message": "A Virtual Network is configured for this resource. Use it."}),
    "nested": (403, {"error": {"code": "403", "message": "Access denied due to Virtual Network/Firewall rules."}}),
    "public": (403, {"error": {"code": "403", "message": "Public access is disabled. Use a private endpoint."}}),
    "version": (400, {"error": {"code": "BadRequest", "message": "API version not supported"}}),
    "key": (401, {"error": {"code": "401", "message": "Access denied due to invalid subscription key."}}),
    "role": (403, {"error": {"code": "PermissionDenied", "message": "The principal lacks the required data action."}}),
    "deployment": (404, {"error": {"code": "DeploymentNotFound", "message": "The deployment does not exist."}}),
    "quota": (429, {"error": {"code": "429", "message": "Requests have exceeded call rate limit."}}),
    "outage": (503, {"error": {"code": "ServiceUnavailable", "message": "Try later."}}),
}
EXPECTED = {
    "flat": ("network_not_allowed", "private endpoint"),
    "nested": ("network_not_allowed", "private endpoint"),
    "public": ("network_not_allowed", "private endpoint"),
    "version": ("request_rejected", "API version in OPENAI_BASE_URL"),
    "key": ("key_rejected", "Azure portal: Keys and Endpoint"),
    "role": ("key_forbidden", "Cognitive Services OpenAI User"),
    "deployment": ("model_not_found", "name of the deployment"),
    "quota": ("rate_limited", "capacity in the Azure portal"),
    "outage": ("upstream_overloaded", "azure.status.microsoft"),
}
"""By model: the reason, and a part of the operator's remedy."""


async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer as Azure does; the requested model selects the refusal, and others work."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    model = re.search(r"(?:model=|/models/)(\w+)", head)
    exchange = Exchange(head, 1, reader, writer)
    if model is None or model[1] not in REFUSALS:
        await answer_health_check(exchange)
    else:
        status, body = REFUSALS[model[1]]
        exchange.answer(f"{status} Refused", json.dumps(body).encode(), Content_Type="application/json")
    writer.close()


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy one direction of a connection."""
    with suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def azure_behind_a_proxy(authority: Authority, serve: Serve = refuse) -> AsyncIterator[tuple[int, list[str]]]:
    """Run Azure with a certificate of its name, and a proxy that connects to it; yields the proxy's port and its requests."""
    requests: list[str] = []

    async with listening(serve, tls=authority.server_context(HOST)) as azure:

        async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(asyncio.IncompleteReadError):
                requests.append((await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[0])
                upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", azure)
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await asyncio.gather(copy(reader, upstream_writer), copy(upstream_reader, writer))

        async with listening(connect) as proxy:
            yield proxy, requests


def settings_for(proxy: int) -> dict[str, str]:
    """The settings of a relay for Azure behind this proxy."""
    return {
        "RELAY_UPSTREAM": "openai",
        "OPENAI_API_KEY": "0123456789abcdef" * 2,
        "OPENAI_BASE_URL": f"https://{HOST}/openai/v1",
        "RELAY_UPSTREAM_PROXY": f"http://127.0.0.1:{proxy}",
    }


def assert_no_page_of_openai(text: str) -> None:
    """Neither of the platform nor of its status."""
    assert "openai.com" not in text.replace(".openai.azure.com", "")


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("model", REFUSALS)
async def test_refusal_of_azure_gets_its_own_remedy(model: str, authority: Authority) -> None:
    """Body, log and metric agree, and none names a page of OpenAI."""
    reason, part = EXPECTED[model]
    async with (
        azure_behind_a_proxy(authority) as (proxy, requests),
        running_relay(simulator=None, intervals=None, adjust=None, **settings_for(proxy), RELAY_MODEL="probe") as relay,
    ):
        client = await open_raw(relay.app.public_port, f"/v1/realtime?model={model}")
        await client.close()
        (line,) = relay.events("upstream.connect_failed")

        assert (reason, reason) == (client.answer.error["code"], line["reason"])
        assert part in line["remedy"]
        assert_no_page_of_openai(json.dumps(client.answer.error) + json.dumps(line, default=str))
        labels = {"upstream": "azure", "phase": "upgrade", "status": str(REFUSALS[model][0]), "reason": reason}
        assert 1 == relay.metric("realtime_relay_connection_failures_total", **labels)
    assert {f"CONNECT {HOST}:443 HTTP/1.1"} == set(requests)


@pytest.mark.usefixtures("trusting")
async def test_live_session_on_azure(authority: Authority) -> None:
    """The key is the header `api-key`, at the path of Azure's API; the deployment is any name; the end is confirmed."""
    async with live_simulator() as sim:
        port = int(sim.url.removesuffix("/v1").rpartition(":")[2])

        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(copy(reader, upstream_writer), copy(upstream_reader, writer))

        async with (
            azure_behind_a_proxy(authority, forward) as (proxy, _),
            running_relay(simulator=None, intervals=None, adjust=None, **settings_for(proxy)) as relay,
        ):
            client = await open_raw(relay.app.public_port, "/v1/live/sessions")
            client.send_event(type="session.start", session={"model": "my-deployment"})
            assert "session.started" == (await client.next_event())["type"]
            client.send_event(type="session.close")
            assert "close_requested" == (await client.next_event())["reason"]
            await client.until_close()
            await client.close()
            await eventually(lambda: relay.events("session.ended"))
            (ended,) = relay.events("session.ended")
    (record,) = [record for record in sim.connections if record.session_id]

    assert ("/openai/v1/live/sessions", "0123456789abcdef" * 2) == (record.path, record.headers["api-key"])
    assert "Authorization" not in record.headers
    assert ended["usage_confirmed"]


async def health_after_its_checks(internal: str) -> str:
    """The text of `/healthz?verbose` once the handshake check has failed."""
    health = ""
    async with asyncio.timeout(30), aiohttp.ClientSession() as session:
        while '"fail"' not in health:
            await asyncio.sleep(0.05)  # the check is another process's
            async with session.get(f"{internal}/healthz?verbose") as response:
                health = await response.text()
    return health


async def test_azure_behind_a_proxy_with_its_own_ca_in_ssl_cert_file(authority: Authority) -> None:
    """Relay and doctor as processes: the network of the resource is the cause, not proxy, certificate or key."""
    async with azure_behind_a_proxy(authority) as (proxy, _):
        settings = settings_for(proxy) | {"SSL_CERT_FILE": str(authority.bundle), "RELAY_MODEL": "nested"}
        async with serving(**settings) as (process, port, internal):
            client = await open_raw(port, "/v1/realtime?model=nested")
            await client.close()
            failed = await process.event("upstream.connect_failed")
            health = await health_after_its_checks(internal)
        doctor = await asyncio.to_thread(run, "doctor", **settings)

    assert 1 == doctor.returncode
    for text in (json.dumps(client.answer.error), json.dumps(failed), health, " ".join(doctor.stdout.split())):
        assert "network_not_allowed" in text
        assert "private endpoint" in text
        assert_no_page_of_openai(text)
