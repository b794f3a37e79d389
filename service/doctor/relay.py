"""The chain from a client's place to a running relay, through every proxy and ingress between them."""

import statistics
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from typing import Final

from service.doctor import live, network, reply, response_check, tls
from service.doctor.live import LiveSession
from service.doctor.network import Route
from service.doctor.relay_request import RelayOptions, RelayRequest, step_failed
from service.doctor.relay_url import websocket_url
from service.doctor.reply import RELAY_EXPLANATIONS, UPGRADED, Reply
from service.doctor.steps import Finding, StepFailed, StepRunner
from service.failures import Failure, Phase
from service.realtime.names import is_loopback
from service.upstream.dial import open_session
from service.upstream.proxy import PROXY_VARIABLES
from service.upstream.stream import EventStream, StreamClosed

_PINGS: Final = 3
_PONG_SECONDS: Final = 5.0
_TOKEN_REASONS: Final = frozenset({"token_missing", "token_invalid"})
_LIVE_START_SECONDS: Final = 35.0
"""The relay waits 30 s for the provider's answer, and then explains."""
_LIVE_ERROR_SECONDS: Final = 0.25
"""For the error event that a browser gets directly after its 101; GPT-Live itself sends nothing before `session.start`."""


class RelayChain:
    """The steps from the relay's address to the round-trip time, and to a response if `with_turn`.

    With `with_live` those of GPT-Live: to the relay's connection, and to the end of a session if `with_turn`.
    """

    def __init__(self, options: RelayOptions, environ: Mapping[str, str]) -> None:
        self._options = options
        self._environ = environ
        self._url = websocket_url(options.url, options.model, with_live=options.with_live)
        self._route = Route(self._url, options.timeout_seconds, explanations=RELAY_EXPLANATIONS)
        self._request = RelayRequest(options, self._route)
        self._addresses: list[str] = []
        self._stack = AsyncExitStack()
        self._reply = Reply(0, {})
        self._stream: EventStream | None = None
        self._live_session: LiveSession | None = None

    def success(self) -> str:
        """The last line, if no step failed."""
        if not self._options.with_live:
            return "All steps passed: connected, session ready."
        if self._options.with_turn:
            return "All steps passed: connected, session ready, session closed."
        return "All steps passed: connected to GPT-Live. No session was started; --turn starts one, which is billed."

    def caveat(self) -> str | None:
        """None: the relay reports its own upstream."""
        return None

    def describe(self) -> dict[str, object]:
        """The object `target` of the JSON document."""
        return {"relay": str(self._url.with_query(None)), "origin": self._options.origin, "model": self._options.model}

    async def run(self, runner: StepRunner) -> None:
        """Run all steps and close every connection."""
        runner.explanations = RELAY_EXPLANATIONS
        async with self._stack:
            await runner.run_step("address", self._check_address)
            await runner.run_step("dns", self._resolve)
            await runner.run_step("tcp", self._connect)
            await runner.run_step("tls", self._check_tls)
            await runner.run_step("relay", self._get_health)
            await runner.run_step("upgrade", self._upgrade)
            await runner.run_step("origin", self._check_origin)
            await runner.run_step("token", self._check_token)
            await (self._run_live(runner) if self._options.with_live else self._run_realtime(runner))
            if self._stream is not None and self._live_session is None:
                await self._stream.close()

    async def _run_realtime(self, runner: StepRunner) -> None:
        await runner.run_step("first_event", self._wait_for_first_event)
        await runner.run_step("round_trip", self._measure_round_trip)
        if self._options.with_turn:
            runner.announce(response_check.COST)
            await runner.run_step("turn", self._request_response)

    async def _run_live(self, runner: StepRunner) -> None:
        await runner.run_step("live_key", self._check_live_key)
        await runner.run_step("round_trip", self._measure_round_trip)
        if self._options.with_turn:
            runner.announce(live.COST)
            await runner.run_step("live_start", self._start_live)
            await runner.run_step("live_close", self._end_live)

    # -- the network --------------------------------------------------------------------------------------------------

    async def _check_address(self) -> Finding:
        notes = []
        is_plain, is_local = not self._route.is_tls, is_loopback(self._route.host)
        if is_plain and self._options.token is not None and not is_local:
            notes.append("The token is sent in clear text. Put TLS in front of the relay and use https:// or wss://.")
        if is_plain and (self._options.origin or "").startswith("https://"):
            notes.append("Browsers block ws:// from a page that was loaded over https://. Use wss:// in the page.")
        status = "warn" if notes else "ok"
        proxy_variable = next((name for name in PROXY_VARIABLES if self._environ.get(name, "").strip()), None)
        if proxy_variable is not None and not is_local:
            notes.append(f"The doctor ignores {proxy_variable} and connects directly; SDKs and browsers may not.")
        return Finding(str(self._url.with_query(None)), notes, "warn" if status == "warn" else "ok")

    async def _resolve(self) -> Finding:
        finding, self._addresses = await network.resolve(self._route)
        return finding

    async def _connect(self) -> Finding:
        return await network.connect(self._route, self._addresses)

    async def _check_tls(self) -> Finding:
        if not self._route.is_tls:
            return Finding("the URL uses plain HTTP", status="skipped")
        return await tls.check_handshake(self._route)

    # -- the relay ----------------------------------------------------------------------------------------------------

    async def _get_health(self) -> Finding:
        # Never a failed step: an ingress may forward only the path of the WebSocket.
        url = self._url.with_path("/healthz").with_query(None)
        async with open_session() as session:
            response = await self._request.fetch(session, url)
        status = response.headers.get("X-Health-Status")
        if status in {"pass", "warn", "fail"}:
            notes = (
                ["The relay cannot reach the provider. Run the doctor where the relay runs."]
                if status == "fail"
                else []
            )
            return Finding(f"a relay answered; its health: {status}", notes, "warn" if status != "pass" else "ok")
        if response.relay_error is not None:
            reason = reply.reason_of(response.relay_error)
            return Finding(f"a relay answered HTTP {response.status}: {reason}", status="warn")
        page = ", an HTML page" if response.is_html else ""
        note = "A proxy or ingress may forward only the path of the WebSocket; the step 'upgrade' decides."
        return Finding(f"no relay answered at /healthz (HTTP {response.status}{page})", [note], "warn")

    async def _upgrade(self) -> Finding:
        session = await self._stack.enter_async_context(open_session())
        self._reply, self._stream = await self._request.upgrade(session, self._url)
        error = self._reply.relay_error
        if self._reply.status == UPGRADED:
            return Finding("101 Switching Protocols")
        if error is None:
            raise reply.refused_by_other_server(self._reply, scheme=self._url.scheme)
        if reply.reason_of(error) in reply.ROUTE_REASONS:
            raise reply.refused_by_relay(error, *_route_notes(reply.reason_of(error)))
        return Finding(f"the relay answered HTTP {self._reply.status}")

    async def _check_origin(self) -> Finding:
        error = self._reply.relay_error
        origin = self._options.origin
        if error is not None and reply.reason_of(error) == "origin_refused":
            note = (
                f"Origin: {origin}." if origin else "The doctor sent no Origin header; a proxy on the route added one."
            )
            raise reply.refused_by_relay(error, note)
        if origin is None:
            text = "no Origin sent, as only browsers send one; use --origin to connect as a page"
            return Finding(text, status="skipped")
        return Finding(f"pages of {origin} may connect")

    async def _check_token(self) -> Finding:
        error = self._reply.relay_error
        if error is not None and reply.reason_of(error) in _TOKEN_REASONS:
            raise reply.refused_by_relay(error, *self._token_notes(reply.reason_of(error)))
        if self._options.token is None:
            return Finding("none sent and none required: every client that can connect may use the relay")
        place = "as a subprotocol, as browsers do" if self._options.origin else "as Authorization: Bearer"
        return Finding(f"accepted, or not required; sent {place}")

    def _token_notes(self, reason: str) -> list[str]:
        if self._options.token is None:
            return ["The doctor has no token. Name one with --token-env or --token-file."]
        if reason == "token_missing":
            return ["The doctor sent a token, but the relay received none: a proxy on the route removed it."]
        return []

    async def _wait_for_first_event(self) -> Finding:
        error = self._reply.relay_error
        if error is not None:
            raise reply.refused_by_relay(error, model=self._url.query.get("model"))
        assert self._stream is not None  # noqa: S101 - set by the step 'upgrade' unless the relay refused
        try:
            event = await self._stream.first_event(self._options.timeout_seconds)
        except TimeoutError:
            raise step_failed(Failure("first_event_timeout", Phase.FIRST_EVENT)) from None
        except StreamClosed as closed:
            code = f"with code {closed.code}" if closed.code is not None else "without a close code"
            failure = Failure("dropped_early", Phase.FIRST_EVENT)
            raise step_failed(failure, f"The WebSocket was closed {code}.") from None
        if event.type == "error":
            error = reply.relay_error_in(event.body)
            if error is not None:
                raise reply.refused_by_relay(error, model=self._url.query.get("model"))
            raise StepFailed.from_failure(Failure("upstream_error", Phase.FIRST_EVENT))
        return Finding(f"session ready: {event.type}")

    async def _measure_round_trip(self) -> Finding:
        assert self._stream is not None  # noqa: S101 - set by the step 'upgrade'
        try:
            times = [await self._stream.ping(_PONG_SECONDS) for _ in range(_PINGS)]
        except TimeoutError:
            note = (
                "A proxy on the route does not forward WebSocket control frames; it will close sessions that are quiet."
            )
            return Finding(f"no pong within {_PONG_SECONDS:g} s", [note], "warn")
        median = statistics.median(times)
        return Finding(
            f"{median * 1000:.1f} ms to the relay and back (median of {_PINGS})",
            ["This is the time to the relay only; the provider answers later."],
            seconds=median,
        )

    async def _request_response(self) -> Finding:
        assert self._stream is not None  # noqa: S101 - set by the step 'upgrade'
        return await response_check.request_response(self._stream)

    # -- GPT-Live -----------------------------------------------------------------------------------------------------

    async def _check_live_key(self) -> Finding:
        error = self._reply.relay_error
        if error is not None:
            raise reply.refused_by_relay(error)
        assert self._stream is not None  # noqa: S101 - set by the step 'upgrade' unless the relay refused
        if self._options.origin is not None:  # a browser gets the refusal as an event
            with suppress(TimeoutError):
                event = await self._stream.first_event(_LIVE_ERROR_SECONDS)
                if (error := reply.relay_error_in(event.body)) is not None:
                    raise reply.refused_by_relay(error)
        return Finding(
            "the relay has connected to GPT-Live: the provider accepted the relay's key",
            ["It is unproven that sessions start: the provider checks access, model and credit after session.start."],
        )

    async def _start_live(self) -> Finding:
        assert self._stream is not None  # noqa: S101 - set by the step 'upgrade'
        model = self._options.model
        self._live_session = LiveSession(self._stream, model, self._start_failed, through_relay=True)
        self._stack.push_async_callback(self._live_session.close)
        return await self._live_session.start(_LIVE_START_SECONDS)

    def _start_failed(self, failure: Failure) -> StepFailed:
        if failure.reason != "first_event_timeout":
            return step_failed(failure)
        return StepFailed(
            "The relay answered session.start neither with session.started nor with an error.",
            reason=failure.reason,
            remedy="Check for a proxy on the route that buffers or drops messages, and the relay's log.",
        )

    async def _end_live(self) -> Finding:
        assert self._live_session is not None  # noqa: S101 - set by the step 'live_start'
        return await self._live_session.end()


def _route_notes(reason: str) -> list[str]:
    """What a refusal shows about the route, given that the doctor sends a valid upgrade in plain HTTP/1.1."""
    if reason == "not_a_websocket":
        return ["The doctor sent an upgrade; a proxy on the route removed its headers."]
    if reason in {"proxy_protocol", "http_version_refused", "tls_refused"}:
        return ["The doctor sent plain HTTP/1.1: a proxy or load balancer on the route changed it."]
    return []
