"""The chain from this machine to the provider: every step that `serve` takes for a client."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Final

from yarl import URL

from service import configuration
from service.doctor import live, network, response_check, running, tls
from service.doctor.last_response import LastResponse
from service.doctor.live import LiveSession
from service.doctor.local import OUTDATED_KEY_ADVICE, LocalConfiguration
from service.doctor.network import Route
from service.doctor.staged_dial import StagedDial
from service.doctor.steps import Finding, StepFailed, StepRunner, evidence_notes, requested_model
from service.failures import Failure
from service.realtime.live import DEFAULT_MODEL, is_live_model
from service.upstream import hints
from service.upstream.dial import Dialler
from service.upstream.live_key import UNPROVEN, check_live_key
from service.upstream.rest import fetch_model, is_inconclusive, shows_key_is_valid
from service.upstream.stream import EventStream
from service.upstream.target import DialRequest, Target

OUTDATED_ACCESS_ADVICE: Final = (
    "Ignore outdated advice: the Realtime API needs no beta access and no particular usage tier. Every account with credit "
    "can use it; the tier sets only the rate limits."
)
_MODEL_SCOPE: Final = (
    "This proves that the key is valid and has access to the model. It does not prove that the account has "
    "credit, that the key has the Realtime permission, or that the network allows WebSockets."
)
_LIVE_MODEL_SCOPE: Final = (
    "This proves that the key is valid and has access to the model. It does not prove that the account has credit, or that "
    "sessions of GPT-Live start."
)
_EVENT_SECONDS: Final = 1.0
"""For the first event, which a successful dial has already received."""


class ProviderChain:
    """The steps from the `.env` files to the first event, and to a response if `with_turn`.

    With `with_live` those of GPT-Live: to the key, and from the start to the end of a session if `with_turn`.
    """

    def __init__(
        self,
        local: LocalConfiguration,
        *,
        model: str | None = None,
        with_turn: bool = False,
        with_live: bool = False,
    ) -> None:
        self._local = local
        self._requested_model = model
        self._with_turn = with_turn
        self._with_live = with_live
        self._live_request = DialRequest(endpoint="live")
        self._live_session: LiveSession | None = None
        self._stack = AsyncExitStack()
        self._target: Target | None = None
        self._addresses: list[str] = []
        self._last_response = LastResponse()
        self._dial: StagedDial | None = None
        self._stream: EventStream | None = None

    def describe(self) -> dict[str, object]:
        """The object `target` of the JSON document; its values are None if the settings are invalid."""
        if self._target is None:
            return {"upstream": None, "url": None, "model": None}
        return {"upstream": self._target.label, "url": self._target.base_url, "model": self._model}

    def caveat(self) -> str | None:
        """That the simulator was checked in place of the provider, and which key is not read."""
        if self._target is None or not self._target.simulated:
            return None
        if not configuration.simulator_replaces_openai(self._local.settings):
            return "SIMULATOR (RELAY_UPSTREAM=simulator): nothing was checked at OpenAI."
        causes = self._local.unread_keys() or ["no key is set"]
        return f"SIMULATOR, not OpenAI: {'; '.join(causes)}."

    async def run(self, runner: StepRunner) -> None:
        """Run all steps and close every connection."""
        async with self._stack:
            await runner.run_step("files", self._local.check_files)
            await runner.run_step("settings", self._read_settings)
            if self._local.settings.clients_file is not None:
                await runner.run_step("clients_file", self._local.check_clients_file)
            if self._local.issuers:
                await runner.run_step("jwks", self._fetch_key_sets)
            await runner.run_step("running", self._query_running_relay)
            if self._local.settings.store_url is not None:
                await runner.run_step("store", self._check_store)
            await runner.run_step("key", self._check_key)
            await runner.run_step("proxy", self._check_proxy)
            await runner.run_step("dns", self._resolve)
            await runner.run_step("tcp", self._connect)
            if self._target is not None and self._target.proxy is not None:
                await runner.run_step("tunnel", self._open_tunnel)
            await runner.run_step("tls", self._check_tls)
            await runner.run_step("model", self._fetch_model)
            await runner.run_step("clock", self._compare_clocks)
            await (self._run_live(runner) if self._with_live else self._run_realtime(runner))

    async def _run_realtime(self, runner: StepRunner) -> None:
        await runner.run_step("upgrade", self._upgrade)
        await runner.run_step("first_event", self._wait_for_first_event)
        if self._with_turn:
            runner.announce(response_check.COST)
            await runner.run_step("turn", self._request_response)
        if self._stream is not None:
            await self._stream.close()

    async def _run_live(self, runner: StepRunner) -> None:
        await runner.run_step("live_key", self._check_live_key)
        if self._with_turn:
            runner.announce(live.COST)
            await runner.run_step("live_upgrade", self._upgrade_live)
            await runner.run_step("live_start", self._start_live)
            await runner.run_step("live_close", self._end_live)

    # -- this machine -------------------------------------------------------------------------------------------------

    async def _fetch_key_sets(self) -> Finding:
        from service.doctor.key_sets import fetch_key_sets  # noqa: PLC0415 - needs the extra `jwt`

        return await fetch_key_sets(self._local.issuers)

    async def _read_settings(self) -> Finding:
        finding = await self._local.read_settings()
        self._target = await self._choose_target()
        text = f"{self._target.label} at {self._target.base_url}, model {self._model}; {finding.text}"
        return Finding(text, finding.notes, finding.status)

    async def _choose_target(self) -> Target:
        settings = self._local.settings
        if not configuration.needs_simulator(settings):
            return configuration.target(settings)
        from service.simulator import Simulator, SimulatorOptions  # noqa: PLC0415 - as in `App`

        simulator = await self._stack.enter_async_context(Simulator(SimulatorOptions()))
        return configuration.target(settings, simulator.url)

    def _require_target(self) -> Target:
        assert self._target is not None  # noqa: S101 - set by the step 'settings'
        return self._target

    @property
    def _model(self) -> str:
        return self._requested_model or (DEFAULT_MODEL if self._with_live else self._local.settings.model)

    def success(self) -> str:
        """The last line, if no step failed."""
        if not self._with_live:
            return "All steps passed: connected, session ready."
        if self._with_turn:
            return "All steps passed: connected, session ready, session closed."
        return "All steps passed: GPT-Live knows the key. No session was started; --turn starts one, which is billed."

    async def _query_running_relay(self) -> Finding:
        settings = self._local.settings
        if settings.internal_port == 0:
            return Finding(
                "not asked: RELAY_INTERNAL_PORT is 0, so that a relay listens on any free port",
                ["To let the doctor find a running relay, set RELAY_INTERNAL_PORT to a fixed port, for example 9464."],
                "skipped",
            )
        relay = await running.query_relay(settings)
        files = [file.path for file in self._local.env_files.read]
        return running.compare(relay, settings, self._require_target().label, files)

    async def _check_store(self) -> Finding:
        from service.doctor.store import check_store  # noqa: PLC0415 - needs the extra `redis`

        return await check_store(self._local.settings)

    async def _check_key(self) -> Finding:
        is_fallback = configuration.simulator_replaces_openai(self._local.settings)
        return self._local.check_key(self._require_target(), is_fallback=is_fallback)

    async def _check_proxy(self) -> Finding:
        return self._local.check_proxy(self._require_target())

    # -- the network --------------------------------------------------------------------------------------------------

    def _route(self) -> Route:
        target = self._require_target()
        return Route(
            URL(target.base_url),
            self._local.settings.dial_timeout_seconds,
            target.proxy,
            target=target,
            notes=self._local.unused_proxy_notes(target),
        )

    async def _resolve(self) -> Finding:
        finding, self._addresses = await network.resolve(self._route())
        return finding

    async def _connect(self) -> Finding:
        return await network.connect(self._route(), self._addresses)

    async def _open_tunnel(self) -> Finding:
        return await network.open_tunnel(self._route())

    async def _check_tls(self) -> Finding:
        route = self._route()
        if not route.is_tls:
            return Finding("plain HTTP to this machine", status="skipped")
        return await tls.check_handshake(route)

    # -- the provider -------------------------------------------------------------------------------------------------

    def _open_dialler(self) -> Dialler:
        dialler = Dialler(self._require_target(), **configuration.dial_options(self._local.settings))
        self._stack.push_async_callback(dialler.close)
        self._last_response.observe(dialler.session)
        return dialler

    async def _fetch_model(self) -> Finding:
        target, session = self._require_target(), self._open_dialler().session
        timeout_seconds = self._local.settings.dial_timeout_seconds
        try:
            await fetch_model(session, target, self._model, timeout_seconds=timeout_seconds)
        except Failure as failure:
            is_conclusive = (
                failure.wire_status is None
                or failure.reason in {"proxy_failed", "proxy_auth_failed"}
                or failure.upstream_code == "invalid_api_key"
            )
            if is_conclusive:
                notes = [*self._last_response.notes(failure), *self._access_notes(failure)]
                raise StepFailed.from_failure(failure, *notes) from None
            return self._judge_model_refusal(failure, target)
        scope = _LIVE_MODEL_SCOPE if self._with_live else _MODEL_SCOPE
        return Finding(f"the provider returned the description of {self._model}", [scope])

    def _judge_model_refusal(self, failure: Failure, target: Target) -> Finding:
        # Never a failed step: a key may be restricted to Realtime, and then the WebSocket works.
        code = f", {failure.upstream_code}" if failure.upstream_code else ""
        response = f"HTTP {failure.wire_status}{code}"
        if target.label in {"azure", "compatible"} and is_inconclusive(failure):
            text = f"{response}: this server may not serve /models; the step '{self._deciding_steps[0]}' decides"
            return Finding(text, evidence_notes(failure), status="skipped")
        notes = [*evidence_notes(failure), *self._last_response.notes(failure)]
        if failure.hint:
            notes.append(failure.hint)
        if shows_key_is_valid(failure):
            notes.append("The provider accepted the key: it checks the model after the key.")
        elif failure.reason == "key_forbidden":
            notes.append("A restricted key can lack the permission to read models and still open Realtime sessions.")
        steps = " and ".join(f"'{name}'" for name in self._deciding_steps)
        notes.append(f"This is not final; the steps {steps} decide.")
        return Finding(f"{failure.reason} ({response}): {failure.row.sentence}", notes, "warn")

    @property
    def _deciding_steps(self) -> tuple[str, str]:
        return ("live_key", "live_start") if self._with_live else ("upgrade", "first_event")

    async def _compare_clocks(self) -> Finding:
        return self._last_response.compare_clocks()

    async def _upgrade(self) -> Finding:
        self._dial = StagedDial(self._open_dialler(), DialRequest(query=(("model", self._model),)))
        self._stack.push_async_callback(self._dial.close)
        try:
            await self._dial.wait_for_upgrade()
        except Failure as failure:
            notes = [*self._last_response.notes(failure), *self._access_notes(failure)]
            notes += self._local.unused_proxy_notes(self._require_target())
            if failure.reason in {"bad_reply", "dropped_early", "reply_timeout"}:
                notes.append(
                    "The HTTP request of the step 'model' was answered, so a proxy or firewall may block WebSockets only."
                )
            raise StepFailed.from_failure(failure, *notes) from None
        return Finding(
            "connected: 101 Switching Protocols; WebSockets get through",
            ["This does not prove the key: OpenAI upgrades before it checks key, model and credit."],
        )

    async def _wait_for_first_event(self) -> Finding:
        assert self._dial is not None  # noqa: S101 - set by the step 'upgrade'
        try:
            connected = await self._dial.wait_for_first_event()
        except Failure as failure:
            raise StepFailed.from_failure(failure, *self._access_notes(failure)) from None
        self._stream = EventStream(connected)
        if self._local.settings.first_event == "optional":
            return Finding("not required, because RELAY_FIRST_EVENT is optional", status="skipped")
        event = await self._stream.first_event(_EVENT_SECONDS)
        session = event.body.get("session")
        model = session.get("model") if isinstance(session, Mapping) else None
        suffix = f", model {model[:80]}" if isinstance(model, str) else ""
        notes = ["This proves key, model, permission and network together. Opening the session cost nothing."]
        text = f"session ready: {event.type}{suffix}"
        return Finding(text, notes, seconds=self._dial.first_event_seconds)

    def _access_notes(self, failure: Failure) -> list[str]:
        if failure.reason == "model_not_found" and is_live_model(self._model) and not self._with_live:
            return [f"{self._model} is a model of GPT-Live. Run the doctor with --live to check it."]
        if self._require_target().label != "openai":
            return requested_model(failure.reason, self._model)
        if failure.reason == "key_rejected":
            return [OUTDATED_KEY_ADVICE]
        if failure.reason not in {"model_not_found", "key_forbidden"}:
            return []
        advice = f"Allow {self._model} for the key's project at platform.openai.com: Project, Limits, Model usage."
        return [advice] if self._with_live else [advice, OUTDATED_ACCESS_ADVICE]

    async def _request_response(self) -> Finding:
        assert self._stream is not None  # noqa: S101 - set by the step 'first_event'
        return await response_check.request_response(self._stream)

    # -- GPT-Live -----------------------------------------------------------------------------------------------------

    async def _check_live_key(self) -> Finding:
        try:
            await check_live_key(self._open_dialler())
        except Failure as failure:
            # Azure and compatible servers need not answer as OpenAI does; the upgrade of a session decides, if it follows.
            is_inconclusive = failure.http_status in {101, 404}
            if is_inconclusive and (self._with_turn or self._require_target().label == "azure"):
                text = f"HTTP {failure.http_status}: this server answers differently, which shows nothing about the key"
                decides = "The step 'live_upgrade' decides." if self._with_turn else "Add --turn: a session decides."
                return Finding(text, [*evidence_notes(failure), decides], "warn")
            raise StepFailed.from_failure(failure, *self._last_response.notes(failure)) from None
        return Finding("the provider accepted the key: it does not know the session of the request", [UNPROVEN])

    async def _upgrade_live(self) -> Finding:
        connected = await self._open_dialler().dial(self._live_request)
        self._live_session = LiveSession(EventStream(connected), self._model, self._explain_live)
        self._stack.push_async_callback(self._live_session.close)
        return Finding(
            "connected: 101 Switching Protocols; the provider accepted the key",
            ["This does not prove access, model and credit: the provider checks them after session.start."],
        )

    def _explain_live(self, failure: Failure) -> StepFailed:
        hints.add_hint(failure, self._require_target(), request=self._live_request, model=self._model)
        return StepFailed.from_failure(failure, *self._access_notes(failure))

    async def _start_live(self) -> Finding:
        assert self._live_session is not None  # noqa: S101 - set by the step 'live_upgrade'
        return await self._live_session.start(self._local.settings.dial_timeout_seconds)

    async def _end_live(self) -> Finding:
        assert self._live_session is not None  # noqa: S101 - set by the step 'live_upgrade'
        return await self._live_session.end()
