"""The composition root: the only file that knows every room."""

import asyncio
import math
import os
import socket
import ssl
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, suppress
from typing import Final

import structlog
from aiohttp import web

from service.access.limits import descriptors_for_callers, lowered, memory_limit
from service.health.monitor import Monitor, RefreshIntervals
from service.loop import NAME, freeze_garbage_collector
from service.realtime.keys import Secret, fingerprint, lint
from service.relay.drain import DrainResult, DrainTiming
from service.relay.registry import Registry
from service.relay.session import SessionTelemetry
from service.settings import Settings
from service.signals import Signals
from service.simulator import Simulator, SimulatorOptions
from service.telemetry import logs
from service.telemetry.log_writer import LogWriter
from service.telemetry.metrics import Metrics
from service.telemetry.redact import Redactor
from service.upstream.connector import Connector
from service.upstream.dial import Dialler
from service.upstream.rotation import KeyFileWatcher
from service.upstream.target import Target
from service.version import __version__
from service.web.connection_limit import ConnectionLimit
from service.web.internal import InternalHandler
from service.web.listener import listen
from service.web.probes import Probes
from service.web.realtime import RealtimeHandler

_LAG_SECONDS: Final = 0.5
_RESTART_SECONDS: Final = 1.0
SIMULATED_KEY: Final = "sk-sim-good"


class CannotListen(Exception):
    """An address cannot be listened on; the message names the setting."""


class App:
    """One relay: listeners, background tasks, sessions. Start, then wait for `run` or call `stop`."""

    def __init__(self, settings: Settings, *, pace: RefreshIntervals | None = None) -> None:
        self._settings = settings
        self._pace = pace
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._key_file: KeyFileWatcher | None = None
        self._log = structlog.get_logger()
        self.registry = Registry()
        self._signals = Signals(settings.drain_seconds, self.registry.__len__, self._read_key_again)
        self.simulator: Simulator | None = None
        password = settings.proxy.password if settings.proxy is not None else None
        self.redactor = Redactor(
            [settings.openai_api_key, password, *(token.secret for token in settings.client_tokens)]
        )
        self.public_port = 0
        self.internal_port = 0

    # -- start --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen and begin to check; raises CannotListen, with nothing left running."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        settings = self._settings
        target = await self._target()
        key_problem = self._lint(target)
        self.metrics = Metrics(target.label)
        self.metrics.memory_limit.set(memory_limit() or math.inf)
        dialler = Dialler(
            target,
            timeout_seconds=settings.dial_timeout_seconds,
            first_event=settings.first_event,
            max_message_bytes=settings.max_message_bytes,
        )
        self._stack.push_async_callback(dialler.close)
        # Runs after the listeners are closed: until then a late dial may still start a session.
        self._stack.push_async_callback(self.registry.finish)
        self.reach = reach = Connector(dialler, key_problem)
        reach.on_retry = self.metrics.upstream_retries.labels(target.label).inc
        self.metrics.breaker_open.labels(target.label).set_function(lambda: float(reach.breaker.is_open))
        self.monitor = Monitor(
            reach,
            self.metrics,
            model=settings.model,
            turns_per_day=settings.health_turns_per_day,
            pace=self._pace,
        )
        max_sessions = self._sessions_that_fit()
        entrance = RealtimeHandler(
            settings,
            reach,
            self.registry,
            instruments=SessionTelemetry(self.metrics, self.redactor),
            max_sessions=max_sessions,
            on_dialled=self.monitor.told,
        )
        probes = Probes(self.monitor, self.registry, self.metrics, self.is_alive)
        self.public_port = await self._listen(
            "RELAY_PORT",
            settings.host,
            settings.port,
            [*entrance.routes(), *probes.routes(detailed=False)],
            lambda server: ConnectionLimit(
                server, self.registry.upstream_sockets, descriptors_for_callers(), self.metrics.turned_away
            ),
        )
        self.internal_port = await self._listen(
            "RELAY_INTERNAL_PORT",
            settings.internal_host,
            settings.internal_port,
            [*InternalHandler(self.metrics).routes(), *probes.routes(detailed=True)],
        )
        self._tasks = [self._keep("health", self.monitor.run), self._keep("loop lag", self._measure_lag)]
        if settings.openai_api_key_file is not None and not target.simulated:
            key_file = KeyFileWatcher(
                settings.openai_api_key_file,
                reach,
                self.metrics,
                model=settings.model,
                is_refused=self.monitor.is_refused,
                on_new=self.redactor.add,
                on_taken=self.monitor.ask_again,
            )
            self.monitor.key_file = self._key_file = key_file
            self._tasks.append(self._keep("key file", key_file.watch))
        self._tell_start(target)

    def _sessions_that_fit(self) -> int:
        """RELAY_MAX_SESSIONS, or less where the machine gives less; told once."""
        wanted = self._settings.max_sessions
        limit = lowered(wanted)
        if limit is None:
            return wanted
        self._log.warning(
            "limit.lowered",
            message=f"The limit on {limit.what} allows fewer sessions than RELAY_MAX_SESSIONS.",
            remedy=limit.remedy,
            max_sessions=limit.sessions,
            wanted=wanted,
        )
        return limit.sessions

    async def _target(self) -> Target:
        settings = self._settings
        standing_in = settings.upstream == "auto" and settings.openai_api_key is None
        if settings.upstream == "simulator" or standing_in:
            self.simulator = await self._stack.enter_async_context(Simulator(SimulatorOptions()))
            if standing_in:
                self._log.warning(
                    "simulator.stands_in",
                    message="No key was found: the built-in simulator stands in for OpenAI. Set OPENAI_API_KEY to reach it.",
                )
            key = settings.openai_api_key or Secret(SIMULATED_KEY)
            return Target(self.simulator.url, key, simulated=True)
        return Target(
            settings.openai_base_url,
            settings.openai_api_key,
            settings.openai_org_id,
            settings.openai_project_id,
            proxy=settings.proxy,
        )

    def _lint(self, target: Target) -> str | None:
        """Log what is wrong with the key; the reason for which no dial is worth trying, or None."""
        key = target.key.reveal() if target.key is not None else None
        problems = lint(key, target.label)
        for problem in problems:
            self._log.log(
                40 if problem.fatal else 30,
                "key.problem_found",
                problem=problem.code,
                message=problem.sentence,
                remedy=problem.remedy,
                origin=self._settings.origins.get("OPENAI_API_KEY"),
                read=self._settings.openai_api_key_problem,
            )
        if key is not None and not target.simulated:
            self._log.info(
                "key.found", fingerprint=fingerprint(key), origin=self._settings.origins.get("OPENAI_API_KEY")
            )
        fatal = [problem for problem in problems if problem.fatal]
        if not fatal:
            return None
        return "key_missing" if fatal[0].code == "missing" else "key_malformed"

    async def _listen(
        self,
        variable: str,
        host: str,
        port: int,
        routes: Iterable[web.RouteDef],
        door: Callable[[web.Server], ConnectionLimit] | None = None,
    ) -> int:
        try:
            return await listen(self._stack, host, port, routes, door)
        except OSError as exc:
            why = os.strerror(exc.errno) if exc.errno else "no such address"
            raise CannotListen(f"{variable}: cannot listen on {host} port {port}: {why}") from None

    def _tell_start(self, target: Target) -> None:
        settings = self._settings
        for warning in settings.warnings:
            self._log.warning("setting.odd", variable=warning.variable, message=warning.sentence)
        if settings.access == "open" and settings.open_anywhere:
            self._log.warning(
                "access.open_anywhere", message="Whoever reaches the port can spend the provider's credit."
            )
        shown = settings.host if settings.host not in {"0.0.0.0", "::"} else "127.0.0.1"  # noqa: S104 - compared only
        self._log.info(
            "service.started",
            version=__version__,
            loop=NAME,
            url=f"ws://{_bracketed(shown)}:{self.public_port}/v1/realtime?model={settings.model}",
            health=f"http://127.0.0.1:{self.internal_port}/healthz?verbose",
            upstream=target.label,
            access=settings.access,
            settings=settings.summary(),
        )

    # -- life ---------------------------------------------------------------------------------------------------------

    def is_alive(self) -> bool:
        """Whether the background tasks run."""
        return all(not task.done() for task in self._tasks)

    def handle_signals(self, *, on_terminal: bool) -> None:
        """Let signals stop the relay; see `signals.py`. To be called before start, so that no signal kills instead."""
        self._signals.handle(on_terminal=on_terminal)

    def _read_key_again(self) -> bool:
        """Look at the key file now; False without one."""
        if self._key_file is not None:
            self._key_file.look_now()
        return self._key_file is not None

    async def run(self) -> DrainResult:
        """Serve until a signal, drain, and stop; returns what became of the sessions that were open."""
        try:
            await self._signals.told.wait()
            return await self.drain()
        finally:
            await self.stop()

    async def drain(self) -> DrainResult:
        """Take nobody new; let sessions finish until the deadline; end the rest with 1001."""
        self.metrics.draining.set(1)
        settings = self._settings
        return await self.registry.drain(
            DrainTiming(settings.drain_seconds, settings.close_spread_seconds), self._signals.haste
        )

    async def stop(self) -> None:
        """Stop listening and release everything; safe to call twice."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self.registry.finish()
        await self._stack.aclose()

    def _keep(self, name: str, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Run work for ever: what crashes is logged and started again."""

        async def forever() -> None:
            while True:
                try:
                    await work()
                except Exception:  # noqa: BLE001 - whatever it is, health and liveness must not die of it in silence
                    self._log.exception("task.crashed", task=name)
                    self.metrics.task_crashes.inc()
                await asyncio.sleep(_RESTART_SECONDS)

        return asyncio.get_running_loop().create_task(forever(), name=name)

    async def _measure_lag(self) -> None:
        while True:
            due = time.perf_counter() + _LAG_SECONDS  # uvloop's own time stands still within a turn
            await asyncio.sleep(_LAG_SECONDS)
            self.metrics.loop_lag.observe(max(0.0, time.perf_counter() - due))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


async def serve(settings: Settings) -> DrainResult:
    """Run one relay until it is told to stop; returns what became of the sessions then. Raises CannotListen."""
    app = App(settings)
    writer = LogWriter(sys.stderr)
    logs.configure(settings.log_format, settings.log_level, app.redactor, writer)
    asyncio.get_running_loop().set_exception_handler(_on_loop_exception)
    app.handle_signals(on_terminal=sys.stderr.isatty())
    try:
        await app.start()
        writer.on_drop = app.metrics.log_lines_dropped.inc
        loop = asyncio.get_running_loop()
        writer.on_room = lambda lines: loop.call_soon_threadsafe(_tell_dropped, lines)
        freeze_garbage_collector()
        tally = await app.run()
        structlog.get_logger().info("service.stopped")
        return tally
    finally:
        writer.close()


def _tell_dropped(lines: int) -> None:
    structlog.get_logger().warning(
        "log.lines_dropped", message="Whoever reads the log did not keep up, and lines were dropped.", lines=lines
    )


def _on_loop_exception(_loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """The default prints reprs, which may hold request headers; the type and place are enough."""
    exc = context.get("exception")
    with suppress(Exception):
        structlog.get_logger().error(
            "loop.exception_caught",
            message=str(context.get("message")),
            exc_type=type(exc).__name__ if exc else None,
            exc_info=exc
            if isinstance(exc, BaseException) and not isinstance(exc, ssl.SSLError | socket.error)
            else None,
        )
