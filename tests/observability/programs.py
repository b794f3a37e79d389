"""Finds Prometheus and Alertmanager, from Debian's packages if necessary, and runs them on loopback."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import yaml
from aiohttp import ClientError, ClientSession

from monitoring import rules
from tests.observability.time_scale import shorten
from tools.debian import PackageUnavailable, unpack
from tools.generate import ROOT

PACKAGES: Final = ("prometheus", "prometheus-alertmanager")
_START_SECONDS: Final = 180.0
# Debian's Alertmanager reads its templates from this absolute path.
_TEMPLATES: Final = Path("/usr/share/prometheus/alertmanager/default.tmpl")


def find_programs() -> dict[str, Path]:
    """Paths of both programs: installed, installed now if root, or unpacked; raises PackageUnavailable."""
    found = _installed()
    if found is None and os.geteuid() == 0:
        command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *PACKAGES]
        with suppress(OSError, subprocess.SubprocessError):
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            subprocess.run(command, check=True, capture_output=True, timeout=240, env=environment)
        found = _installed()
    if found is None:
        found = {name: unpack(name, f"usr/bin/{name}") for name in PACKAGES}
        if not _TEMPLATES.exists():
            raise PackageUnavailable(f"an unpacked Alertmanager requires {_TEMPLATES}: install the package as root")
    return found


def _installed() -> dict[str, Path] | None:
    found = {name: shutil.which(name) for name in PACKAGES}
    return {name: Path(path) for name, path in found.items() if path} if all(found.values()) else None


@asynccontextmanager
async def running(command: Sequence[str], ready_url: str, log: Path) -> AsyncIterator[None]:
    """Run a child process: enters once `ready_url` answers, terminates the process at exit."""
    with log.open("wb") as output:
        child = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output, cwd=log.parent)
    try:
        await wait_until_ready(ready_url, child, log)
        yield
    finally:
        await terminate(child)


async def terminate(child: asyncio.subprocess.Process) -> None:
    """Stop a child process with SIGTERM, after 20 seconds with SIGKILL."""
    if child.returncode is None:
        with suppress(ProcessLookupError):
            child.terminate()
        with suppress(TimeoutError):
            await asyncio.wait_for(child.wait(), 20)
    if child.returncode is None:
        child.kill()
        await child.wait()


async def wait_until_ready(url: str, child: asyncio.subprocess.Process, log: Path) -> None:
    """Wait until a URL answers with a success status; raises AssertionError with the end of the log if it does not."""
    deadline = asyncio.get_running_loop().time() + _START_SECONDS
    async with ClientSession() as session:
        while True:
            with suppress(ClientError, TimeoutError):
                async with session.get(url) as response:
                    if response.ok:
                        return
            is_late = asyncio.get_running_loop().time() > deadline
            assert child.returncode is None and not is_late, f"{url} does not answer:\n{_tail(log)}"  # noqa: PT018
            await asyncio.sleep(0.1)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])


def write_configuration(
    folder: Path, targets: Mapping[str, Sequence[str]], alertmanager_port: int, webhook_url: str
) -> None:
    """Write the rules with shortened durations, and both configuration files with other addresses and intervals only."""
    (folder / "rules.yaml").write_text(rules.to_yaml({"groups": rules.groups(scale=shorten)}), encoding="utf-8")
    text = rules.render_config(
        targets=dict(targets), alertmanager=f"127.0.0.1:{alertmanager_port}", rules="rules.yaml", interval="1s"
    )
    (folder / "prometheus.yml").write_text(text, encoding="utf-8")
    path = ROOT / "monitoring" / "alertmanager" / "alertmanager.yml"
    config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    config["route"] |= {"group_wait": "1s", "group_interval": "1s"}
    for receiver in config["receivers"]:
        receiver["webhook_configs"] = [{"url": f"{webhook_url}/{receiver['name']}"}]
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(config), encoding="utf-8")


def prometheus_command(program: Path, folder: Path, port: int) -> tuple[list[str], str]:
    """The command line of Prometheus, and its readiness URL."""
    command = [
        str(program),
        "--config.file=prometheus.yml",
        f"--web.listen-address=127.0.0.1:{port}",
        f"--storage.tsdb.path={folder / 'prometheus-data'}",
    ]
    return command, f"http://127.0.0.1:{port}/-/ready"


def alertmanager_command(program: Path, folder: Path, port: int) -> tuple[list[str], str]:
    """The command line of Alertmanager without clustering, and its readiness URL."""
    command = [
        str(program),
        "--config.file=alertmanager.yml",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
        f"--storage.path={folder / 'alertmanager-data'}",
    ]
    return command, f"http://127.0.0.1:{port}/-/ready"
