"""The step `store`, on a real Redis."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.doctor_chain import run_provider_chain
from tests.support.redis_server import RedisServer, running_redis
from tools.ports import free_port

SIMULATED = {"RELAY_UPSTREAM": "simulator", "OPENAI_API_KEY": "sk-sim-good"}
PASSWORD = "CANARY4store"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that keeps its data, with a password."""
    with running_redis(tmp_path, "--appendonly", "yes", "--requirepass", PASSWORD) as server:
        yield server


def url_of(server: RedisServer, password: str) -> str:
    """Its URL with a password."""
    return server.url.replace("//", f"//:{password}@")


async def test_store_passes_without_writing(tmp_path: Path, server: RedisServer) -> None:
    """The finding names server, version and time; later steps run."""
    report = await run_provider_chain(SIMULATED | {"RELAY_STORE_URL": url_of(server, PASSWORD)}, tmp_path)

    assert report.failed_step is None
    assert report["store"].status == "ok", report.text("store")
    assert f"at redis://127.0.0.1:{server.port}/0 answers in" in report["store"].finding
    assert b"rr:" not in server.written()
    assert PASSWORD not in report.document


async def test_memory_has_no_step(tmp_path: Path) -> None:
    """The default needs no server."""
    report = await run_provider_chain(SIMULATED, tmp_path)
    assert "store" not in [result.name for result in report.results]


@pytest.mark.parametrize("mode", ["open", "closed"])
async def test_wrong_password_is_named_and_not_repeated(tmp_path: Path, server: RedisServer, mode: str) -> None:
    """It fails the run only if the relay would refuse clients."""
    environ = SIMULATED | {"RELAY_STORE_URL": url_of(server, "CANARY5wrong"), "RELAY_STORE_FAILURE": mode}
    report = await run_provider_chain(environ, tmp_path)

    assert report.failed_step == ("store" if mode == "closed" else None)
    assert report["store"].status == ("fail" if mode == "closed" else "warn")
    assert "refuses user or password" in report.text("store")
    assert "Correct user and password in RELAY_STORE_URL" in f"{report.text('store')} {report['store'].remedy}"
    assert "CANARY" not in report.document


async def test_server_that_is_down_is_named(tmp_path: Path) -> None:
    """With its address and the remedy."""
    port = free_port()
    report = await run_provider_chain(SIMULATED | {"RELAY_STORE_URL": f"redis://127.0.0.1:{port}"}, tmp_path)
    assert f"redis://127.0.0.1:{port}/0 fails: no connection" in report.text("store")
    assert "Check host, port and scheme" in report.text("store")


async def test_store_over_tls_is_checked_against_the_trusted_authorities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of SSL_CERT_FILE, as for every connection of the relay; another authority is not accepted."""
    with running_redis(tmp_path, "--appendonly", "yes", with_tls=True) as server:
        assert server.authority is not None
        untrusted = await run_provider_chain(SIMULATED | {"RELAY_STORE_URL": server.url}, tmp_path)
        monkeypatch.setenv("SSL_CERT_FILE", str(server.authority.bundle))
        trusted = await run_provider_chain(SIMULATED | {"RELAY_STORE_URL": server.url}, tmp_path)
    assert "the certificate of the server is not accepted" in untrusted.text("store")
    assert trusted["store"].status == "ok", trusted.text("store")


async def test_server_that_may_lose_data_warns(tmp_path: Path) -> None:
    """Without an append-only file, and with an eviction policy."""
    with running_redis(tmp_path, "--maxmemory-policy", "allkeys-lru") as server:
        report = await run_provider_chain(SIMULATED | {"RELAY_STORE_URL": server.url}, tmp_path)
    assert report["store"].status == "warn"
    assert "appendonly is off" in report.text("store")
    assert "maxmemory-policy is allkeys-lru" in report.text("store")
