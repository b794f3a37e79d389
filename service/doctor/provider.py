"""The chain from this machine to the provider: what `serve` would do for a caller, rung by rung."""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import SimpleNamespace
from typing import Final

import aiohttp
from yarl import URL

from service import configuration
from service.doctor import network, response_check, running, tls
from service.doctor.local import LocalConfiguration
from service.doctor.network import Route
from service.doctor.steps import Finding, StepFailed, StepRunner, step_failed
from service.failures import Failure, Phase
from service.health.response_check import REQUEST
from service.simulator import Simulator, SimulatorOptions
from service.upstream.dial import Connected, Dialler, DialProgress
from service.upstream.rest import fetch_model, is_inconclusive, shows_key_is_valid
from service.upstream.stream import EventStream, StreamClosed
from service.upstream.target import DialRequest, Target

_TURN_SECONDS: Final = 30.0
_SKEW_SECONDS: Final = 30.0
"""Below it, nothing here depends on the clock; the Date header has whole seconds and travels, too."""
NO_BETA: Final = (
    "Outdated advice: the Realtime API is open to every account with credit. It asks for no beta access and no particular "
    "usage tier; the tier only sets how much at once."
)
_MODEL_PROVES: Final = (
    "Proves that the key is accepted and may see this model. Does not prove credit, the Realtime permission, or that "
    "WebSockets get through."
)


class ProviderChain:
    """Climbs from the files to the first event, and to a response if `with_turn`."""

    def __init__(self, local: LocalConfiguration, *, model: str | None = None, with_turn: bool = False) -> None:
        self._local = local
        self._wanted_model = model
        self._with_turn = with_turn
        self._stack = AsyncExitStack()
        self.target: Target | None = None
        self._addresses: list[str] = []
        self._line: EventStream | None = None
        self._task: asyncio.Task[Connected] | None = None
        self._progress = _Watched()
        self._answer: tuple[datetime, Mapping[str, str]] | None = None  # when the last answer came, and its headers

    def describe(self) -> dict[str, object]:
        """What is examined, as far as it is known."""
        if self.target is None:
            return {"upstream": None, "url": None, "model": None}
        return {"upstream": self.target.label, "url": self.target.base_url, "model": self._model}

    @property
    def _model(self) -> str:
        return self._wanted_model or self._local.settings.model

    async def run(self, runner: StepRunner) -> None:
        """Try every rung; whatever was opened is closed at the end."""
        async with self._stack:
            await runner.run_step("files", self._local.files)
            await runner.run_step("settings", self._settings)
            await runner.run_step("running", self._running)
            await runner.run_step("key", self._key)
            await runner.run_step("proxy", self._proxy)
            await runner.run_step("dns", self._dns)
            await runner.run_step("tcp", self._tcp)
            if self.target is not None and self.target.proxy is not None:
                await runner.run_step("tunnel", self._tunnel)
            await runner.run_step("tls", self._tls)
            await runner.run_step("model", self._ask_model)
            await runner.run_step("clock", self._clock)
            await runner.run_step("upgrade", self._upgrade)
            await runner.run_step("first_event", self._first_event)
            if self._with_turn:
                runner.announce(response_check.COST)
                await runner.run_step("turn", self._turn)
            await self._hang_up()

    # -- this machine -------------------------------------------------------------------------------------------------

    async def _settings(self) -> Finding:
        found = await self._local.read_settings()
        self.target = await self._choose_target()
        shown = f"{self.target.label} at {self.target.base_url}, model {self._model}"
        return Finding(f"{shown}; {found.finding}", found.notes, found.status)

    async def _choose_target(self) -> Target:
        settings = self._local.settings
        if not configuration.needs_simulator(settings):
            return configuration.target(settings)
        simulator = await self._stack.enter_async_context(Simulator(SimulatorOptions()))
        return configuration.target(settings, simulator.url)

    def _reached(self) -> Target:
        if self.target is None:
            raise AssertionError("the rung of the settings has not been climbed")
        return self.target

    async def _running(self) -> Finding:
        settings = self._local.settings
        if settings.internal_port == 0:
            return Finding("RELAY_INTERNAL_PORT is 0: there is no port to ask", status="skipped")
        files = [file.path for file in self._local.folder.read]
        return running.judge(await running.query_relay(settings), settings, self._reached().label, files)

    async def _key(self) -> Finding:
        stands_in = configuration.simulator_replaces_openai(self._local.settings)
        return self._local.check_key(self._reached(), stands_in=stands_in)

    async def _proxy(self) -> Finding:
        return self._local.check_proxy(self._reached())

    # -- the network --------------------------------------------------------------------------------------------------

    def _route(self) -> Route:
        target = self._reached()
        return Route(
            URL(target.base_url),
            target.proxy,
            self._local.settings.dial_timeout_seconds,
            hints=self._local.unused_proxy(target),
        )

    async def _dns(self) -> Finding:
        found, self._addresses = await network.resolve(self._route())
        return found

    async def _tcp(self) -> Finding:
        return await network.connect(self._route(), self._addresses)

    async def _tunnel(self) -> Finding:
        return await network.open_tunnel(self._route())

    async def _tls(self) -> Finding:
        route = self._route()
        if not route.is_tls:
            return Finding("plain HTTP to this machine; there is no TLS", status="skipped")
        return await tls.check_handshake(route)

    # -- the provider -------------------------------------------------------------------------------------------------

    def _dialler(self) -> Dialler:
        dialler = Dialler(self._reached(), **configuration.dial_options(self._local.settings))
        self._stack.push_async_callback(dialler.close)
        trace = aiohttp.TraceConfig()
        trace.on_request_end.append(self._note_answer)
        trace.freeze()
        dialler.session.trace_configs.append(trace)
        return dialler

    async def _note_answer(
        self, _session: aiohttp.ClientSession, _context: SimpleNamespace, ended: aiohttp.TraceRequestEndParams
    ) -> None:
        self._answer = (datetime.now(UTC), ended.response.headers)

    async def _ask_model(self) -> Finding:
        target, dialler = self._reached(), self._dialler()
        seconds = self._local.settings.dial_timeout_seconds
        try:
            await fetch_model(dialler.session, target, self._model, timeout_seconds=seconds)
        except Failure as failure:
            if (
                failure.wire_status is None
                or failure.reason == "proxy_failed"
                or failure.upstream_code == "invalid_api_key"
            ):
                raise step_failed(failure, *self._page_notes(failure)) from None
            return self._judge_refusal(failure, target)
        return Finding(f"the provider describes {self._model} to this key", [_MODEL_PROVES])

    def _judge_refusal(self, failure: Failure, target: Target) -> Finding:
        """A refusal of REST never overrides a socket that works: a key may be restricted to Realtime."""
        said = f"HTTP {failure.wire_status}"
        code = f", {failure.upstream_code}" if failure.upstream_code else ""
        if target.label in {"azure", "compatible"} and is_inconclusive(failure):
            return Finding(f"{said}{code}: not every server describes its models; the socket decides", status="skipped")
        finding = f"{failure.reason} ({said}{code}): {failure.row.sentence}"
        notes = self._page_notes(failure)
        if shows_key_is_valid(failure):
            notes.append("The key itself was taken: the provider looks at the model after the key.")
        elif failure.reason == "key_forbidden":
            notes.append("A restricted key may lack the right to list models and still open Realtime sessions.")
        return Finding(finding, [*notes, "The socket decides; see below."], "warn")

    def _page_notes(self, failure: Failure) -> list[str]:
        """What the headers tell of who answered."""
        if self._answer is None or failure.wire_status is None:
            return []
        headers, notes = self._answer[1], []
        if "html" in headers.get("Content-Type", "").lower() and failure.upstream_code is None:
            notes.append("The answer is a page of HTML: a portal, proxy or edge has answered, not the API.")
        if failure.reason == "redirect_refused":
            with suppress(ValueError):
                notes.append(f"It leads to {URL(headers.get('Location', '')).host or 'another path'}.")
        return notes

    async def _clock(self) -> Finding:
        if self._answer is None or "Date" not in self._answer[1]:
            return Finding("no Date header came", status="skipped")
        came, headers = self._answer
        try:
            skew = (came - parsedate_to_datetime(headers["Date"]).astimezone(UTC)).total_seconds()
        except (ValueError, OverflowError):
            return Finding("the Date header is no date", status="skipped")
        if abs(skew) <= _SKEW_SECONDS:
            return Finding("right to some seconds", seconds=0.0)
        side = "ahead of" if skew > 0 else "behind"
        notes = ["A wrong clock makes certificates invalid and spoils logs; switch on time synchronisation (NTP)."]
        return Finding(f"this machine's clock is {abs(skew):.0f} s {side} the provider's", notes, "warn", 0.0)

    async def _upgrade(self) -> Finding:
        """Begin to dial; this rung holds once the 101 is there, the next one waits for the rest."""
        dialler = self._dialler()
        self._task = asyncio.ensure_future(dialler.dial(DialRequest(query=(("model", self._model),)), self._progress))
        self._stack.push_async_callback(_settle, self._task)
        upgraded = asyncio.ensure_future(self._progress.upgraded.wait())
        try:
            await asyncio.wait({self._task, upgraded}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            upgraded.cancel()
        failure = self._failure()
        if failure is not None and failure.phase is not Phase.FIRST_EVENT:
            notes = self._page_notes(failure) + self._local.unused_proxy(self._reached())
            if failure.reason in {"bad_reply", "dropped_early", "reply_timeout"}:
                notes.append("The plain request before it got through, so something on the way may block WebSockets.")
            raise step_failed(failure, *notes)
        return Finding(
            "connected: 101 Switching Protocols; WebSockets get through",
            ["Does not prove the key: OpenAI upgrades before it looks at key, model and credit."],
        )

    def _failure(self) -> Failure | None:
        task = self._task
        if task is None or not task.done():
            return None
        error = task.exception()
        if error is not None and not isinstance(error, Failure):
            raise error
        return error

    async def _first_event(self) -> Finding:
        assert self._task is not None  # noqa: S101 - the rung below has made it
        try:
            connected = await self._task
        except Failure as failure:
            raise step_failed(failure, *self._first_event_notes(failure)) from None
        seconds = self._progress.seconds.get(Phase.FIRST_EVENT, 0.0)
        self._line = EventStream(connected)
        if self._local.settings.first_event == "optional":
            return Finding("not waited for, because RELAY_FIRST_EVENT is optional", status="skipped")
        event = await self._line.next_event(1.0)
        session = event.body.get("session")
        model = session.get("model") if isinstance(session, Mapping) else None
        known = f", model {model[:80]}" if isinstance(model, str) else ""
        notes = ["Proves key, model, permission and network together; the session cost nothing."]
        if self._reached().label == "openai":
            notes.append(NO_BETA)
        return Finding(f"session ready: {event.type or 'an event'}{known}", notes, seconds=seconds)

    def _first_event_notes(self, failure: Failure) -> list[str]:
        if failure.reason in {"model_not_found", "key_forbidden"} and self._reached().label == "openai":
            return [f"Allow {self._model} for the project: platform.openai.com, Project, Limits, Model usage.", NO_BETA]
        return []

    async def _turn(self) -> Finding:
        assert self._line is not None  # noqa: S101 - the rung below has made it
        return await request_response(self._line)

    async def _hang_up(self) -> None:
        if self._line is not None:
            await self._line.close()


async def request_response(line: EventStream) -> Finding:
    """Ask for one short text and wait for its end; raises Broken."""
    line.send(REQUEST)
    try:
        async with asyncio.timeout(_TURN_SECONDS):
            while True:
                event = await line.next_event(_TURN_SECONDS)
                if event.type == "response.done":
                    return response_check.judge_done(event.body)
                if event.type == "error":
                    raise response_check.judge_error(event.body)
    except TimeoutError:
        raise StepFailed(f"No response.done came within {_TURN_SECONDS:.0f} s.", reason="upstream_too_slow") from None
    except StreamClosed as closed:
        told = f"with {closed.code}" if closed.code is not None else "without a word"
        raise step_failed(Failure("upstream_closed" if closed.code else "upstream_lost"), f"Closed {told}.") from None


class _Watched(DialProgress):
    """Tells when the upgrade is over."""

    def __init__(self) -> None:
        super().__init__()
        self.upgraded = asyncio.Event()

    def enter(self, phase: Phase) -> None:
        """See Progress."""
        super().enter(phase)
        if phase is Phase.FIRST_EVENT:
            self.upgraded.set()


async def _settle(task: asyncio.Task[Connected]) -> None:
    """No dial is left behind: one that nobody took is hung up."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled() and task.exception() is None:
        task.result().abort()
