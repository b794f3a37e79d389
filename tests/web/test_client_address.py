"""What a relay behind proxies makes of the addresses that they send."""

import pytest

from tests.support.harness import open_raw, simulated_relay

TRUSTED = {"RELAY_TRUSTED_PROXIES": "127.0.0.0/8"}
PATH = "/v1/realtime?model=gpt-realtime"


@pytest.mark.parametrize(
    ("values", "limited"),
    [
        (['"192.0.2.1"', '"192.0.2.2"'], False),
        (["192.0.2.1:1000", "192.0.2.2:1000"], False),
        (["192.0.2.1, ", "192.0.2.2, "], False),
        (["::ffff:192.0.2.1", "::ffff:192.0.2.2"], False),
        (["_a", "_b"], False),
        (["192.0.2.1:1000", "192.0.2.1:2000"], True),
        (["192.0.2.1", "::ffff:192.0.2.1"], True),
        (["unknown", "unknown"], True),
    ],
)
async def test_clients_of_a_proxy_are_counted_apart(values: list[str], *, limited: bool) -> None:
    """One client's session does not use another client's limit, and a port does not make another client."""
    async with simulated_relay(RELAY_MAX_SESSIONS_PER_CLIENT="1", **TRUSTED) as relay:
        clients = [await open_raw(relay.app.public_port, PATH, {"X-Forwarded-For": value}) for value in values]
        for client in clients:
            await client.close()

    assert [101, 429 if limited else 101] == [client.answer.status for client in clients]


@pytest.mark.parametrize(
    ("value", "problem", "level"),
    [
        ("client\u202e.example", "unreadable", "warning"),
        ("unknown", "unknown", "warning"),
        ("_hidden", "obfuscated", "warning"),
        ("", "missing", "info"),
    ],
)
async def test_unreadable_hop_is_reported_once(value: str, problem: str, level: str) -> None:
    """With the hop, the setting to check and the address that is used instead. No request fails for it."""
    async with simulated_relay(None, **TRUSTED) as relay:
        for _ in range(3):
            client = await open_raw(relay.app.public_port, PATH, {"X-Forwarded-For": value})
            await client.close()
            assert 101 == client.answer.status
        (line,) = relay.events("access.address_unreadable")

    assert (problem, level, "127.0.0.1") == (line["problem"], line["log_level"], line["peer"])
    assert "X-Forwarded-For" in line["message"]
    assert "X-Forwarded-For" in line["remedy"]
    assert "RELAY_TRUSTED_PROXIES" in line["remedy"]
    assert "\u202e" not in str(line["hop"])


async def test_header_of_an_untrusted_peer_is_not_reported() -> None:
    """Any client can send the header, so it proves nothing."""
    async with simulated_relay() as relay:
        client = await open_raw(relay.app.public_port, PATH, {"X-Forwarded-For": "garbage"})
        await client.close()

        assert [] == relay.events("access.address_unreadable")


@pytest.mark.parametrize(
    ("headers", "received"),
    [
        ({"Forwarded": "for=192.0.2.1"}, ["Forwarded"]),
        ({"X-Real-IP": "192.0.2.1"}, ["X-Real-IP"]),
        ({"CF-Connecting-IP": "192.0.2.1", "X-Forwarded-For": " , "}, ["X-Forwarded-For", "CF-Connecting-IP"]),
    ],
)
async def test_proxy_that_sends_another_header_is_a_warning(headers: dict[str, str], received: list[str]) -> None:
    """The relay reads X-Forwarded-For only: a client could forge a header that its proxy does not write."""
    async with simulated_relay(None, **TRUSTED) as relay:
        client = await open_raw(relay.app.public_port, PATH, headers)
        await client.close()
        (line,) = relay.events("access.address_unreadable")

    assert ("missing", "warning", "127.0.0.1", received) == (
        line["problem"], line["log_level"], line["address"], line["received_headers"]
    )  # fmt: skip
