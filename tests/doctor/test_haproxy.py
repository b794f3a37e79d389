"""The doctor through a real haproxy that does not speak plain HTTP/1.1 to the relay."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.doctor_chain import run_relay_chain
from tests.support.harness import Relay, simulated_relay
from tools.debian import PackageUnavailable, program


@asynccontextmanager
async def haproxy(relay: Relay, folder: Path, mode: str, server_options: str) -> AsyncIterator[int]:
    """Run haproxy in front of a relay; yields its port. Its listening socket is made here, so it accepts from the start."""
    try:
        binary = program("haproxy")
    except PackageUnavailable as exc:
        pytest.skip(str(exc))
    listener = socket.create_server(("127.0.0.1", 0))
    config = folder / "haproxy.cfg"
    config.write_text(
        f"""defaults
    mode {mode}
    timeout connect 5s
    timeout client 30s
    timeout server 30s
listen relay
    bind fd@{listener.fileno()}
    server relay 127.0.0.1:{relay.app.public_port} {server_options}
""",
        encoding="utf-8",
    )
    process = await asyncio.create_subprocess_exec(
        binary.path, "-db", "-f", config, env=binary.environment, pass_fds=[listener.fileno()],
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield int(listener.getsockname()[1])
    finally:
        process.kill()
        await process.wait()
        listener.close()


@pytest.mark.parametrize("mode", ["tcp", "http"])
@pytest.mark.parametrize("option", ["send-proxy", "send-proxy-v2"])
async def test_doctor_names_the_proxy_protocol(tmp_path: Path, mode: str, option: str) -> None:
    """Doctor and log name the same reason and remedy."""
    async with simulated_relay() as relay, haproxy(relay, tmp_path, mode, option) as port:
        report = await run_relay_chain(f"http://127.0.0.1:{port}", timeout_seconds=10)
        lines = relay.events("admission.refused")

    assert ("upgrade", "proxy_protocol") == (report.failed_step, report["upgrade"].reason), report.document
    assert "a relay answered HTTP 400: proxy_protocol" == report["relay"].finding
    assert "remove send-proxy and send-proxy-v2" in (report["upgrade"].remedy or "")
    assert "a proxy or load balancer on the route changed it" in report.text("upgrade")
    assert {("proxy_protocol", report["upgrade"].remedy)} == {(line["reason"], line["remedy"]) for line in lines}


async def test_doctor_points_to_the_log_where_haproxy_speaks_http2(tmp_path: Path) -> None:
    """HAProxy answers 503 by itself, so the doctor can only say where the reason is."""
    async with simulated_relay() as relay, haproxy(relay, tmp_path, "http", "proto h2") as port:
        report = await run_relay_chain(f"http://127.0.0.1:{port}", timeout_seconds=10)
        reasons = {line["reason"] for line in relay.events("admission.refused")}

    assert "upgrade" == report.failed_step
    assert "look for proxy_protocol, http_version_refused and tls_refused in its log" in report.text("upgrade")
    assert {"http_version_refused"} == reasons


async def test_doctor_passes_through_a_plain_haproxy(tmp_path: Path) -> None:
    """The control: without the option, all steps pass."""
    async with simulated_relay() as relay, haproxy(relay, tmp_path, "tcp", "") as port:
        report = await run_relay_chain(f"http://127.0.0.1:{port}", timeout_seconds=10)

    assert report.failed_step is None, report.document


async def test_doctor_names_a_wrong_path() -> None:
    """The remedy is the one that the relay sends, with the nearest path."""
    async with simulated_relay() as relay:
        report = await run_relay_chain(f"{relay.url}/v1/v1/realtime")

    assert ("upgrade", "path_not_found") == (report.failed_step, report["upgrade"].reason)
    assert "Use /v1/realtime, the nearest path" in (report["upgrade"].remedy or "")
