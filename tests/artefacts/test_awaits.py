"""Every wait of the program has a deadline, but for those listed here with the reason why it may last, or what bounds it."""

import ast
from pathlib import Path
from typing import Final

import pytest

from tests.artefacts.awaits import Code, read_code

ROOT: Final = Path(__file__).resolve().parents[2]

SERVES: Final = "lasts as long as the process: a signal ends it"
CLIENT: Final = (
    "aiohttp's writes wait for the client; `PublicProtocol._check_unsent` aborts a connection whose peer reads nothing"
)
AIOHTTP: Final = "calls handlers of the program, whose waits are judged here"
KEYS: Final = "waits for one fetch of a key set, which has FETCH_SECONDS"
STEP: Final = "a step of the doctor, whose waits are judged here"
DIAL: Final = "a dial, which has a budget of its own"
TOTAL: Final = "ClientTimeout.total of the HTTP session is the deadline"
NO_WAIT: Final = "waits for nothing: entering it creates an object"
SIMULATOR: Final = "starts the simulator on a port of loopback"
STORE_CALL: Final = "`StoreCalls.try_call` bounds every call of a backend"
SHUTDOWN: Final = "`Drainer.end_all` waits END_SECONDS for it at most"

EXCEPTIONS: Final = {
    (
        "service/access/jwks_source.py",
        "_read",
        "response.content.iter_any()",
    ): "within FETCH_SECONDS of `fetch_key_set`",
    ("service/access/jwks_source.py", "JwksSource.prepare", "asyncio.wait(...)"): KEYS,
    ("service/access/jwt_verifier.py", "JwtVerifier.prepare", "self._source_of(issuer).prepare(...)"): KEYS,
    ("service/access/jwt_verifier.py", "JwtVerifier.close", "self._session.close()"): "its connections are aborted",
    ("service/doctor/key_sets.py", "fetch_key_sets", "open_session()"): NO_WAIT,
    (
        "service/access/secrets.py",
        "ClientSecrets.turn",
        "self._turns.setdefault(...)",
    ): "its holder only asks the store",
    ("service/web/admission.py", "AdmissionControl.prepared", "AsyncExitStack()"): NO_WAIT,
    ("service/web/admission.py", "AdmissionControl._prepare", "self._jwt.prepare(...)"): KEYS,
    ("service/web/admission.py", "AdmissionControl._prepare", "self._secrets.read(...)"): STORE_CALL,
    ("service/web/console_clients.py", "ClientReport._totals", "self._asking"): "its holder only asks the store",
    ("service/web/client_secrets.py", "_read_body", "request.writer.write(...)"): "25 bytes into an empty buffer",
    ("service/app.py", "App.run", "self._signals.stop.wait()"): SERVES,
    (
        "service/app.py",
        "App.stop",
        "self._stack.aclose()",
    ): "calls what was pushed: closing listeners (shutdown_timeout), "
    "the simulator, `Drainer.end_all` and `Dialler.close`",
    ("service/app.py", "App._choose_target", "self._stack.enter_async_context(...)"): SIMULATOR,
    ("service/doctor/provider.py", "ProviderChain._choose_target", "self._stack.enter_async_context(...)"): SIMULATOR,
    ("service/doctor/network.py", "connect", "asyncio.wait(...)"): "of cancelled tasks, with deadlines of their own",
    ("service/doctor/provider.py", "ProviderChain.run", "self._stack"): "closes the simulator and `Dialler`",
    (
        "service/doctor/provider.py",
        "ProviderChain.run",
        "self._run_live(runner) if self._with_live else self._run_realtime(runner)",
    ): STEP,
    (
        "service/doctor/relay.py",
        "RelayChain.run",
        "self._stack",
    ): "closes an HTTP session whose connections are aborted",
    (
        "service/doctor/relay.py",
        "RelayChain.run",
        "self._run_live(runner) if self._options.with_live else self._run_realtime(runner)",
    ): STEP,
    ("service/doctor/relay.py", "RelayChain._get_health", "open_session()"): NO_WAIT,
    ("service/doctor/relay.py", "RelayChain._upgrade", "self._stack.enter_async_context(...)"): NO_WAIT,
    ("service/doctor/running.py", "query_relay", "aiohttp.ClientSession(...)"): NO_WAIT,
    ("service/doctor/running.py", "_get", "session.get(...)"): TOTAL,
    ("service/doctor/running.py", "_get", "response.content.readany()"): TOTAL,
    ("service/doctor/staged_dial.py", "StagedDial.wait_for_upgrade", "asyncio.wait(...)"): DIAL,
    ("service/doctor/staged_dial.py", "StagedDial.wait_for_first_event", "self._task"): DIAL,
    ("service/doctor/staged_dial.py", "StagedDial.close", "asyncio.wait(...)"): "a cancelled dial",
    ("service/doctor/steps.py", "StepRunner.run_step", "step()"): STEP,
    ("service/health/monitor.py", "HealthMonitor.refresh", "asyncio.gather(...)"): "of checks of the monitor's own",
    (
        "service/loop.py",
        "start_threads",
        "asyncio.get_running_loop().getaddrinfo(...)",
    ): "of an address: no resolver is asked",
    ("service/relay/drain.py", "Drainer._wait_closed", "closed"): SHUTDOWN,
    ("service/relay/registry.py", "SessionRegistry.wait_empty", "self._empty.wait()"): SHUTDOWN,
    (
        "service/relay/session.py",
        "Session.run",
        "asyncio.shield(...)",
    ): "lasts as long as the session: the watchdog ends one whose peers are gone, idle or too slow",
    (
        "service/relay/continuity/renewable_session.py",
        "RenewableSession.run",
        "super().run()",
    ): "`Session.run`, which is judged",
    (
        "service/relay/continuity/fair_slots.py",
        "FairSlots._acquire",
        "place",
    ): "`Preparation.dial_and_begin` bounds it and each holder",
    ("service/store/calls.py", "StoreCalls.call", "self._slots"): "the calls that hold the slots have deadlines",
    ("service/store/redis_backend.py", "RedisBackend._run", "self._client.eval(...)"): STORE_CALL,
    ("service/store/redis_backend.py", "RedisBackend._run", "self._client.evalsha(...)"): STORE_CALL,
    ("service/store/redis_backend.py", "RedisBackend.close", "self._client.aclose()"): "`SharedStore.close` bounds it",
    ("service/store/spending.py", "SpendingReporter.keep_sending", "self._wake.wait()"): SERVES,
    ("service/supervisor.py", "Supervisor._keep_running", "work()"): SERVES,
    (
        "service/upstream/dials.py",
        "DialsInFlight.run",
        "timeout",
    ): "a deadline that `expire` sets; the dial has another",
    ("service/upstream/dials.py", "DialsInFlight.run", "dial"): DIAL,
    ("service/upstream/dials.py", "DialsInFlight.wait_empty", "self._none_left.wait()"): SHUTDOWN,
    ("service/upstream/resolver.py", "CachingResolver.resolve", "asyncio.shield(...)"): "`_look_up` has LOOKUP_SECONDS",
    ("service/web/live.py", "LiveSessions._run", "session"): "lasts as long as the session",
    (
        "service/web/refusals.py",
        "answer_with_error_event",
        "asyncio.shield(...)",
    ): "of `close_with_events`, which is judged",
    ("service/web/console.py", "ConsoleHandler._guarded.check_access", "handler(...)"): "a handler of the console",
    ("service/web/console.py", "ConsoleHandler.doctor", "self._sources.doctor.run()"): "has DOCTOR_SECONDS",
    ("service/web/host_check.py", "HostCheck.middleware.check_host", "handler(...)"): AIOHTTP,
    (
        "service/web/internal.py",
        "InternalHandler._render",
        "asyncio.shield(...)",
    ): "rendered behind at most one rendering of each content type, of which there are a dozen",
    ("service/web/internal.py", "InternalHandler._render_later", "self._turn"): "its holder only renders",
    ("service/web/listener.py", "listen", "runner.setup()"): "calls no code that waits: there are no start-up hooks",
    (
        "service/web/listener.py",
        "listen",
        "asyncio.get_running_loop().create_server(...)",
    ): "`_check_name` has resolved the host, with a deadline",
    (
        "service/web/listener.py",
        "_listen_again",
        "asyncio.get_running_loop().create_server(...)",
    ): "the socket listens already",
    ("service/web/protocol.py", "PublicProtocol._handle_request", "super()._handle_request(...)"): AIOHTTP,
    ("service/web/protocol.py", "PublicProtocol.finish_response", "super().finish_response(...)"): CLIENT,
    ("service/web/realtime.py", "RealtimeHandler._run_session", "asyncio.shield(...)"): "lasts as long as the session",
    ("service/web/unserved_requests.py", "_Response._prepare_headers", "super()._prepare_headers()"): NO_WAIT,
    ("service/wire/seam.py", "answer_client", "response.prepare(...)"): CLIENT,
}
"""File, function and expression of a wait without a deadline, and why it is right."""


def code_of_the_program() -> Code:
    """Without the simulator, whose peers are the relay and the tests: it waits for what they do."""
    files = [path for path in sorted((ROOT / "service").rglob("*.py")) if "simulator" not in path.parts]
    return read_code(ROOT, files)


def test_every_wait_has_a_deadline_or_a_reason() -> None:
    """If this fails: bound the new wait by `asyncio.timeout`, or state what bounds it in EXCEPTIONS."""
    code = code_of_the_program()
    unbounded = {wait.key for wait in code.unbounded()}

    assert set() == unbounded - EXCEPTIONS.keys()
    assert set() == EXCEPTIONS.keys() - unbounded, "entries that no code needs any more"
    assert len(code.waits) > 200


@pytest.mark.parametrize(
    ("body", "unbounded"),
    [
        ("await queue.get()", ["queue.get()"]),
        ("await event.wait()", ["event.wait()"]),
        ("await future", ["future"]),
        ("async with lock: pass", ["lock"]),
        ("async for item in stream: pass", ["stream"]),
        ("async with asyncio.timeout(None): await event.wait()", ["asyncio.timeout(...)", "event.wait()"]),
        ("await asyncio.wait(tasks)", ["asyncio.wait(...)"]),
        ("await asyncio.wait(tasks, timeout=None)", ["asyncio.wait(...)"]),
        ("await asyncio.wait_for(event.wait(), None)", ["asyncio.wait_for(...)"]),
        ("await asyncio.shield(future)", ["asyncio.shield(...)"]),
        ("await asyncio.gather(own(), event.wait())", ["asyncio.gather(...)"]),
        ("async with asyncio.timeout(1):\n  def inner(): pass\n  await event.wait()", []),
        ("async with asyncio.timeout_at(deadline): await event.wait()", []),
        ("await asyncio.wait(tasks, timeout=1)", []),
        ("await asyncio.wait_for(event.wait(), 1)", []),
        ("await asyncio.sleep(1)", []),
        ("await own()", []),
        ("await asyncio.gather(own(), asyncio.sleep(1))", []),
    ],
)
def test_wait_without_a_deadline_is_found(body: str, unbounded: list[str], tmp_path: Path) -> None:
    """Nested code is judged by itself, and a call of a coroutine by that coroutine."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    path = tmp_path / "code.py"
    path.write_text(f"async def own():\n    pass\n\n\nasync def function():\n{lines}\n", encoding="utf-8")
    ast.parse(path.read_text(encoding="utf-8"))

    assert unbounded == [wait.expression for wait in read_code(tmp_path, [path]).unbounded()]


def test_function_is_bounded_where_all_its_calls_are(tmp_path: Path) -> None:
    """And not where one of them is not."""
    path = tmp_path / "code.py"
    leaf = "async def leaf():\n    await event.wait()\n"
    function = f"{leaf}\n\nasync def one():\n    async with asyncio.timeout(1):\n        await leaf()\n"
    path.write_text(function, encoding="utf-8")
    assert [] == list(read_code(tmp_path, [path]).unbounded())

    path.write_text(function + "\n\nasync def two():\n    await leaf()\n", encoding="utf-8")
    assert ["event.wait()"] == [wait.expression for wait in read_code(tmp_path, [path]).unbounded()]
