"""A relay whose upstream is a raw HTTP server, with the checks that hold after every test of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.support.harness import Answer, Relay, eventually, open_raw, running_relay
from tests.support.invariants import assert_no_leaks
from tests.support.raw_http_server import PATH, RawHttp, Script, raw_http


@asynccontextmanager
async def raw_http_relay(script: Script, **settings: Any) -> AsyncIterator[tuple[Relay, RawHttp]]:
    """Run a relay that has passed its first health check. At the end no request is open, and no canary was logged."""
    async with (
        assert_no_leaks(),
        raw_http(script) as upstream,
        running_relay(OPENAI_BASE_URL=upstream.url, RELAY_MODEL="probe", **settings) as relay,
    ):
        await eventually(lambda: relay.app.monitor.ready)
        yield relay, upstream
        await eventually(lambda: upstream.open == 0, 2)
        assert "CANARY" not in str(relay.logs) + relay.used_series()


async def connect_once(relay: Relay, **headers: str) -> Answer:
    """Connect as a client without an Origin, disconnect, and return the response, which must hold no canary."""
    client = await open_raw(relay.app.public_port, PATH, headers)
    await client.close()
    assert b"CANARY" not in client.answer.body
    return client.answer


def failure_count(relay: Relay, reason: str, status: str, phase: str = "upgrade") -> float:
    """The number of connection failures with these labels."""
    return relay.metric(
        "realtime_relay_connection_failures_total", upstream="compatible", phase=phase, status=status, reason=reason
    )
