"""The simulator: a server on one port that answers as the provider does, and remembers who came.

An independent peer: its sockets are aiohttp's own, and it shares no code with what it is used to test. Stopping takes
less than a second and leaves no task and no connection behind.
"""

import asyncio
import contextlib
import copy
import time
from types import TracebackType
from typing import Self, TypeVar

from aiohttp import web
from multidict import MultiDict

from service.simulator import schema
from service.simulator.configuration import Configuration, session_object, transcription_object, translation_object
from service.simulator.events import JSONObject
from service.simulator.faults import break_after_101, hang_before_101, http_answer, seconds_of_session
from service.simulator.handshake import SUBPROTOCOL, Approach, edge_headers, read_approach, refusal_for
from service.simulator.ids import new_id
from service.simulator.options import SimulatorOptions
from service.simulator.peer import Peer
from service.simulator.record import ConnectionRecord
from service.simulator.rest import Rest
from service.simulator.scenarios import Scenario, parse_scenario
from service.simulator.session import Session
from service.simulator.translation import TranslationSession

__all__ = ["ConnectionRecord", "Simulator", "SimulatorOptions"]

_MAX_MESSAGE_BYTES = 32 * 1024 * 1024  # well above the largest append, so that what is too much is told, not cut off
_SOCKET_PATHS = ("/v1/realtime", "/v1/realtime/translations")
_GOODBYE_SECONDS = 0.2  # for CLOSE frames when stopping; then connections are aborted
_HANDLERS_END_SECONDS = 0.3
_ACCEPT = web.RequestKey("simulator_accept", str)
_WRONG_ACCEPT = "d3Jvbmcgc2VjcmV0IGFuc3dlciE="
_Kept = TypeVar("_Kept")
_BAD_REQUEST = 400
_REFUSED_PATH = 403  # what the provider's edge says to an upgrade at any other address


class Simulator:
    """A local upstream. Start it, point a client at its ``url``, stop it."""

    def __init__(self, options: SimulatorOptions | None = None) -> None:
        self.options = options or SimulatorOptions()
        self.connections: list[ConnectionRecord] = []  # every request to upgrade; the newest are kept
        self.rest_calls: list[tuple[str, str]] = []  # method and path of every other request; the newest are kept
        self._default = parse_scenario(self.options.scenario)
        self._rest = Rest(self.options, self._default)
        self._runner: web.AppRunner | None = None
        self._peers: set[Peer] = set()
        self._transports: set[asyncio.Transport] = set()
        self._url = ""

    @property
    def url(self) -> str:
        """The base address as SDKs take it, ``http://host:port/v1``; empty while not started."""
        return self._url

    @property
    def open_count(self) -> int:
        """How many connections of sockets are open now, those not answered yet included."""
        return sum(not record.closed for record in self.connections)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; port 0 takes any that is free. Raises OSError if the port is taken."""
        app = web.Application(client_max_size=_MAX_MESSAGE_BYTES)
        app.router.add_route("*", "/{path:.*}", self._handle)
        app.on_response_prepare.append(_spoil_accept)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_HANDLERS_END_SECONDS)
        await runner.setup()
        self._runner = runner
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError:
            await self.stop()
            raise
        bound_host, bound_port = runner.addresses[0][:2]
        self._url = f"http://{f'[{bound_host}]' if ':' in bound_host else bound_host}:{bound_port}/v1"

    async def stop(self) -> None:
        """Stop listening and end every connection; does nothing if not started."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        for site in list(runner.sites):
            await site.stop()
        goodbyes = [peer.close(1001) for peer in self._peers]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*goodbyes), _GOODBYE_SECONDS)
        for transport in list(self._transports):
            transport.abort()
        await runner.cleanup()
        self._url = ""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        transport = request.transport
        if transport is None:  # gone before it could be answered
            return web.Response()
        self._transports.add(transport)
        try:
            if request.headers.get("Upgrade", "").lower() != "websocket":
                _keep(self.rest_calls, (request.method, request.path), self.options.max_records)
                return await self._rest.answer(request)
            return await self._handle_socket(request, transport)
        finally:
            self._transports.discard(transport)

    async def _handle_socket(self, request: web.Request, transport: asyncio.Transport) -> web.StreamResponse:
        record = ConnectionRecord(request.path, MultiDict(request.query), request.headers.copy())
        _keep(self.connections, record, self.options.max_records)
        try:
            approach = read_approach(request.path, request.query, record.headers, self._default)
        except ValueError as unknown:
            record.status = _BAD_REQUEST
            record.note_closed()
            return web.Response(status=_BAD_REQUEST, text=f"{unknown}\n")
        try:
            answer = await self._answer_without_upgrade(request, transport, approach)
            if answer is not None:
                record.status = answer.status
                answer.headers.update(edge_headers())
                return answer
            return await self._serve(request, transport, record, approach)
        finally:
            record.note_closed()

    async def _answer_without_upgrade(
        self, request: web.Request, transport: asyncio.Transport, approach: Approach
    ) -> web.Response | None:
        if approach.scenario is Scenario.HANG_BEFORE_101:
            await hang_before_101(transport)
            return web.Response()  # nobody reads it
        answer = http_answer(approach.scenario, approach.key or "", approach.shown_model)
        if answer is not None:
            return answer
        if request.path not in _SOCKET_PATHS:
            return web.Response(status=_REFUSED_PATH)
        if approach.call_id is not None and approach.call_id not in self.options.call_ids:
            return web.Response(status=404)
        return None

    async def _serve(
        self, request: web.Request, transport: asyncio.Transport, record: ConnectionRecord, approach: Approach
    ) -> web.StreamResponse:
        # The reader is ours alone (see `peer`), and CLOSE and PING are answered there.
        ws = web.WebSocketResponse(
            protocols=(SUBPROTOCOL,), autoclose=False, autoping=False, timeout=0.1, max_msg_size=_MAX_MESSAGE_BYTES
        )
        ws.headers.update(edge_headers())
        if approach.scenario is Scenario.WRONG_ACCEPT:
            request[_ACCEPT] = _WRONG_ACCEPT
        await ws.prepare(request)
        record.status = ws.status
        peer = Peer(ws, transport, record, self.options)
        self._peers.add(peer)
        try:
            peer.spawn(peer.run_pings())
            await self._converse(peer, approach)
        finally:
            await peer.finish()
            self._peers.discard(peer)
        return ws

    async def _converse(self, peer: Peer, approach: Approach) -> None:
        if await break_after_101(peer, approach.scenario):
            return
        secret = self._rest.secrets.get(approach.key or "")
        if secret is not None and approach.model is None and not approach.transcribes:
            approach = _as_secret_says(approach, secret.session)
        expired = secret is not None and secret.expires_at < time.time()
        refusal = refusal_for(approach, self.options, expired_secret=expired)
        if refusal is not None:
            await peer.refuse(refusal)
            async for _ in peer.messages():
                pass
            return
        await self._session(peer, approach, secret.session if secret is not None else None).run()

    def _session(self, peer: Peer, approach: Approach, of_secret: JSONObject | None) -> Session | TranslationSession:
        seconds = seconds_of_session(peer, approach.scenario)
        if approach.translates:
            return TranslationSession(peer, approach.scenario, translation_object(approach.shown_model, seconds))
        if approach.transcribes:
            rules, session = schema.TRANSCRIPTION_SESSION, transcription_object(seconds)
        else:
            rules, session = schema.REALTIME_SESSION, session_object(approach.shown_model, seconds)
        if of_secret is not None and of_secret["type"] == session["type"]:
            own: JSONObject = {"id": new_id("sess"), "expires_at": session["expires_at"]}
            session = {**copy.deepcopy(of_secret), **own}
        return Session(
            peer,
            approach.scenario,
            Configuration(session, rules),
            sideband=approach.call_id is not None,
            misplaced_model=approach.model if approach.transcribes else None,
        )


def _as_secret_says(approach: Approach, session: JSONObject) -> Approach:
    transcribes = session["type"] == "transcription"
    return Approach(
        key=approach.key,
        scenario=approach.scenario,
        model=None if transcribes else str(session["model"]),
        call_id=approach.call_id,
        transcribes=transcribes,
        translates=approach.translates,
        beta=approach.beta,
    )


async def _spoil_accept(request: web.Request, response: web.StreamResponse) -> None:
    if _ACCEPT in request:
        response.headers["Sec-WebSocket-Accept"] = request[_ACCEPT]


def _keep(kept: list[_Kept], newest: _Kept, limit: int) -> None:
    kept.append(newest)
    del kept[:-limit]
