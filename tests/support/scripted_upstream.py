"""A relay whose upstream runs a script, byte by byte. Afterwards nothing may be left of its sessions."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from service.relay.session import Session
from tests.support.harness import RawClient, Relay, eventually, open_raw, running_relay
from tests.support.invariants import assert_no_leaks
from tests.support.raw_websocket_server import RawUpstream, Script, raw_upstream

PATH = "/v1/realtime?model=scripted"


@asynccontextmanager
async def scripted_relay(
    script: Script, *, behind_101: bytes = b"", **settings: str
) -> AsyncIterator[tuple[Relay, RawUpstream]]:
    """Run a relay, from the end of its first health check on.

    On exit upstream has no connection left, each session was counted once, and no task or descriptor is left.
    """
    environment = {"RELAY_MODEL": "probe"} | settings
    async with (
        assert_no_leaks(),
        raw_upstream(script, behind_101=behind_101) as upstream,
        running_relay(
            simulator=None, intervals=None, adjust=None, **environment | {"OPENAI_BASE_URL": upstream.url}
        ) as relay,
    ):
        await eventually(lambda: relay.app.monitor.ready)
        yield relay, upstream
        await eventually(lambda: upstream.open == 0)
        await eventually(lambda: len(relay.app.sessions) == 0)
        assert relay.metric("realtime_relay_sessions_active") == 0
        ended = relay.events("session.ended")
        assert len(relay.events("session.started")) == len(ended)
        for reason in {line["reason"] for line in ended}:
            count = sum(line["reason"] == reason for line in ended)
            assert count == relay.metric("realtime_relay_sessions_ended_total", reason=reason)


@dataclass(frozen=True, slots=True)
class ScriptedSession:
    """The only session of a scripted relay: `session` is the relay's object, `client` its peer."""

    relay: Relay
    client: RawClient
    session: Session
    upstream: RawUpstream

    @property
    def reason(self) -> str:
        """The reason in its log line."""
        [ended] = self.relay.events("session.ended")
        return str(ended["reason"])

    async def ended(self, seconds: float = 3.0) -> str:
        """Wait until it has ended; returns the reason."""
        await eventually(lambda: bool(self.relay.events("session.ended")), seconds)
        return self.reason


@asynccontextmanager
async def session(script: Script, **settings: str) -> AsyncIterator[ScriptedSession]:
    """Open a session and read its first event; closes the client on exit."""
    async with scripted_relay(script, behind_101=b"", **settings) as (relay, upstream):
        client = await open_raw(relay.app.public_port, PATH)
        try:
            assert (await client.next_event())["type"] == "session.created"
            yield ScriptedSession(relay, client, next(iter(relay.app.sessions)), upstream)
        finally:
            await client.close()
