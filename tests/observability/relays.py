"""Relay processes, and the simulated provider behind each deployment, whose scenario can change while relays run."""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from service.simulator import Behaviour, Simulator, SimulatorOptions
from service.simulator.live.options import LiveOptions
from tests.observability.programs import terminate, wait_until_ready
from tests.support.relay_process import environment
from tools.ports import free_port

VALID_KEY: Final = "sk-sim-good-0123456789abcdef"


@dataclass
class RelayProcess:
    """One relay instance. It keeps its ports across restarts, so that Prometheus scrapes the same target."""

    name: str
    settings: dict[str, str]
    folder: Path
    prefix: Sequence[str] = ()
    program: Sequence[str] = ("-m", "service")
    log: Path | None = None
    port: int = field(default_factory=free_port)
    internal_port: int = field(default_factory=free_port)
    _child: asyncio.subprocess.Process | None = None

    @property
    def target(self) -> str:
        """The address that Prometheus scrapes."""
        return f"127.0.0.1:{self.internal_port}"

    async def start(self) -> Self:
        """Start the process and wait until /livez answers."""
        log = self.log or self.folder / f"{self.name}.log"
        settings = {"RELAY_PORT": str(self.port), "RELAY_INTERNAL_PORT": str(self.internal_port), **self.settings}
        # `log` may be a named pipe; its reader is already open.
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | (0 if self.log else os.O_CREAT), 0o600)
        try:
            self._child = await asyncio.create_subprocess_exec(
                *self.prefix, sys.executable, *self.program, "serve",
                env=environment(**settings), cwd="/", stderr=descriptor, stdout=descriptor,
            )  # fmt: skip
        finally:
            os.close(descriptor)
        readable_log = log if self.log is None else Path(os.devnull)
        await wait_until_ready(f"http://{self.target}/livez", self._child, readable_log)
        return self

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal if the process runs."""
        if self._child is not None and self._child.returncode is None:
            with suppress(ProcessLookupError):
                self._child.send_signal(number)

    async def kill(self) -> None:
        """Send SIGKILL and wait for the exit."""
        self.send_signal(signal.SIGKILL)
        await self.wait_exited()

    async def wait_exited(self) -> None:
        """Wait until the process has exited."""
        if self._child is not None:
            await asyncio.wait_for(self._child.wait(), 10)

    async def stop(self) -> None:
        """Terminate the process in any state, stopped ones included, without waiting for a drain."""
        self.send_signal(signal.SIGCONT)
        if self._child is not None:
            self.send_signal(signal.SIGTERM)
            await asyncio.sleep(0)
            self.send_signal(signal.SIGTERM)
            await terminate(self._child)


class Provider:
    """A simulator on a fixed port, which can restart with another scenario."""

    def __init__(self) -> None:
        self.port = free_port()
        self._simulator: Simulator | None = None

    @property
    def url(self) -> str:
        """The value for OPENAI_BASE_URL."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def simulator(self) -> Simulator:
        """The running simulator."""
        assert self._simulator is not None
        return self._simulator

    async def restart(
        self,
        scenario: str | None = None,
        slow_first_event_seconds: float = 3.4,
        behaviour: Behaviour = Behaviour(),  # noqa: B008 - immutable
    ) -> None:
        """Start or restart with a scenario or a behaviour of all dials; without one the provider works normally."""
        await self.stop()
        options = SimulatorOptions(
            scenario=scenario,
            default=behaviour,
            pace=0,
            slow_first_event_seconds=slow_first_event_seconds,
            rate_limits_delay_seconds=0.0,
            live=LiveOptions(usage_interval_seconds=0.2),
        )
        self._simulator = Simulator(options)
        await self._simulator.start("127.0.0.1", self.port)

    async def stop(self) -> None:
        """Stop the simulator; its port then refuses connections."""
        if self._simulator is not None:
            await self._simulator.stop()
            self._simulator = None


def settings_for(provider: Provider, **more: str) -> dict[str, str]:
    """The settings of a relay that uses this provider."""
    return {
        "OPENAI_API_KEY": VALID_KEY,
        "OPENAI_BASE_URL": provider.url,
        "RELAY_LOG_FORMAT": "json",
        "RELAY_MAX_RECONNECTS_PER_MINUTE": "0",
        **more,
    }
