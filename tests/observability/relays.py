"""The deployments: a simulator that can change its mind, and real relay processes in front of it."""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from service.simulator import Simulator, SimulatorOptions
from tests.observability.programs import answering, ended, free_port
from tests.support.relay_process import environment

GOOD_KEY: Final = "sk-sim-good-0123456789abcdef"


@dataclass
class Relay:
    """One instance: always the same ports, so that Prometheus finds its successor in the same place."""

    name: str
    settings: dict[str, str]
    folder: Path
    prefix: Sequence[str] = ()
    program: Sequence[str] = ("-m", "service")
    log: Path | None = None
    port: int = field(default_factory=free_port)
    internal: int = field(default_factory=free_port)
    _child: asyncio.subprocess.Process | None = None

    @property
    def target(self) -> str:
        """Where Prometheus scrapes it."""
        return f"127.0.0.1:{self.internal}"

    async def start(self) -> Self:
        """Start it, and wait until it answers."""
        log = self.log or self.folder / f"{self.name}.log"
        settings = {"RELAY_PORT": str(self.port), "RELAY_INTERNAL_PORT": str(self.internal), **self.settings}
        # A pipe with a name is opened without waiting for its reader.
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | (0 if self.log else os.O_CREAT), 0o600)
        try:
            self._child = await asyncio.create_subprocess_exec(
                *self.prefix, sys.executable, *self.program, "serve",
                env=environment(**settings), cwd="/", stderr=descriptor, stdout=descriptor,
            )  # fmt: skip
        finally:
            os.close(descriptor)
        shown = log if self.log is None else Path(os.devnull)
        await answering(f"http://{self.target}/livez", self._child, shown)
        return self

    def tell(self, number: signal.Signals) -> None:
        """Send it a signal, if it is there."""
        if self._child is not None and self._child.returncode is None:
            with suppress(ProcessLookupError):
                self._child.send_signal(number)

    async def kill(self) -> None:
        """As the kernel does when memory is short."""
        self.tell(signal.SIGKILL)
        await self.gone()

    async def gone(self) -> None:
        """Wait for its end."""
        if self._child is not None:
            await asyncio.wait_for(self._child.wait(), 10)

    async def stop(self) -> None:
        """End it, whatever state it is in."""
        self.tell(signal.SIGCONT)
        if self._child is not None:
            self.tell(signal.SIGTERM)
            await asyncio.sleep(0)
            self.tell(signal.SIGTERM)
            await ended(self._child)


class Provider:
    """A simulator that can be stopped, and started again with other manners, at the same address."""

    def __init__(self) -> None:
        self.port = free_port()
        self._simulator: Simulator | None = None

    @property
    def url(self) -> str:
        """As OPENAI_BASE_URL takes it."""
        return f"http://127.0.0.1:{self.port}/v1"

    async def behave(self, scenario: str | None = None, slow_first_event_seconds: float = 3.4) -> None:
        """Start, or start again in another way."""
        await self.stop()
        options = SimulatorOptions(
            scenario=scenario, pace=0, slow_first_event_seconds=slow_first_event_seconds, rate_limits_delay_seconds=0.0
        )
        self._simulator = Simulator(options)
        await self._simulator.start("127.0.0.1", self.port)

    async def stop(self) -> None:
        """Nobody is there."""
        if self._simulator is not None:
            await self._simulator.stop()
            self._simulator = None


def settings_for(provider: Provider, **more: str) -> dict[str, str]:
    """Of a relay in front of this provider."""
    return {
        "OPENAI_API_KEY": GOOD_KEY,
        "OPENAI_BASE_URL": provider.url,
        "RELAY_LOG_FORMAT": "json",
        "RELAY_MAX_RECONNECTS_PER_MINUTE": "0",
        **more,
    }
