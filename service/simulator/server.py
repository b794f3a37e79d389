"""The simulator: a server on one port that behaves like the provider, and records its connections.

It uses aiohttp's own WebSocket implementation and, apart from `realtime`, shares no code with the relay, so that an error in
one cannot hide an error in the other. Stopping takes less than a second and leaves neither tasks nor connections.
"""

import asyncio
import contextlib
import copy
import time
from dataclasses import replace
from types import TracebackType
from typing import Self, TypeVar

from aiohttp import web
from multidict import MultiDict

from service.simulator import control, schema
from service.simulator.behaviour import Behaviour, DialPlan, End, EndKind
from service.simulator.calls import Call, Calls
from service.simulator.configuration import (
    SessionConfiguration,
    session_object,
    show_expiry,
    transcription_object,
    translation_object,
)
from service.simulator.connection import Connection
from service.simulator.conversation import Conversation
from service.simulator.conversation_record import ConversationRecord
from service.simulator.events import JSONObject
from service.simulator.faults import (
    fail_after_upgrade,
    hang_until_disconnect,
    scenario_http_response,
    session_lifetime_seconds,
)
from service.simulator.handshake import SUBPROTOCOL, UpgradeRequest, edge_headers, parse_upgrade_request, refusal_for
from service.simulator.ids import new_id
from service.simulator.live.endpoint import refuse_live_upgrade
from service.simulator.live.session import LiveSession
from service.simulator.options import SimulatorOptions
from service.simulator.record import ConnectionRecord
from service.simulator.rest import RestApi
from service.simulator.scenarios import Scenario, parse_scenario
from service.simulator.session import Session
from service.simulator.translation import TranslationSession
from service.simulator.voice import NumberedVoice

__all__ = ["ConnectionRecord", "Simulator", "SimulatorOptions"]

_MAX_MESSAGE_BYTES = 32 * 1024 * 1024  # above the limit of one append, so that a larger append gets an error event
_SOCKET_PATHS = ("/v1/realtime", "/v1/realtime/translations")
_BACKLOG = 4096  # of connections that arrive at once, as after a loss of all
_CLOSE_SECONDS = 0.2  # for sending close frames when stopping; then connections are aborted
_HANDLER_SHUTDOWN_SECONDS = 0.3
_ACCEPT = web.RequestKey("simulator_accept", str)
_WRONG_ACCEPT = "d3Jvbmcgc2VjcmV0IGFuc3dlciE="
_T = TypeVar("_T")
_BAD_REQUEST = 400
_FORBIDDEN = 403  # the provider's edge answers upgrade requests for other paths with it


class Simulator:
    """A local Realtime and GPT-Live API. `start` it, connect to its `url`, and `stop` it; or use it as a context manager."""

    def __init__(self, options: SimulatorOptions | None = None) -> None:
        self.options = options or SimulatorOptions()
        self.connections: list[ConnectionRecord] = []  # upgrade requests, the newest max_records
        self.rest_calls: list[tuple[str, str]] = []  # other requests: method and path
        self._default_scenario = parse_scenario(self.options.scenario)
        self._rest_api = RestApi(self.options, self._default_scenario)
        self._dials = DialPlan(self.options.default)
        self._dial_count = 0
        self._dialled = asyncio.Event()
        self._calls = Calls(self.options.call_ids)
        self._voice = NumberedVoice() if self.options.numbered_answers else None
        self._runner: web.AppRunner | None = None
        self._open_connections: set[Connection] = set()
        self._transports: set[asyncio.Transport] = set()
        self._url = ""

    @property
    def url(self) -> str:
        """The base URL for SDKs, ``http://host:port/v1``; empty unless started."""
        return self._url

    @property
    def open_count(self) -> int:
        """The number of open connections, including upgrade requests without a response yet."""
        return sum(not record.closed for record in self.connections)

    def set_dials(self, *behaviours: Behaviour, lane: str | None = None) -> None:
        """Set how the next dials behave, one behaviour for each; the option `default` follows.

        A lane has a list of its own, for the requests with its name in the query (``simulate_lane``).
        """
        self._dials.set(behaviours, lane)

    def dials_left(self, lane: str | None = None) -> int:
        """Return how many behaviours no dial has used yet."""
        return self._dials.left(lane)

    async def wait_dials(self, count: int) -> None:
        """Wait until there have been this many upgrade requests."""
        while self._dial_count < count:
            await self._dialled.wait()

    def upstreams(self, lane: str | None = None) -> list[ConnectionRecord]:
        """Return the records of the connections that became a session; with `lane`, only those."""
        return [r for r in self.connections if r.session_id is not None and lane in (None, r.lane)]

    async def drop_all(self, end: End, lane: str | None = None) -> int:
        """End every open connection at once, of a lane if one is given; return how many. New ones are served.

        Raises ValueError for an end that ends nothing.
        """
        if end.kind is EndKind.ERROR:
            raise ValueError(f"{end} ends no connection")
        dropped = [c for c in self._open_connections if lane in (None, c.record.lane)]
        await asyncio.gather(*(connection.end(end, f"drop-all: {end}") for connection in dropped))
        return len(dropped)

    def end_call(self, call_id: str) -> None:
        """End a call: its sideband is refused with 404 from then on."""
        self._calls.end(call_id)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Start listening; port 0 selects a free port. Raises OSError if the address is unavailable."""
        app = web.Application(client_max_size=_MAX_MESSAGE_BYTES)
        app.router.add_route("*", "/{path:.*}", self._handle_request)
        app.on_response_prepare.append(_override_accept)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_HANDLER_SHUTDOWN_SECONDS)
        await runner.setup()
        self._runner = runner
        try:
            await web.TCPSite(runner, host, port, backlog=_BACKLOG).start()
        except OSError:
            await self.stop()
            raise
        bound_host, bound_port = runner.addresses[0][:2]
        self._url = f"http://{f'[{bound_host}]' if ':' in bound_host else bound_host}:{bound_port}/v1"

    async def stop(self) -> None:
        """Stop listening and close every connection. Does nothing unless started."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        for site in list(runner.sites):
            await site.stop()
        closing = [connection.close(1001) for connection in self._open_connections]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*closing), _CLOSE_SECONDS)
        for transport in list(self._transports):
            transport.abort()
        await runner.cleanup()
        self._url = ""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def _handle_request(self, request: web.Request) -> web.StreamResponse:
        transport = request.transport
        if transport is None:  # the client has disconnected
            return web.Response()
        self._transports.add(transport)
        try:
            if request.headers.get("Upgrade", "").lower() != "websocket":
                if self.options.control and control.is_control(request):
                    return await control.handle(request, self)
                _append_bounded(self.rest_calls, (request.method, request.path), self.options.max_records)
                return await self._rest_api.handle(request)
            return await self._handle_upgrade(request, transport)
        finally:
            self._transports.discard(transport)

    async def _handle_upgrade(self, request: web.Request, transport: asyncio.Transport) -> web.StreamResponse:
        record = ConnectionRecord(request.path, MultiDict(request.query), request.headers.copy())
        behaviour = self._register(record)
        try:
            upgrade = parse_upgrade_request(request.path, request.query, record.headers, self._default_scenario)
            if behaviour.scenario is not None:
                upgrade = replace(upgrade, scenario=parse_scenario(behaviour.scenario))
        except ValueError as error:
            record.status = _BAD_REQUEST
            record.mark_closed()
            refusal = {
                "type": "invalid_request_error",
                "code": "unknown_scenario",
                "message": str(error),
                "param": "simulate",
            }
            return web.json_response({"error": refusal}, status=_BAD_REQUEST)
        try:
            response = await self._response_without_upgrade(request, transport, upgrade)
            if response is not None:
                record.status = response.status
                response.headers.update(edge_headers())
                return response
            await asyncio.sleep(behaviour.round_trip_ms / 1000)
            return await self._serve_websocket(request, transport, record, upgrade, behaviour)
        finally:
            if record.conversation is not None:
                record.conversation.release()
            record.mark_closed()

    def _register(self, record: ConnectionRecord) -> Behaviour:
        self._dial_count += 1
        record.dial = self._dial_count
        if self.options.keep_conversations:
            record.conversation = ConversationRecord()
        _append_bounded(self.connections, record, self.options.max_records)
        self._dialled.set()
        self._dialled = asyncio.Event()
        return self._dials.next(record.lane)

    async def _response_without_upgrade(
        self, request: web.Request, transport: asyncio.Transport, upgrade: UpgradeRequest
    ) -> web.Response | None:
        if upgrade.scenario is Scenario.HANG_BEFORE_101:
            await hang_until_disconnect(transport)
            return web.Response()  # not sent: the client has disconnected
        response = scenario_http_response(upgrade.scenario, upgrade.key or "", upgrade.model_or_default)
        if response is not None:
            return response
        if upgrade.live is not None:
            sessions = self._rest_api.live_sessions
            return refuse_live_upgrade(upgrade.live, request, upgrade.key, upgrade.scenario, sessions)
        if request.path not in _SOCKET_PATHS:
            return web.Response(status=_FORBIDDEN)
        if upgrade.call_id is not None and upgrade.call_id not in self._calls:
            return web.Response(status=404)
        return None

    async def _serve_websocket(
        self,
        request: web.Request,
        transport: asyncio.Transport,
        record: ConnectionRecord,
        upgrade: UpgradeRequest,
        behaviour: Behaviour,
    ) -> web.StreamResponse:
        # aiohttp must not answer pings and close frames: `Connection` does.
        protocols = (SUBPROTOCOL,) if upgrade.live is None else ()  # GPT-Live has none
        ws = web.WebSocketResponse(
            protocols=protocols, autoclose=False, autoping=False, timeout=0.1, max_msg_size=_MAX_MESSAGE_BYTES
        )
        ws.headers.update(edge_headers())
        if upgrade.scenario is Scenario.WRONG_ACCEPT:
            request[_ACCEPT] = _WRONG_ACCEPT
        try:
            await ws.prepare(request)
        except ConnectionResetError:
            return web.Response()  # not sent: the client has disconnected
        record.status = ws.status
        connection = Connection(ws, transport, record, self.options, behaviour)
        self._open_connections.add(connection)
        try:
            connection.spawn(connection.send_pings())
            await self._run_session(connection, upgrade)
        finally:
            await connection.clean_up()
            self._open_connections.discard(connection)
        return ws

    async def _run_session(self, connection: Connection, upgrade: UpgradeRequest) -> None:
        if upgrade.live is not None and upgrade.live.session_id is not None:
            sessions = self._rest_api.live_sessions
            if (attached := sessions.find(upgrade.live.session_id, upgrade.key)) is not None:
                await sessions.attach(attached, connection, upgrade.scenario)
            return
        if upgrade.live is not None:
            await LiveSession(connection, upgrade.scenario, upgrade.key or "", is_azure=upgrade.live.is_azure).run()
            return
        if await fail_after_upgrade(connection, upgrade.scenario):
            return
        secret = self._rest_api.client_secrets.get(upgrade.key or "")
        if secret is not None and upgrade.model is None and not upgrade.is_transcription:
            upgrade = _apply_client_secret(upgrade, secret.session)
        expired = secret is not None and secret.expires_at < time.time()
        refusal = refusal_for(upgrade, self.options, expired_secret=expired)
        if refusal is not None:
            await connection.refuse(refusal)
            async for _ in connection.messages():
                pass
            return
        session = self._create_session(connection, upgrade, secret.session if secret is not None else None)
        await session.run()

    def _create_session(
        self, connection: Connection, upgrade: UpgradeRequest, secret_session: JSONObject | None
    ) -> Session | TranslationSession:
        seconds = session_lifetime_seconds(connection, upgrade.scenario)
        if upgrade.is_translation:
            return TranslationSession(
                connection, upgrade.scenario, translation_object(upgrade.model_or_default, seconds)
            )
        if upgrade.is_transcription:
            rules, session = schema.TRANSCRIPTION_SESSION, transcription_object(seconds)
        else:
            rules, session = schema.REALTIME_SESSION, session_object(upgrade.model_or_default, seconds)
        if secret_session is not None and secret_session["type"] == session["type"]:
            expires_at = session["expires_at"]
            session = {**copy.deepcopy(secret_session), "id": new_id("sess"), "expires_at": expires_at}
        show_expiry(session, connection.behaviour.expires_at)
        configuration = SessionConfiguration(session, rules, connection.behaviour.session_patch)
        configuration.refuses_other_model = connection.behaviour.refuses_other_model
        call = Call(configuration, Conversation(self.options.kept_audio_bytes))
        if upgrade.call_id is not None:
            call = self._calls.state(upgrade.call_id, call)
        return Session(
            connection,
            upgrade.scenario,
            call.configuration,
            conversation=call.conversation,
            sideband=upgrade.call_id is not None,
            unsupported_model=upgrade.model if upgrade.is_transcription else None,
            voice=self._voice,
        )


def _apply_client_secret(upgrade: UpgradeRequest, session: JSONObject) -> UpgradeRequest:
    is_transcription = session["type"] == "transcription"
    model = None if is_transcription else str(session["model"])
    return replace(upgrade, model=model, is_transcription=is_transcription)


async def _override_accept(request: web.Request, response: web.StreamResponse) -> None:
    if _ACCEPT in request:
        response.headers["Sec-WebSocket-Accept"] = request[_ACCEPT]


def _append_bounded(items: list[_T], item: _T, limit: int) -> None:
    items.append(item)
    del items[:-limit]
