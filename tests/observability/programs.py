"""Prometheus and Alertmanager, from Debian's packages, and how they are run: on loopback, for this test only."""

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import yaml
from aiohttp import ClientError, ClientSession

from monitoring import rules
from tests.observability.pace import paced
from tools.debian import PackageUnavailable, unpack
from tools.generate import ROOT

PACKAGES: Final = ("prometheus", "prometheus-alertmanager")
_START_SECONDS: Final = 30.0
# Debian's Alertmanager looks for its templates here, wherever it is started from.
_TEMPLATES: Final = Path("/usr/share/prometheus/alertmanager/default.tmpl")


def obtain() -> dict[str, Path]:
    """Both programs: installed, or installed now where we may, or unpacked beside; raises NotToBeHad."""
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
            raise PackageUnavailable(f"an Alertmanager that is only unpacked needs {_TEMPLATES}: install it as root")
    return found


def _installed() -> dict[str, Path] | None:
    found = {name: shutil.which(name) for name in PACKAGES}
    return {name: Path(path) for name, path in found.items() if path} if all(found.values()) else None


def free_port() -> int:
    """A port that nobody has just now; the programs here cannot be asked which one they took."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@asynccontextmanager
async def running(command: Sequence[str], ready: str, log: Path) -> AsyncIterator[None]:
    """A child process, from when it answers at `ready` to its end."""
    with log.open("wb") as output:
        child = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output, cwd=log.parent)
    try:
        await answering(ready, child, log)
        yield
    finally:
        await ended(child)


async def ended(child: asyncio.subprocess.Process) -> None:
    """Stop a child, by asking first."""
    if child.returncode is None:
        with suppress(ProcessLookupError):
            child.terminate()
        with suppress(TimeoutError):
            await asyncio.wait_for(child.wait(), 5)
    if child.returncode is None:
        child.kill()
        await child.wait()


async def answering(url: str, child: asyncio.subprocess.Process, log: Path) -> None:
    """Wait until a URL answers with 200."""
    deadline = asyncio.get_running_loop().time() + _START_SECONDS
    async with ClientSession() as session:
        while True:
            with suppress(ClientError, TimeoutError):
                async with session.get(url) as answer:
                    if answer.ok:
                        return
            late = asyncio.get_running_loop().time() > deadline
            assert child.returncode is None and not late, f"{url} does not answer:\n{_tail(log)}"  # noqa: PT018
            await asyncio.sleep(0.1)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])


def write_configuration(folder: Path, targets: Mapping[str, Sequence[str]], alertmanager: int, receiver: str) -> None:
    """The rules at the test's pace, and both programs' own files with only addresses and waiting times changed."""
    (folder / "rules.yaml").write_text(rules.to_yaml({"groups": rules.groups(scale=paced)}), encoding="utf-8")
    text = rules.render_config(
        targets=dict(targets), alertmanager=f"127.0.0.1:{alertmanager}", rules="rules.yaml", interval="1s"
    )
    (folder / "prometheus.yml").write_text(text, encoding="utf-8")
    path = ROOT / "monitoring" / "alertmanager" / "alertmanager.yml"
    config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    config["route"] |= {"group_wait": "1s", "group_interval": "1s"}
    for each in config["receivers"]:
        each["webhook_configs"] = [{"url": f"{receiver}/{each['name']}"}]
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(config), encoding="utf-8")


def prometheus(program: Path, folder: Path, port: int) -> tuple[list[str], str]:
    """Its command, and where it says that it is ready."""
    command = [
        str(program),
        "--config.file=prometheus.yml",
        f"--web.listen-address=127.0.0.1:{port}",
        f"--storage.tsdb.path={folder / 'prometheus-data'}",
    ]
    return command, f"http://127.0.0.1:{port}/-/ready"


def alertmanager(program: Path, folder: Path, port: int) -> tuple[list[str], str]:
    """The same of Alertmanager, which would otherwise look for a cluster."""
    command = [
        str(program),
        "--config.file=alertmanager.yml",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
        f"--storage.path={folder / 'alertmanager-data'}",
    ]
    return command, f"http://127.0.0.1:{port}/-/ready"
