"""The composition root: builds every package's objects, starts, drains and stops them."""

import asyncio
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from service import configuration, machine, startup
from service.access.budget_gauge import BudgetGauge
from service.access.clients import ClientDirectory
from service.access.jwt_verifier import JwtVerifier
from service.access.policy import AccessPolicy
from service.clients_file.load import ClientsFileReader, LoadedClients
from service.clients_file.watcher import ClientsFileWatcher
from service.health.monitor import HealthMonitor
from service.health.schedule import RefreshIntervals
from service.health.store_check import StoreCheck
from service.relay.continuity.pool import ContinuityPool
from service.relay.drain import Drainer, DrainResult
from service.relay.reporter import SharedTelemetry
from service.settings import Settings
from service.signals import Signals
from service.store.factory import make_backend
from service.store.shared import SharedStore
from service.supervisor import Supervisor, measure_lag
from service.telemetry.metrics import Metrics
from service.telemetry.records import RecordWriter
from service.telemetry.redact import Redactor
from service.upstream.connector import UpstreamConnector
from service.upstream.dial import Dialler
from service.upstream.dials import DialsInFlight
from service.upstream.key_lint import KeyRefusal
from service.upstream.rotation import KeyFileWatcher
from service.upstream.target import Target
from service.web.attempts import AttemptReporter
from service.web.connection_limit import ConnectionLimit, internal_connections
from service.web.console import ConsoleHandler, ConsoleSources
from service.web.console_clients import ClientReport
from service.web.console_files import talk_routes
from service.web.doctor_process import DoctorProcess
from service.web.internal import InternalHandler
from service.web.listener import listen
from service.web.probes import ProbeHandler
from service.web.realtime import RealtimeHandler
from service.web.unserved_requests import UnservedRequests

if TYPE_CHECKING:  # see `_choose_target`
    from service.simulator import Simulator


class CannotListen(Exception):
    """Listening on an address failed; the message names the setting, the address and the reason."""


class App:
    """One relay: its listeners, background tasks and sessions. Call `start`, then await `run` or call `stop`."""

    connector: UpstreamConnector  # from `start` on
    monitor: HealthMonitor  # from `start` on

    def __init__(
        self,
        settings: Settings,
        *,
        intervals: RefreshIntervals | None = None,
        unread_keys: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._settings = settings
        self._unread_keys = unread_keys  # see `startup.report_simulator`
        self._intervals = intervals
        self._environ = os.environ if environ is None else environ  # of the doctor that the operator's page runs
        self._stack = AsyncExitStack()
        self._key_file: KeyFileWatcher | None = None
        self._clients_file: ClientsFileWatcher | None = None
        self._jwt: JwtVerifier | None = None
        self._records: RecordWriter | None = None
        self._budget_gauge: BudgetGauge | None = None
        self.dials = DialsInFlight()
        self.drainer = Drainer(self.dials)
        self.sessions = self.drainer.sessions
        self.redactor = Redactor(configuration.secrets(settings))
        self.metrics = Metrics(configuration.upstream_label(settings))
        self._supervisor = Supervisor(self.metrics.task_crashes)
        self._signals = Signals(settings.drain_seconds, self.sessions.__len__, self._check_files)
        self.simulator: Simulator | None = None
        self._scenarios: Sequence[str] = ()  # of the simulator
        store = settings.store_url
        self._store_check = (
            None if store is None else StoreCheck(self.metrics, is_required=settings.store_failure == "closed")
        )
        self.store = SharedStore(
            make_backend(store),
            self.metrics.store,
            mode=settings.store_failure,
            on_checked=self._store_check.checked if self._store_check is not None else lambda _failure, _seconds: None,
        )
        self.public_port = 0
        self.internal_port = 0

    # -- start --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen and begin the health checks; raises CannotListen or ClientsRejected, with nothing left running."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        startup.report_settings(self._settings)
        self._stack.push_async_callback(self.store.close)  # runs last: sessions free their places as they end
        self._records = self._open_records()  # closed after the last session
        clients_file = configuration.clients_file(self._settings)
        clients = clients_file.load() if clients_file is not None else None
        if clients is not None:
            self.redactor.replace(clients.secrets)
        target = await self._choose_target()
        self._build_upstream(target, startup.check_key(target, self._settings))
        await self.store.join()
        await self._listen(clients_file, clients)
        self._supervisor.start("store", self.store.keep_leases)
        self._supervisor.start("spending", self.store.keep_sending)
        self._supervisor.start("health", self.monitor.run)
        self._supervisor.start("loop lag", partial(measure_lag, self.metrics.observe_lag))
        self._follow_key_file(target)
        startup.report_start(self._settings, target, public_port=self.public_port, internal_port=self.internal_port)

    async def _choose_target(self) -> Target:
        if not configuration.needs_simulator(self._settings):
            return configuration.target(self._settings)
        # Its modules are a tenth of the start's CPU time.
        from service.simulator import SCENARIO_NAMES, Simulator, SimulatorOptions  # noqa: PLC0415 - see above

        self._scenarios = SCENARIO_NAMES
        self.simulator = await self._stack.enter_async_context(Simulator(SimulatorOptions()))
        if configuration.simulator_replaces_openai(self._settings):
            startup.report_simulator(self._unread_keys)
        return configuration.target(self._settings, self.simulator.url)

    def _build_upstream(self, target: Target, key_problem: KeyRefusal | None) -> None:
        metrics = self.metrics
        dialler = Dialler(target, **configuration.dial_options(self._settings))
        self._stack.push_async_callback(dialler.close)
        # Runs after the listeners are closed: until then a late dial can still start a session.
        self._stack.push_async_callback(self.drainer.end_all)
        on_retry = metrics.upstream_retries.labels(target.label).inc
        self.connector = connector = UpstreamConnector(dialler, key_problem, on_retry=on_retry)
        metrics.breaker_open.labels(target.label).set_function(lambda: float(connector.breaker.is_open))
        self.monitor = HealthMonitor(
            connector,
            metrics,
            **configuration.monitor_options(self._settings),
            intervals=self._intervals,
            store=self._store_check.state if self._store_check is not None else None,
        )

    async def _listen(self, clients_file: ClientsFileReader | None, clients: LoadedClients | None) -> None:
        settings, metrics = self._settings, self.metrics
        continuity = configuration.continuity_options(settings, machine.memory_limit_bytes())
        policy = configuration.access_policy(settings, startup.sessions_that_fit(settings, continuity))
        metrics.memory_limit.set(machine.memory_limit_bytes() or math.inf)
        directory = policy.directory(clients.clients if clients is not None else None)
        if clients_file is not None:
            self._follow_clients_file(clients_file, directory)
        handler = self._build_handler(policy, directory, ContinuityPool(continuity, metrics.continuity))
        console = self._build_console(handler, directory, policy.max_sessions)
        talk = talk_routes(configuration.talk_page(settings, self._scenarios)) if settings.console == "on" else []
        is_alive, store_refusal = self._supervisor.is_alive, self.store.refusal
        probes = ProbeHandler(
            self.monitor, self.drainer, metrics, is_alive, notes=self._notes, store_refusal=store_refusal
        )
        unserved = UnservedRequests(metrics, handler.addresses, handler.refusal_events)
        self.public_port = await self._listen_on(
            "RELAY_PORT",
            settings.host,
            settings.port,
            [*handler.routes(), *probes.routes(detailed=False), *talk],
            lambda server: ConnectionLimit(
                server, unserved, self._upstream_sockets, machine.max_client_descriptors(), metrics.turned_away
            ),
        )
        self.internal_port = await self._listen_on(
            "RELAY_INTERNAL_PORT",
            settings.internal_host,
            settings.internal_port,
            [*InternalHandler(metrics).routes(), *probes.routes(detailed=True), *console.routes()],
            lambda server: internal_connections(server, UnservedRequests(metrics, handler.addresses), metrics),
            on_bound=console.access.bound,
        )

    def _build_handler(
        self, policy: AccessPolicy, directory: ClientDirectory, continuity: ContinuityPool
    ) -> RealtimeHandler:
        return RealtimeHandler(
            policy,
            self.connector,
            self.drainer,
            self.dials,
            reporter=AttemptReporter(self.metrics, self.monitor.dial_finished, self.monitor.live_started),
            telemetry=SharedTelemetry(self.metrics, self.redactor, self._records),
            session_limits=configuration.session_limits(self._settings),
            max_dials=self._settings.max_dials,
            clients=directory,
            store=self.store,
            jwt=self._jwt,
            store_refusal=self.store.refusal,
            continuity=continuity,
        )

    def _open_records(self) -> RecordWriter | None:
        if self._settings.records == "off":
            return None
        target, loop = self._settings.records, asyncio.get_running_loop()

        def report(error: OSError | None) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(startup.report_records, target, error)

        writer = RecordWriter(
            target,
            on_result=lambda written: self.metrics.records.labels("written" if written else "lost").inc(),
            on_change=report,
        )
        self._stack.callback(writer.close)
        return writer

    def _build_console(self, handler: RealtimeHandler, directory: ClientDirectory, max_sessions: int) -> ConsoleHandler:
        settings, connector = self._settings, self.connector
        sources = ConsoleSources(
            self.monitor,
            self.drainer,
            self.metrics,
            self.redactor,
            DoctorProcess(self._environ, Path.cwd()),
            max_sessions=max_sessions,
            max_dials=settings.max_dials,
            dials=lambda: handler.dial_slots.active,
            memory=lambda: (machine.memory_used_bytes(), machine.memory_limit_bytes()),
            is_breaker_open=lambda: connector.breaker.is_open,
            settings=lambda: configuration.settings_report(settings, connector.dialler.target.key),
            notes=self._notes,
            clients=ClientReport(directory, self.store, self.sessions),
        )
        return ConsoleHandler(sources, settings.operator_token)

    def _upstream_sockets(self) -> int:
        return len(self.sessions) + len(self.dials)

    async def _listen_on(
        self,
        variable: str,
        host: str,
        port: int,
        routes: Iterable[web.RouteDef],
        limit: Callable[[web.Server], ConnectionLimit],
        *,
        on_bound: Callable[[Sequence[str]], object] = lambda _: None,
    ) -> int:
        try:
            hosts = configuration.allowed_hosts(self._settings)
            return await listen(
                self._stack, host, port, routes, connection_limit=limit, allowed_hosts=hosts, on_bound=on_bound
            )
        except OSError as exc:
            raise CannotListen(self.redactor.redact(startup.explain_listen_error(exc, variable, host, port))) from None

    def _follow_key_file(self, target: Target) -> None:
        path = self._settings.openai_api_key_file
        if path is None or target.simulated:
            return
        self._key_file = KeyFileWatcher(
            path,
            self.connector,
            self.metrics,
            model=self._settings.model,
            is_key_refused=self.monitor.is_key_refused,
            on_new_key=self.redactor.add,
            on_key_changed=self.monitor.key_changed,
            start_problem=self._settings.openai_api_key_problem,
        )
        self._supervisor.start("key file", self._key_file.watch)

    def _follow_clients_file(self, clients_file: ClientsFileReader, directory: ClientDirectory) -> None:
        """Keep up to date what the file decides: clients, the key sets of token issuers, and the share of budgets used."""
        self._jwt = JwtVerifier(directory, self.metrics.tokens)
        self._stack.push_async_callback(self._jwt.close)
        self._budget_gauge = BudgetGauge(directory, self.store, self.metrics.budget_used)
        self._clients_file = ClientsFileWatcher(
            clients_file,
            directory,
            self.metrics,
            on_secrets=self.redactor.replace,
            end_withdrawn=lambda: self.sessions.end_withdrawn(directory.must_end),
        )
        self._supervisor.start("clients file", self._clients_file.watch)
        self._supervisor.start("JWKS", self._jwt.keep_keys)
        self._supervisor.start("budgets", self._budget_gauge.keep)

    # -- run, drain, stop ---------------------------------------------------------------------------------------------

    def handle_signals(self, *, on_terminal: bool) -> None:
        """Let signals stop the relay; see `signals.py`. Call it before `start`; until then a signal kills the process."""
        self._signals.handle(on_terminal=on_terminal)

    def _check_files(self) -> dict[str, str]:
        """Have the watched files read now; what each is, and the log event with the result."""
        reading = {}
        if self._key_file is not None:
            self._key_file.check_now()
            reading["the key file"] = "key.file_checked"
        if self._clients_file is not None:
            self._clients_file.check_now()
            reading["the clients file"] = "clients.loaded, clients.unchanged or clients.file_rejected"
        return reading

    def _notes(self) -> list[str]:
        """Further lines of detailed health."""
        notes = self._key_file.notes() if self._key_file is not None else list(self._unread_keys)
        notes = notes + (self._clients_file.notes() if self._clients_file is not None else [])
        notes = notes + (self._jwt.notes() if self._jwt is not None else [])
        return notes + startup.records_notes(self._records)

    async def run(self) -> DrainResult:
        """Serve until a signal, drain, and stop; returns how the open sessions ended."""
        try:
            await self._signals.stop.wait()
            return await self.drain()
        finally:
            await self.stop()

    async def drain(self) -> DrainResult:
        """Refuse new sessions, let open ones finish until the deadline, close the remaining ones with 1001."""
        self.metrics.draining.set(1)
        return await self.drainer.drain(configuration.drain_timing(self._settings), self._signals.drain_signals)

    async def stop(self) -> None:
        """Stop listening and release everything; safe to call twice."""
        await self._supervisor.stop()
        await self.drainer.end_all()
        await self._stack.aclose()
