"""Sessions of the users of an OpenID provider: how they are shown, and when they end."""

import logging
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
from joserfc.jwk import ECKey

from tests.clients_file.issuers import answer_to, connect_with, relay_with
from tests.clients_file.relays import TOKENS, connect, notes, relay_of, table, write
from tests.support.harness import Relay, eventually
from tests.support.jwt_issuer import claims, issuer_table, running_issuer, sign
from tests.support.raw_websocket_server import CREATED, ServerConnection
from tests.support.scripted_upstream import PATH, scripted_relay

FETCHES: Final = "realtime_relay_jwks_fetches_total"
NEW: Final = ECKey.generate_key("P-256", {"kid": "new"})


async def test_reload_takes_issuers_with_their_sessions(path: Path) -> None:
    """An issuer that is removed ends its sessions with `end_sessions`, and its keys are forgotten."""
    async with running_issuer() as issuer:
        lines = "end_sessions = true"
        async with relay_with(issuer, path, client=lines) as relay:
            client, own = await connect_with(relay, sign()), await connect(relay)
            write(path, table("kiosk", lines))
            relay.app._check_files()
            assert 1008 == (await client.until_close() or (None,))[0]
            assert (401, "token_invalid") == await answer_to(relay, sign())
            await eventually(lambda: not relay.app._jwt._sources)  # type: ignore[union-attr]  # a clients file is set
            write(path, table("kiosk") + issuer_table(issuer.url))
            relay.app._check_files()
            await eventually(lambda: issuer.fetches == 2)
            await eventually(lambda: relay.metric(FETCHES, result="fetched") == 2)

            assert (101, None) == await answer_to(relay, sign())
            assert own.answer.status == 101
            await own.close()
            await client.close()


async def test_disabled_client_has_no_users(path: Path) -> None:
    """As with its own tokens."""
    async with running_issuer() as issuer, relay_with(issuer, path, client="enabled = false") as relay:
        assert (401, "client_disabled") == await answer_to(relay, sign())


async def sessions(relay: Relay) -> list[dict[str, Any]]:
    """What the operator's page shows."""
    views = [session.view() for session in relay.app.sessions]
    return [view.as_object() for view in views if view is not None]


async def test_user_is_in_logs_and_sessions_only(path: Path) -> None:
    """`sub` is no metric label. A token of the relay's own has no user."""
    async with running_issuer() as issuer, relay_with(issuer, path) as relay:
        client, own = await connect_with(relay, sign()), await connect(relay)
        assert {"auth0|CANARYuser", None} == {session["user"] for session in await sessions(relay)}
        assert ["kiosk", "kiosk"] == [session["client"] for session in await sessions(relay)]
        await client.close()
        await own.close()
        await eventually(lambda: len(relay.events("session.ended")) == 2)

        assert {"auth0|CANARYuser", None} == {line["user"] for line in relay.events("session.ended")}
        assert "CANARYuser" not in relay.used_series()


async def test_session_ends_with_its_token_only_if_the_table_says_so(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With token_expired and close code 3000. Another session, whose token expires at the same time, goes on."""
    async with running_issuer() as issuer:
        tables = [
            issuer_table(issuer.url, f"clock_skew_seconds = 0\nend_at_expiry = {ends}", name=ends, audience=ends)
            for ends in ("true", "false")
        ]
        async with relay_of(path, table("kiosk") + "".join(tables)) as relay:
            now = time.time()
            # However late the relay gets to it: it takes no token that has expired.
            monkeypatch.setattr("service.web.session_factory.time", SimpleNamespace(time=lambda: now + 59))
            ending, other = [
                await connect_with(relay, sign(claims(aud=ends, exp=now + 60, iat=now))) for ends in ("true", "false")
            ]
            assert (3000, "token_expired: The client token has expired.") == await ending.until_close()
            await ending.answer_close()
            await eventually(lambda: relay.events("session.ended"))
            other.send_event(type="input_audio_buffer.clear")
            events = [(await other.next_event())["type"] for _ in range(2)]

            assert ["session.created", "input_audio_buffer.cleared"] == events
            assert ["token_expired"] == [line["reason"] for line in relay.events("session.ended")]
            await ending.close()
            await other.close()


async def test_user_of_gpt_live_names_no_other_to_the_provider(path: Path) -> None:
    """In `session.start`, which the relay does not change. A client without a user can name one."""
    async with running_issuer() as issuer, relay_with(issuer, path) as relay:
        found = []
        for token in (sign(), TOKENS["kiosk"]):
            for name in ("hash-of-bob", None):
                client = await connect_with(relay, token, "/v1/live/sessions")
                named = {} if name is None else {"safety_identifier": name}
                client.send_event(type="session.start", session={"model": "gpt-live-1", **named})
                event = await client.next_event()
                found.append(event["error"]["code"] if event["type"] == "error" else event["type"])
                await client.close()
        assert ["start_invalid", *["session.started"] * 3] == found
        assert "session.start has safety_identifier" == relay.events("admission.refused")[0]["detail"]


async def test_user_whom_the_provider_refuses_refuses_no_other(path: Path) -> None:
    """The provider knows each by a name of their own, and may block one of them."""
    blocked: list[str] = []

    async def serve(connection: ServerConnection) -> None:
        found = re.search(r"(?i)openai-safety-identifier: (\S+)", connection.head)
        name = found[1] if found else "health check"
        if found and not blocked:
            blocked.append(name)
        if name in blocked:
            connection.send(b'{"type":"error","error":{"type":"invalid_request_error","code":"insufficient_quota"}}')
            connection.send_close(3000, "invalid_request_error.insufficient_quota")
        else:
            connection.send(CREATED)
        await connection.wait_closed()

    async with running_issuer() as issuer:
        write(path, "[clients.kiosk]\n" + issuer_table(issuer.url))
        async with scripted_relay(serve, RELAY_CLIENTS_FILE=str(path)) as (relay, _):
            found = []
            for sub in ("alice", "alice", "bob", "alice"):
                client = await connect_with(relay, sign(claims(sub=sub)), PATH)
                found.append(client.answer.status)
                await client.close()
            phases = [event["phase"] for event in relay.events("upstream.connect_failed")]

    assert ([424, 424, 101, 424], ["first_event", "breaker", "breaker"]) == (found, phases)


async def test_one_set_serves_several_tables(path: Path) -> None:
    """Two audiences of one provider, each with its client."""
    async with running_issuer() as issuer:
        text = table("kiosk") + table("web") + issuer_table(issuer.url)
        other = issuer_table(issuer.url, name="web", audience="other").replace('client = "kiosk"', 'client = "web"')
        async with relay_of(path, text + other) as relay:
            tokens = [sign(), sign(claims(aud="other"))]
            clients = [await connect_with(relay, token) for token in tokens]
            assert ["kiosk", "web"] == sorted(session["client"] for session in await sessions(relay))
            for client in clients:
                await client.close()
        assert 1 == issuer.fetches


async def test_token_is_in_no_log_line(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Accepted or refused, as a header or as a subprotocol, at the level debug of aiohttp too."""
    caplog.set_level(logging.DEBUG)
    async with running_issuer() as issuer, relay_with(issuer, path, RELAY_LOG_LEVEL="debug") as relay:
        tokens = [sign(), sign(key=NEW), sign(kid="x"), sign()[:-4], sign().replace(".", "..", 1)]
        for token in tokens:
            await answer_to(relay, token)
            client = await connect_with(relay, token, f"/v1/realtime?model=gpt-realtime&token={token}")
            await client.close()
        parts = {part for token in tokens for part in token.split(".") if len(part) > 20}
        text = f"{relay.logs} {caplog.text} {relay.used_series()} {await notes(relay)}"

        assert [] == [part for part in parts if part in text]


async def test_file_without_issuers_loads_no_library_and_fetches_nothing(path: Path) -> None:
    """A JWT is then any other wrong token."""
    async with relay_of(path, table("kiosk")) as relay:
        assert (401, "token_invalid") == await answer_to(relay, sign())
        assert 0 == relay.metric("realtime_relay_jwt_checks_total")
        assert relay.app._jwt is not None
        assert relay.app._jwt._session is None
