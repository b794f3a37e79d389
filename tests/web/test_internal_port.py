"""The internal port: what it does not serve is answered in the relay's own words, and metrics are rendered for any client."""

import asyncio
import itertools
import json

import aiohttp
import pytest
from prometheus_client import exposition
from prometheus_client.registry import Collector

from service.web import internal
from tests.support.harness import Relay, simulated_relay, within
from tests.web.test_unserved import CANARY, rest


@pytest.mark.parametrize(
    ("sent", "status", "reason", "remedy"),
    [
        (rest("/nothing"), 404, "path_not_found", "/healthz, /livez, /metrics, /readyz, /version"),
        (rest("/v1/realtime?model=m"), 404, "path_not_found", "RELAY_PORT"),
        (rest("/metrics", "POST"), 405, "method_not_allowed", ""),
        (CANARY.encode() + b"\r\n\r\n", 400, "bad_request", ""),
        (b"\x16\x03\x01\x02\x00\x01", 400, "tls_refused", ""),
        (b"CONNECT \r\nHost: example.com\r\n\r\n", 400, "bad_request", ""),
    ],
)
async def test_internal_port_answers_in_its_own_words(sent: bytes, status: int, reason: str, remedy: str) -> None:
    """With a reason, no name of a server and nothing of the request. It is logged, and counted as no client's."""
    async with simulated_relay() as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.app.internal_port)
        writer.write(sent)
        received = await within(reader.read(), 10)
        writer.close()
        error = json.loads(received.partition(b"\r\n\r\n")[2])["error"]

        assert (status, reason) == (int(received.split()[1]), error["code"])
        assert remedy in error["remedy"]
        assert b"server:" not in received.lower()
        assert CANARY.encode() not in received
        assert [reason] == [line["reason"] for line in relay.events("admission.refused")]
        assert 0 == relay.metric("realtime_relay_admissions_total", result=reason)


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text;version=x",
        "application/openmetrics-text; version=1.x",
        "application/openmetrics-text;version=\u0663",
        "text/plain;version=,;q=,=;;",
        "\xff",
        "application/openmetrics-text;version=1.0.7",
    ],
)
async def test_metrics_are_rendered_whatever_the_accept_header(accept: str) -> None:
    """A malformed or unknown version gets the text format, and is not repeated."""
    async with simulated_relay() as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.app.internal_port)
        writer.write(
            f"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAccept: {accept}\r\n\r\n".encode()
        )
        received = await within(reader.read(), 30)
        writer.close()

        assert received.startswith(b"HTTP/1.1 200 ")
        assert b"Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n" in received
        assert b"realtime_relay_build_info" in received


def test_accept_of_prometheus_gets_the_format_that_it_prefers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that is much longer than this is not parsed: 60 kB of commas take 35 ms."""
    sent = (
        "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,"
        "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
    )
    assert internal._encoder(sent)[1].startswith("application/openmetrics-text; version=1.0.0;")
    parsed: list[str] = []
    choose = exposition.choose_encoder

    def recorded(accept: str) -> tuple[internal.Encode, str]:
        parsed.append(accept)
        return choose(accept)

    monkeypatch.setattr(exposition, "choose_encoder", recorded)
    assert internal._encoder(sent + "," * 60_000)[1].startswith("text/plain; version=0.0.4;")
    assert parsed == [""]


async def scraped(relay: Relay, accept: str) -> str:
    """The body of one scrape."""
    async with (
        aiohttp.ClientSession() as client,
        client.get(f"http://127.0.0.1:{relay.app.internal_port}/metrics", headers={"Accept": accept}) as response,
    ):
        return await response.text()


@pytest.mark.parametrize(
    "accept", ["", "text/plain;version=1.0.0;escaping=allow-utf-8", "application/openmetrics-text;version=1.0.0"]
)
async def test_metrics_are_rendered_part_by_part(accept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop goes on between them, and the whole is what the library renders at once."""
    monkeypatch.setattr(internal, "RENDERED_AT_ONCE_SECONDS", 0.0)
    async with simulated_relay() as relay:
        scrape = asyncio.create_task(scraped(relay, accept))
        iterations = 0
        while not scrape.done():
            iterations += 1
            await asyncio.sleep(0)
        at_once = exposition.choose_encoder(accept)[0](relay.app.metrics.registry).decode()
        names = [[line.rpartition(" ")[0] for line in text.splitlines()] for text in (await scrape, at_once)]
        assert names[0] == names[1]
        assert iterations > at_once.count("# TYPE ")


async def test_metrics_of_several_formats_are_rendered_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of several renderings would take a millisecond of every iteration of the event loop."""
    monkeypatch.setattr(internal, "RENDERED_AT_ONCE_SECONDS", 0.0)
    async with simulated_relay() as relay:
        rendered: list[str] = []
        choose = exposition.choose_encoder

        def recorded(accept: str) -> tuple[internal.Encode, str]:
            encode, content_type = choose(accept)

            def render(metrics: Collector) -> bytes:
                rendered.append(content_type)
                return encode(metrics)

            return render, content_type

        monkeypatch.setattr(exposition, "choose_encoder", recorded)
        kinds = [f"application/openmetrics-text;version={version}" for version in ("1.0.0", "")]
        await within(asyncio.gather(*(scraped(relay, accept) for accept in (*kinds, "text/plain"))), 30)
        assert [key for key, _ in itertools.groupby(rendered)] == list(dict.fromkeys(rendered))
        assert len(set(rendered)) == len(kinds) + 1
