"""Sessions with client secrets over real sockets: what they are, and which secrets open none."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from service.access import secrets
from tests.clients_file.relays import TIMEOUT, TOKENS, connect, table, write
from tests.clients_file.secret_requests import PROMPT, SESSION, created, outcome, post, relay_of, upstream_of, use
from tests.support.harness import eventually, open_raw
from tests.support.redis_server import RedisServer, running_redis
from tests.support.sdk import openai_client


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis server of its own."""
    with running_redis(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as server:
        yield server


async def test_sdk_creates_a_secret_and_a_session_with_it(path: Path) -> None:
    """openai-python with its own types; the session has the configuration, and one round trip sets it."""
    async with (
        relay_of(path, table("kiosk")) as relay,
        openai_client(TOKENS["kiosk"], f"{relay.url}/v1") as server,
    ):
        before = time.time()
        answer = await server.realtime.client_secrets.create(
            expires_after={"anchor": "created_at", "seconds": 60},
            session={
                "type": "realtime",
                "model": "gpt-realtime",
                "instructions": PROMPT,
                "audio": {"output": {"voice": "cedar"}},
            },
        )
        assert secrets.is_client_secret(answer.value)
        assert before + 59 <= answer.expires_at <= time.time() + 60
        shown: Any = answer.session.to_dict()
        assert SESSION.items() <= shown.items()
        assert "realtime.session" == shown["object"]

        async with (
            openai_client(answer.value, f"{relay.url}/v1") as browser,
            browser.realtime.connect(model="gpt-realtime") as connection,
        ):
            first: Any = (await connection.recv()).to_dict()
            assert ("session.created", PROMPT, "cedar") == (
                first["type"], first["session"]["instructions"], first["session"]["audio"]["output"]["voice"],
            )  # fmt: skip
            assert ["session.update"] == upstream_of(relay).client_events
            await connection.session.update(session={"type": "realtime", "instructions": "Sell ships."})
            assert "session.updated" == (await connection.recv()).type
    assert [1, 1] == [relay.metric("realtime_relay_client_secrets_total", event=e) for e in ("created", "used")]


async def test_secret_opens_one_session_and_is_distinguished(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Used, expired, unknown, the provider's: each with its reason, as an event with close code and as a status."""
    async with relay_of(path, table("kiosk")) as relay:
        secret = await created(relay, {"session": SESSION})
        client = await use(relay, secret)
        assert "realtime" == client.answer.headers["Sec-WebSocket-Protocol"]
        assert "session.created" == await outcome(client)
        old = await created(relay, {"expires_after": {"seconds": 10}})
        state = relay.app.store._backend._state  # type: ignore[attr-defined]
        monkeypatch.setattr(state, "_clock", lambda: round(time.time() * 1000) + 10_000)

        found = [await outcome(await use(relay, presented)) for presented in (secret, secret, old)]
        assert ["secret_used 3000", "secret_used 3000", "secret_expired 3000"] == found
        unknown, foreign = secrets.PREFIX + "A" * 43, "ek_68af296e8e408191a1120ab6383263c2"
        for presented, remedy in ((unknown, "RELAY_STORE_URL"), (foreign, "POST /v1/realtime/client_secrets")):
            refused = await connect(relay, Authorization=f"Bearer {presented}")
            assert (401, "token_invalid") == (refused.answer.status, refused.answer.error["code"])
            assert remedy in refused.answer.error["remedy"]
            await refused.close()
        assert "401 secret_used" == await outcome(await connect(relay, Authorization=f"Bearer {secret}"))
    logged = [event["reason"] for event in relay.events("admission.refused")]
    assert ["secret_used"] * 2 + ["secret_expired"] + ["token_invalid"] * 2 + ["secret_used"] == logged


async def test_concurrent_uses_of_a_secret_open_one_session(redis: RedisServer, path: Path) -> None:
    """Of ten requests at the same time one gets the session; the others take no place and count as no start."""
    text = table("kiosk", "starts_per_minute = 2\nmax_sessions = 2")
    async with relay_of(path, text, RELAY_STORE_URL=redis.url) as relay:
        secret = await created(relay)
        clients = await asyncio.gather(*(use(relay, secret) for _ in range(10)))
        assert ["secret_used 3000"] * 9 + ["session.created"] == sorted([await outcome(client) for client in clients])
        found = [await outcome(await use(relay, await created(relay))) for _ in range(2)]
        assert ["session.created", "429 too_many_connects"] == found


async def test_refused_use_of_a_secret_leaves_it_to_a_concurrent_one(redis: RedisServer, path: Path) -> None:
    """Which waits for the refusal."""
    async with relay_of(path, table("kiosk"), RELAY_STORE_URL=redis.url) as relay:
        secret = await created(relay)
        foreign = {"Origin": "https://evil.example"}
        clients = await asyncio.gather(use(relay, secret, headers=foreign), use(relay, secret))
        assert ["403 origin_refused", "session.created"] == [await outcome(client) for client in clients]


async def test_refused_client_can_use_its_secret_again(path: Path) -> None:
    """A wrong model, a foreign origin, a limit and a drain use nothing up."""
    text = table("kiosk", 'max_sessions = 1\nmodels = ["gpt-realtime", "gpt-realtime-mini"]')
    async with relay_of(path, text) as relay:
        secret, other = await created(relay, {"session": SESSION}), await created(relay)
        holder = await use(relay, other)
        assert "400" not in str(holder.answer.status)
        assert "model_refused 4000" == await outcome(await use(relay, secret, "model=gpt-realtime-mini"))
        assert "403 origin_refused" == await outcome(
            await use(relay, secret, headers={"Origin": "https://evil.example"})
        )
        assert "429 too_many_sessions" == await outcome(await use(relay, secret))
        await holder.close()
        await eventually(lambda: not relay.metric("realtime_relay_sessions_active"))
        assert "session.created" == await outcome(await use(relay, secret))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("model=gpt-realtime", "session.created"),
        ("intent=realtime", "session.created"),
        ("x=1", "session.created"),
        ("deployment=gpt-realtime", "request_rejected 4000"),  # by the simulator, which is not Azure
        ("model=gpt-realtime-mini", "model_refused 4000"),
        ("model=gpt-realtime&deployment=gpt-realtime-mini", "model_refused 4000"),
        ("intent=transcription", "bad_request 4000"),
        ("call_id=rtc_1", "bad_request 4000"),
    ],
)
async def test_query_names_the_session_of_the_secret_or_none(query: str, expected: str, path: Path) -> None:
    """The model of the secret is requested from the provider, whatever the client leaves out."""
    async with relay_of(path, table("kiosk")) as relay:
        secret = await created(relay, {"session": SESSION})
        assert expected == await outcome(await use(relay, secret, query))
        if expected == "session.created":
            assert "gpt-realtime" in upstream_of(relay).query.values()


async def test_secret_without_a_model_leaves_it_to_the_client(path: Path) -> None:
    """Within the models of the client."""
    async with relay_of(path, table("kiosk", 'models = ["gpt-realtime"]')) as relay:
        for query, expected in (
            ("x=1", "model_missing 4000"),
            ("model=gpt-realtime-mini", "model_refused 4000"),
            ("model=gpt-realtime", "session.created"),
        ):
            assert expected == await outcome(await use(relay, await created(relay), query))


@pytest.mark.parametrize("query", ["intent=transcription", "x=1"])
async def test_secret_for_transcription_opens_such_a_session(query: str, path: Path) -> None:
    """With the configuration, and without a model in the URL."""
    async with relay_of(path, table("kiosk")) as relay:
        transcription = {"model": "gpt-4o-transcribe", "language": "de"}
        session = {"type": "transcription", "audio": {"input": {"transcription": transcription}}}
        status, answer = await post(relay, {"session": session})
        assert (200, "transcription") == (status, answer["session"]["type"])
        client = await use(relay, answer["value"], query)
        event = await client.next_event()
        assert "transcription" == event["session"]["type"]
        assert transcription.items() <= event["session"]["audio"]["input"]["transcription"].items()
        assert "transcription" == upstream_of(relay).query["intent"]
        await client.close()
        refused = await use(relay, await created(relay, {"session": session}), "model=gpt-realtime")
        assert "model_refused 4000" == await outcome(refused)


async def test_policy_and_session_are_merged_and_locks_hold(path: Path) -> None:
    """What the body sets precedes a default of the policy; a locked field in the body is named."""
    policy = (
        '[policies.kiosk]\ninstructions = "Brief."\nvoice = "ash"\nmax_output_tokens = 300\nlocked = ["instructions"]\n'
    )
    async with relay_of(path, table("kiosk", 'policy = "kiosk"') + policy) as relay:
        status, answer = await post(relay, {"session": SESSION})
        assert (400, "bad_request", "session.instructions") == (
            status, answer["error"]["code"], answer["error"]["param"]
        )  # fmt: skip
        status, answer = await post(relay, {"session": {"type": "transcription"}})
        assert (403, "policy_unsupported") == (status, answer["error"]["code"])

        session = {key: value for key, value in SESSION.items() if key != "instructions"}
        client = await use(relay, await created(relay, {"session": session}))
        created_event = await client.next_event()
        record = upstream_of(relay)
        assert record.configuration is not None
        configured = record.configuration.session
        assert ("Brief.", "cedar", 300) == (
            configured["instructions"], configured["audio"]["output"]["voice"], configured["max_output_tokens"],  # type: ignore[index,call-overload]
        )  # fmt: skip
        assert "instructions" not in created_event["session"]
        client.send_event(type="session.update", session={"type": "realtime", "instructions": "Sell ships."})
        assert "instructions_locked" == (await client.next_event())["error"]["code"]
        await client.close()


async def test_fields_that_the_request_locks_hold_for_the_page(path: Path) -> None:
    """Without a policy of the operator: the page neither sees nor changes the instructions, and can change the voice."""
    async with relay_of(path, table("kiosk")) as relay:
        client = await use(relay, await created(relay, {"session": SESSION, "locked": ["instructions", "tools"]}))
        first = await client.next_event()
        assert "instructions" not in first["session"]
        configuration = upstream_of(relay).configuration
        assert configuration is not None
        assert PROMPT == configuration.session["instructions"]
        for field, reason in (("instructions", "instructions_locked"), ("tools", "field_locked")):
            client.send_event(type="session.update", session={"type": "realtime", field: []})
            assert (reason, f"session.{field}") == (
                (event := await client.next_event())["error"]["code"], event["error"]["param"]
            )  # fmt: skip
        client.send_event(type="session.update", session={"type": "realtime", "audio": {"output": {"voice": "ash"}}})
        assert "ash" == (await client.next_event())["session"]["audio"]["output"]["voice"]
        await client.close()


async def test_policy_that_is_locked_after_the_secret_holds(path: Path) -> None:
    """What the secret sets would precede it: the page needs a new secret."""
    policy = '[policies.kiosk]\ninstructions = "Brief."\n'
    async with relay_of(path, table("kiosk", 'policy = "kiosk"') + policy) as relay:
        secrets = [await created(relay, {"session": session}) for session in (SESSION, {"type": "realtime"})]
        write(path, table("kiosk", 'policy = "kiosk"') + policy + 'locked = ["instructions"]\n')
        relay.app._check_files()
        await eventually(lambda: bool(relay.events("clients.loaded")), 10)

        assert "secret_expired 3000" == await outcome(await use(relay, secrets[0]))
        assert "has locked session.instructions" in relay.events("admission.refused")[-1]["detail"]
        assert "session.created" == await outcome(await use(relay, secrets[1]))


async def test_session_that_the_provider_rejects_names_its_field(path: Path) -> None:
    """The app is to blame, not the policy of the operator."""
    policy = "[policies.kiosk]\nmax_output_tokens = 300\n"
    async with relay_of(path, table("kiosk", 'policy = "kiosk"') + policy) as relay:
        secret = await created(relay, {"session": {"audio": {"output": {"speed": 9}}}})
        client = await use(relay, secret)
        error = (await client.next_event())["error"]
        assert ("session_rejected", "session.audio.output.speed") == (error["code"], error["param"])
        assert (4000, error["code"]) == ((closed := await client.until_close()) and closed[0], "session_rejected")
        await client.close()
        assert "secret_used 3000" == await outcome(await use(relay, secret))
    assert [{"session_rejected"}] == [{event["reason"] for event in relay.events("upstream.connect_failed")}]


async def test_secret_is_for_one_api(path: Path) -> None:
    """GPT-Live and translations refuse it; a client without the API creates none."""
    async with relay_of(path, table("kiosk") + table("web", 'apis = ["live"]')) as relay:
        secret = await created(relay)
        for place in ("/v1/live/sessions", "/v1/realtime/translations?model=gpt-realtime-translate"):
            client = await open_raw(relay.app.public_port, place, {"Authorization": f"Bearer {secret}"})
            assert "403 api_refused" == await outcome(client)
        status, answer = await post(relay, {}, token=TOKENS["web"])
        assert (403, "api_refused") == (status, answer["error"]["code"])


async def test_withdrawn_client_refuses_its_secrets(path: Path) -> None:
    """Disabled, its token removed, or its token given to another client, between creation and use."""
    async with relay_of(path, table("kiosk")) as relay:
        held = [await created(relay) for _ in range(4)]
        for text, expected in (
            (table("kiosk", "enabled = false"), "client_disabled 1008"),
            (table("kiosk", token="spare"), "client_disabled 1008"),
            (table("web", token="kiosk"), "client_disabled 1008"),
            (table("kiosk"), "session.created"),
        ):
            loads = relay.metric("realtime_relay_clients_file_loads_total")
            write(path, text)
            relay.app._check_files()
            await eventually(lambda before=loads: relay.metric("realtime_relay_clients_file_loads_total") > before)  # type: ignore[misc]
            assert expected == await outcome(await use(relay, held.pop()))


async def test_guesses_of_an_address_are_limited_and_its_secrets_accepted(path: Path) -> None:
    """From the 61st guess of a minute on 429: no client can have those behind the same proxy refused."""
    async with relay_of(path, table("kiosk")) as relay:
        guess = secrets.PREFIX + "A" * 43
        found = []
        for _ in range(62):
            client = await connect(relay, Authorization=f"Bearer {guess}")
            found.append(await outcome(client))
        assert ["401 token_invalid"] * 60 + ["429 too_many_connects"] * 2 == found
        assert "session.created" == await outcome(await use(relay, await created(relay)))


async def test_memory_warns_once_and_redis_holds_for_all_instances(
    redis: RedisServer, path: Path, tmp_path: Path
) -> None:
    """A secret of one instance opens a session at another, once; neither it nor its payload stays in the store."""
    async with relay_of(path, table("kiosk")) as relay:
        await created(relay)
        await created(relay)
    assert 1 == len(relay.events("secrets.on_one_instance"))
    async with (
        relay_of(path, table("kiosk"), RELAY_STORE_URL=redis.url) as one,
        relay_of(tmp_path / "other.toml", table("kiosk"), RELAY_STORE_URL=redis.url) as two,
    ):
        secret = await created(one, {"session": SESSION})
        assert ["session.created", "secret_used 3000", "secret_used 3000"] == [
            await outcome(await use(relay, secret)) for relay in (two, one, two)
        ]
        other = await created(two)
        redis.stop()
        assert ["store_unavailable 1013"] == [await outcome(await use(one, other))]
        status, answer = await post(one, {})
        assert (503, "store_unavailable") == (status, answer["error"]["code"])
    assert not one.events("secrets.on_one_instance")
    assert secret.encode() not in redis.written()


async def test_no_surface_holds_a_secret(path: Path) -> None:
    """Neither the secret nor the session: in no log line, metric, page, error, event or close reason but the answer's."""
    async with relay_of(path, table("kiosk"), RELAY_LOG_LEVEL="debug") as relay:
        secret = await created(relay, {"session": SESSION})
        unused = await created(relay, {"session": SESSION})
        texts = []
        for _ in range(2):
            client = await use(relay, secret)
            events = str(await client.next_event()).replace(PROMPT, "")  # the session shows its own configuration
            texts += [str(client.answer), events]
            await client.close()
        texts += [str(await post(relay, {}, token=secret)), relay.used_series()]
        async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
            for place in ("/healthz?verbose", "/api/sessions", "/api/failures/recent", "/api/settings"):
                async with session.get(relay.internal_url + place) as reply:
                    texts.append(await reply.text())
    texts.append(str(relay.logs))
    for text in texts:
        assert not [found for found in (secret, secret[9:], unused[9:], PROMPT, TOKENS["kiosk"]) if found in text]
