"""What a client of the file may do: models, origins, APIs, sessions, starts, duration. Over real sockets."""

import json
import re
from pathlib import Path

from service.access.clients import digest_of
from service.realtime.frames import Opcode
from tests.clients_file.relays import TOKENS, connect, refusal, relay_of, table
from tests.support.harness import eventually, open_raw, within

PAGE = "https://app.example.com"


async def test_model_is_allowed_for_each_client(path: Path) -> None:
    """A list of the client replaces that of the relay, in both directions; `*` lifts it."""
    text = table("kiosk", 'models = ["gpt-realtime"]') + table("web", 'models = ["*"]') + table("spare")
    async with relay_of(path, text, RELAY_ALLOWED_MODELS="gpt-realtime-mini") as relay:
        paths = [f"/v1/realtime?model={model}" for model in ("gpt-realtime", "gpt-realtime-mini")]
        found = {name: [(await refusal(relay, name, path))[1] for path in paths] for name in TOKENS}
        client = await connect(relay, path=paths[1])
        await client.close()

        assert {"kiosk": [None, "model_refused"], "web": [None, None], "spare": ["model_refused", None]} == found
        assert "add it to models of [clients.kiosk] in RELAY_CLIENTS_FILE" in str(client.answer.error)


async def test_live_model_is_allowed_for_each_client(path: Path) -> None:
    """GPT-Live names it in `session.start`."""
    async with relay_of(path, table("kiosk", 'models = ["gpt-live-1"]') + table("web")) as relay:
        for name, expected in (("kiosk", "model_refused"), ("web", "session.started")):
            client = await connect(relay, name, "/v1/live/sessions")
            client.send_frame(
                Opcode.TEXT, json.dumps({"type": "session.start", "session": {"model": "gpt-live-1.1"}}).encode()
            )
            event = await client.next_event()
            assert expected in json.dumps(event)
            assert ("[clients.kiosk] in RELAY_CLIENTS_FILE" in json.dumps(event)) == (name == "kiosk")
            await client.close()


async def test_origin_is_allowed_for_each_client(path: Path) -> None:
    """A page sends its token as a subprotocol. What no client allows is refused before the token is looked at."""
    text = table("kiosk", f'origins = ["{PAGE}", "loopback"]') + table("web", 'origins = ["*"]') + table("spare")
    async with relay_of(path, text) as relay:

        async def reason(name: str, origin: str) -> str | None:
            protocols = f"realtime, openai-insecure-api-key.{TOKENS.get(name, name)}"
            client = await open_raw(
                relay.app.public_port,
                "/v1/realtime?model=gpt-realtime",
                {"Origin": origin, "Sec-WebSocket-Protocol": protocols},
            )
            await client.close()
            return None if client.answer.status == 101 else str(client.answer.error["code"])

        pages = (PAGE, "http://localhost:3000", "https://other.example")
        assert [None, None, "origin_refused"] == [await reason("kiosk", page) for page in pages]
        assert [None, None, None] == [await reason("web", page) for page in pages]
        assert ["origin_refused", None, "origin_refused"] == [await reason("spare", page) for page in pages]
        assert f"Add {pages[2]} to origins of [clients.kiosk] in RELAY_CLIENTS_FILE" in str(relay.logs)

    async with relay_of(path, table("kiosk", f'origins = ["{PAGE}"]')) as relay:
        assert ["origin_refused", "token_invalid"] == [
            await reason("unknown-token", "https://other.example"), await reason("unknown-token", PAGE)
        ]  # fmt: skip


async def test_api_is_allowed_for_each_client(path: Path) -> None:
    """The sideband of GPT-Live belongs to `live`."""
    endpoints = {
        "realtime": "/v1/realtime?model=gpt-realtime",
        "translation": "/v1/realtime/translations?model=gpt-realtime",
        "live": "/v1/live/sessions",
        "attach": "/v1/live/sessions/live_1/attach",
    }
    for api in ("realtime", "translation", "live"):
        async with relay_of(path, table("kiosk", f'apis = ["{api}"]')) as relay:
            found = {name: (await refusal(relay, path=url))[1] for name, url in endpoints.items()}
            refused = {name for name, reason in found.items() if reason == "api_refused"}

            assert {name for name in endpoints if name != api and (api, name) != ("live", "attach")} == refused


async def test_sessions_at_once_are_limited_for_each_client(path: Path) -> None:
    """The number of the client replaces RELAY_MAX_SESSIONS_PER_CLIENT; "unlimited" lifts it."""
    text = table("kiosk", "max_sessions = 2") + table("web", 'max_sessions = "unlimited"') + table("spare")
    async with relay_of(path, text, RELAY_MAX_SESSIONS_PER_CLIENT="1") as relay:
        clients = {name: [await connect(relay, name) for _ in range(3)] for name in TOKENS}

        assert {"kiosk": [101, 101, 429], "web": [101, 101, 101], "spare": [101, 429, 429]} == {
            name: [client.answer.status for client in opened] for name, opened in clients.items()
        }
        assert "max_sessions of [clients.kiosk] in RELAY_CLIENTS_FILE" in str(clients["kiosk"][2].answer.error)
        for opened in clients.values():
            for client in opened:
                await client.close()
        await eventually(lambda: relay.metric("realtime_relay_sessions_active") == 0)


async def test_starts_per_minute_are_limited_for_each_client(path: Path) -> None:
    """Each session counts, however long it lasts; the answer says when the next one is accepted."""
    async with relay_of(path, table("kiosk", "starts_per_minute = 3") + table("web")) as relay:
        found = [await refusal(relay) for _ in range(5)]
        client = await connect(relay)
        await client.close()

        assert [(101, None)] * 3 + [(429, "too_many_connects")] * 2 == found
        assert 0 < int(client.answer.headers["Retry-After"]) <= 60
        assert "starts_per_minute of [clients.kiosk] in RELAY_CLIENTS_FILE" in str(client.answer.error)
        assert (101, None) == await refusal(relay, "web")


async def test_session_ends_at_the_duration_of_its_client(path: Path) -> None:
    """It replaces RELAY_MAX_SESSION_SECONDS."""
    text = table("kiosk", "max_session_seconds = 1") + table("web", 'max_session_seconds = "unlimited"')
    async with relay_of(path, text, RELAY_MAX_SESSION_SECONDS="60") as relay:
        session, other = await connect(relay), await connect(relay, "web")
        events = [await within(session.next_event(), 60) for _ in range(2)]

        assert "max_duration" == events[1]["error"]["code"]
        await session.answer_close()
        await session.close()
        await eventually(lambda: relay.metric("realtime_relay_sessions_active") == 1)
        await other.close()


async def test_both_sources_of_clients_are_used(path: Path) -> None:
    """A client of RELAY_CLIENT_TOKENS has the limits of the settings, and stays when the file changes."""
    settings = {"RELAY_CLIENT_TOKENS": f"web:{TOKENS['web']}", "RELAY_MAX_SESSIONS_PER_CLIENT": "1"}
    async with relay_of(path, table("kiosk", "max_sessions = 5"), **settings) as relay:
        clients = [await connect(relay, name) for name in ("web", "web", "kiosk", "kiosk")]

        assert [101, 429, 101, 101] == [client.answer.status for client in clients]
        assert "RELAY_MAX_SESSIONS_PER_CLIENT" in str(clients[1].answer.error)
        for client in clients:
            await client.close()


async def test_no_surface_has_a_token_or_its_hash(path: Path) -> None:
    """Logs, metrics and answers, also where a client sends the hash in place of the token, or the file has a mistake."""
    hashes = [digest_of(token) for token in TOKENS.values()]
    async with relay_of(path, table("kiosk", "enabled = false") + table("web", 'apis = ["live"]')) as relay:
        answers = []
        for token in (*TOKENS.values(), *hashes):
            for headers in (
                {"Authorization": f"Bearer {token}"},
                {"api-key": token, "Origin": f"https://{token[:40]}"},
            ):
                client = await open_raw(relay.app.public_port, f"/v1/realtime?model={token}", headers)
                answers.append(client.answer.body.decode())
                await client.close()
        surfaces = "\n".join([*answers, str(relay.logs), relay.used_series()])
        surfaces = re.sub(r"'(?:model|detail)': '[^']*'", "", surfaces)  # what a client writes as the name of its model

        assert not [secret for secret in (*TOKENS.values(), *hashes) if secret in surfaces]
        assert "[redacted]" == relay.app.redactor.redact(hashes[0])
        assert hashes[0] not in repr(relay.app.drainer.sessions) + repr(relay.app.metrics)
