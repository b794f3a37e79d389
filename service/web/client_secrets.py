"""POST /v1/realtime/client_secrets: creates a client secret of the relay, with OpenAI's body and answer."""

import asyncio
import secrets
import time
from contextlib import suppress
from typing import Final

import structlog
from aiohttp import web

from service.access.clients import Identity
from service.access.secrets import ClientSecrets, CreationLimit, Grant, is_client_secret
from service.deadlines import Deadline
from service.failures import Failure
from service.realtime.secret_request import MAX_BODY_BYTES, InvalidBody, SecretRequest, parse_request
from service.store.interface import MAX_SECRET_PAYLOAD_BYTES
from service.telemetry.metrics import Metrics
from service.upstream.target import DialRequest
from service.web import refusals
from service.web.admission import AdmissionControl
from service.web.attempts import AttemptReporter, ConnectionAttempt
from service.web.client_address import ClientAddressReader
from service.web.client_rules import check_api, check_model, check_price, locked_param, with_policy
from service.web.protocol import PublicProtocol
from service.web.request import SAFETY_IDENTIFIER, parse_token
from service.web.unserved import CLIENT_SECRET_PATHS

BODY_SECONDS: Final = 10.0
"""Upper bound on the arrival of a body."""

_SAFETY_HEADER: Final = "OpenAI-Safety-Identifier"
_CREATES_NO_OTHER: Final = (
    "Send a client token of the relay, which the server of the app keeps. A client secret opens one session, and creates no "
    "other."
)


class ClientSecretHandler:
    """Creates client secrets. The caller is the server of an app, with a client token; the provider is not asked.

    Order: the token, the body, what the client may do with such a session, the state of the relay, the limit, the store.
    """

    def __init__(
        self,
        admission: AdmissionControl,
        client_secrets: ClientSecrets,
        reporter: AttemptReporter,
        metrics: Metrics,
        addresses: ClientAddressReader,
    ) -> None:
        self._admission = admission
        self._secrets = client_secrets
        self._reporter = reporter
        self._created = metrics.tokens.client_secrets.labels("created")
        self._addresses = addresses
        self._limit = CreationLimit(asyncio.get_running_loop().time)
        self._has_warned = False
        self._log = structlog.get_logger()

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [web.post(path, self.create) for path in CLIENT_SECRET_PATHS]

    async def create(self, request: web.Request) -> web.Response:
        """Handle a request: a client secret, or the reason why there is none."""
        attempt = ConnectionAttempt(secrets.token_hex(8), self._addresses.read(request))
        try:
            answer = await self._create(request, attempt)
        except Failure as failure:
            self._reporter.refused(failure, attempt)
            if isinstance(request.protocol, PublicProtocol):
                request.protocol.linger()  # the body may not have been read
            return refusals.http_response(failure, attempt.session_id)
        return web.json_response(answer, headers={"Cache-Control": "no-store"})

    async def _create(self, request: web.Request, attempt: ConnectionAttempt) -> dict[str, object]:
        if is_client_secret(parse_token(request) or ""):
            raise Failure("token_invalid", detail="a client secret creates no other", hint=_CREATES_NO_OTHER)
        async with self._admission.prepared(request, attempt):
            identity = self._admission.identify(request, attempt)
        named = _safety_identifier(request)
        wanted = _parse(await _read_body(request))
        attempt.model = wanted.session.model
        _check(identity, wanted)
        self._admission.check_state()
        grant = Grant(
            identity.client.name,
            identity.credential,
            identity.user or named,
            identity.ends_at,
            named if identity.user is None else None,  # a user could name another one
            wanted.session,
        )
        size = len(grant.encode())
        if size > MAX_SECRET_PAYLOAD_BYTES:
            raise Failure(
                "bad_request", param="session", detail="a session above 64 KiB", hint="Send a smaller session."
            )
        seconds = wanted.seconds
        if identity.expires_at is not None:  # a JWT limits when a session can start
            seconds = max(1, min(seconds, int(identity.expires_at - time.time())))
        self._limit.count(attempt.limited_as, identity.user, size, seconds)
        secret, expires_at = await self._secrets.create(grant, seconds)
        self._report(grant, attempt, seconds)
        return {"value": secret.reveal(), "expires_at": expires_at, "session": _shown(wanted)}

    def _report(self, grant: Grant, attempt: ConnectionAttempt, seconds: int) -> None:
        self._created.inc()
        self._log.info(
            "secret.created",
            request_id=attempt.session_id,
            client=grant.client,
            user=grant.user,
            address=attempt.address,
            model=attempt.model,
            seconds=seconds,
        )
        if self._secrets.are_shared or self._has_warned:
            return
        self._has_warned = True
        self._log.warning(
            "secrets.on_one_instance",
            message="Client secrets are kept in the memory of this process: they open sessions at this instance only, "
            "and are lost when it ends.",
            remedy="Set RELAY_STORE_URL to a Redis or Valkey server if there is more than one instance.",
        )


def _check(identity: Identity, wanted: SecretRequest) -> None:
    """Raise Failure for a session that the client could not open, or whose fields the operator has locked."""
    client, session = identity.client, wanted.session
    check_api(client, "realtime")
    check_model(client, session.model)
    query = (("intent", "transcription"),) if session.is_transcription else ()
    request = with_policy(client, DialRequest(query=query))
    if session.model is not None:
        check_price(identity, DialRequest(query=(*request.query, ("model", session.model))))
    locked = locked_param(client, session)
    if locked is not None:
        raise Failure(
            "bad_request",
            param=locked,
            detail=f"{locked} is locked",
            hint=f"Create the client secret without {locked}: the policy of this client locks it.",
        )


def _parse(body: bytes) -> SecretRequest:
    try:
        return parse_request(body)
    except InvalidBody as invalid:
        raise Failure(
            "bad_request",
            param=invalid.param,
            detail=f"the body of a request for a client secret: {invalid.param or 'its form'}",
            hint=invalid.remedy,
        ) from None


def _safety_identifier(request: web.Request) -> str | None:
    """The provider's name of the user. It is refused if it is malformed: the limits of the user would not hold."""
    sent = request.headers.getall(_SAFETY_HEADER, [])
    if not sent:
        return None
    if len(sent) == 1 and SAFETY_IDENTIFIER.fullmatch(sent[0].strip()):
        return sent[0].strip()
    raise Failure(
        "bad_request",
        param=_SAFETY_HEADER,
        detail=f"{_SAFETY_HEADER} is malformed",
        hint=f"Send {_SAFETY_HEADER} once, as 1 to 512 printable ASCII characters without blanks.",
    )


async def _read_body(request: web.Request) -> bytes:
    """The body. A chunked one is not read: a chunk of one byte takes sixty in memory; nor is one that may expand."""
    length = request.content_length
    if length is None and request.headers.get("Transfer-Encoding"):
        raise _bad_body("a body without Content-Length", "Send the body with the header Content-Length, not chunked.")
    if {value.strip().lower() for value in request.headers.getall("Content-Encoding", [])} - {"", "identity"}:
        raise _bad_body("a compressed body", "Send the body without Content-Encoding, not compressed.")
    if (length or 0) > MAX_BODY_BYTES:
        raise _bad_body(f"a body above {MAX_BODY_BYTES} bytes", f"Send a body of at most {MAX_BODY_BYTES // 1024} KiB.")
    if "Expect" in request.headers:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # of the response
    body = bytearray()
    with suppress(TimeoutError):
        async with Deadline(BODY_SECONDS):
            while not request.content.at_eof():
                body += await request.content.readany()
    if length is not None and len(body) < length:
        raise _bad_body(
            f"{len(body)} of {length} bytes of the body arrived within {BODY_SECONDS:g} s",
            "Send the whole body at once, as long as Content-Length.",
        )
    return bytes(body)


def _bad_body(detail: str, hint: str) -> Failure:
    return Failure("bad_request", detail=detail, hint=hint)


def _shown(wanted: SecretRequest) -> dict[str, object]:
    """The session of the answer, with the fields that the SDKs' types require. The provider gives the session another id."""
    kind = "realtime.transcription_session" if wanted.session.is_transcription else "realtime.session"
    shown = {"object": kind, "id": f"sess_{secrets.token_hex(12)}", "expires_at": 0}
    return {**shown, **wanted.session.configuration}
