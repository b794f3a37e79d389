"""What a client's request asks for: its opening handshake, credential, query and preferences. Reads, and changes nothing.

Only what `DialRequest` holds is sent upstream. It is an allow-list: a header that this module does not name goes nowhere.
"""

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aiohttp import HttpVersion11, web
from yarl import URL

from service.failures import CATALOGUE, Failure
from service.realtime.names import MODEL_NAME, credential_name
from service.realtime.secret_request import BoundSession
from service.upstream.target import DialRequest, Endpoint

_MISPLACED: Final = {
    "Authorization": "The header Authorization holds no 'Bearer <token>'",
    "X-Api-Key": "The relay does not read the header X-Api-Key",
}
"""Headers with a credential where `parse_token` has found none."""
SUBPROTOCOLS: Final = ("realtime", "realtime-relay")
"""What the relay agrees to; OpenAI's clients offer the first. Never a credential: the answer is no place for one."""
_TOKEN_SUBPROTOCOL: Final = "openai-insecure-api-key."  # noqa: S105 - a prefix, not a secret
_OWN_PARAMETERS: Final = frozenset({"on_failure", "draining_event", "budget_event", "continuity"})
_SINGLE_PARAMETERS: Final = frozenset({"model", "intent", "call_id", "deployment"})
_KNOWN_PARAMETERS: Final = _OWN_PARAMETERS | _SINGLE_PARAMETERS
_MAX_OTHER_PARAMETERS: Final = 16
_MAX_QUERY_BYTES: Final = 2048
_NONCE_BYTES: Final = 16
_MAX_LIST_ITEMS: Final = 64
"""Of a header that is a list; the rest stays one item. A head of commas would cost milliseconds."""
_KEY_REMEDY: Final = (
    "Send one Sec-WebSocket-Key of 16 random bytes in base64 (24 characters), for example the output of "
    "'openssl rand -base64 16'. A WebSocket library creates it by itself."
)
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9._:-]{1,256}")
_LIVE_SESSION: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
SAFETY_IDENTIFIER: Final = re.compile(r"[!-~]{1,512}")


@dataclass(frozen=True, slots=True)
class OpeningHandshake:
    """The client's opening handshake (RFC 6455 section 4.2.1). `subprotocol` is one of `SUBPROTOCOLS` if it offers one."""

    key: str
    subprotocol: str | None


def parse_handshake(request: web.Request) -> OpeningHandshake:
    """Check the opening handshake; raises Failure with not_a_websocket or bad_request."""
    headers = request.headers
    if (
        request.version != HttpVersion11  # RFC 9110 section 7.8: a server ignores Upgrade in HTTP/1.0
        or headers.get("Upgrade", "").strip().lower() != "websocket"
        or "upgrade" not in _lower_items(headers.getall("Connection", []))
        or headers.get("Sec-WebSocket-Version", "").strip() != "13"
    ):
        raise Failure("not_a_websocket")
    if headers.get("Transfer-Encoding", "chunked").strip().lower() != "chunked":
        raise _bad_request("an unknown transfer coding", "Send no Transfer-Encoding and no body with the handshake.")
    keys = [value.strip() for value in headers.getall("Sec-WebSocket-Key", [])]
    problem = _key_problem(keys)
    if problem is not None:
        raise Failure("bad_request", detail=problem, hint=f"{problem}. {_KEY_REMEDY}")
    offered = _subprotocols(request)
    return OpeningHandshake(keys[0], next((name for name in SUBPROTOCOLS if name in offered), None))


def _key_problem(keys: Sequence[str]) -> str | None:
    """What is wrong with the values of Sec-WebSocket-Key (RFC 6455 section 4.1); None if nothing is."""
    if len(keys) != 1:
        return f"The request has {len(keys)} headers Sec-WebSocket-Key" if keys else "Sec-WebSocket-Key is missing"
    if not keys[0]:
        return "Sec-WebSocket-Key is empty"
    try:
        nonce = base64.b64decode(keys[0], validate=True)
    except (binascii.Error, ValueError):
        return f"Sec-WebSocket-Key is no base64 ({len(keys[0])} characters)"
    if len(nonce) != _NONCE_BYTES:
        return f"Sec-WebSocket-Key decodes to {len(nonce)} bytes; RFC 6455 requires {_NONCE_BYTES}"
    return None


def header_token(request: web.Request) -> str | None:
    """Return the credential in a header that no web page can set on a WebSocket: a bearer token or `api-key`.

    A browser sends `Authorization: Basic` by itself for a URL with credentials, so that scheme does not count.
    """
    scheme, _, value = request.headers.get("Authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    return request.headers.get("api-key", "").strip() or None


def parse_token(request: web.Request) -> str | None:
    """Return the client's credential from a header or subprotocol; raises Failure with token_missing for one in the URL."""
    if names := {name for given, _ in _query(request) if (name := credential_name(given)) is not None}:
        name = min(names)
        raise Failure(
            "token_missing",
            detail="a credential in the URL is not accepted",
            client_hint=f"Remove '{name}' from the URL. {CATALOGUE['token_missing'].remedy}",
        )
    if token := header_token(request):
        return token
    for item in _subprotocols(request):
        if item.startswith(_TOKEN_SUBPROTOCOL):
            return item.removeprefix(_TOKEN_SUBPROTOCOL) or None
    return None


def explain_missing_token(failure: Failure, request: web.Request) -> None:
    """State in the refusal for a missing token which header of the request the relay does not read it from."""
    misplaced = next((evidence for name, evidence in _MISPLACED.items() if request.headers.get(name, "").strip()), None)
    if failure.reason == "token_missing" and failure.detail is None and misplaced is not None:
        failure.detail = misplaced
        failure.client_hint = f"{misplaced}. {failure.row.remedy}"


def parse_dial_request(
    request: web.Request,
    endpoint: Endpoint,
    *,
    allowed_models: Sequence[str],
    model_hint: str | None = None,
    bound: BoundSession | None = None,
) -> DialRequest:
    """Return what to dial; raises Failure with bad_request, model_missing or model_refused, whose remedy is `model_hint`.

    `bound` is the session to which the client's secret is bound: it names model and intent, and the query no others.
    """
    if len(request.query_string.encode("utf-8", "replace")) > _MAX_QUERY_BYTES:
        raise _bad_request("query over 2 kB", "Shorten the query to at most 2 kB.")
    pairs = tuple((name, value) for name, value in _query(request) if name not in _OWN_PARAMETERS)
    if len(URL.build(query=list(pairs)).raw_query_string) > _MAX_QUERY_BYTES:  # as it is sent upstream
        raise _bad_request("query over 2 kB when encoded", "Shorten the query to at most 2 kB.")
    if sum(name not in _SINGLE_PARAMETERS for name, _ in pairs) > _MAX_OTHER_PARAMETERS:
        raise _bad_request(
            "more than 16 other query parameters", "Send at most 16 query parameters beside model, intent and call_id."
        )
    names = [name for name, _ in pairs]
    if any(names.count(name) > 1 for name in _SINGLE_PARAMETERS):
        raise _bad_request(
            "model, intent, call_id or deployment is repeated",
            "Send each of model, intent, call_id and deployment at most once.",
        )
    if any(not text.isprintable() for pair in pairs for text in pair):
        raise _bad_request(
            "unprintable characters in the query", "Remove control characters from the query, and encode it as UTF-8."
        )
    if _own(request, "on_failure") not in {None, "event", "http"}:
        raise _bad_request("on_failure is neither event nor http", "Send on_failure=event or on_failure=http.")
    query = dict(pairs)
    for name in ("intent", "call_id"):
        if name in query and not _IDENTIFIER.fullmatch(query[name]):
            raise _bad_request(f"{name} is not an identifier", f"Send {name} as 1 to 256 letters, digits and . _ : -")
    if bound is not None:
        pairs = (*pairs, *_bound_query(query, bound))
        query = dict(pairs)
    _check_model(query, allowed_models, model_hint, is_required=endpoint in {"realtime", "translation"})
    safety = request.headers.get("OpenAI-Safety-Identifier", "").strip()
    return DialRequest(
        query=pairs,
        endpoint=endpoint,
        live_session=_live_session(request) if endpoint == "attach" else "",
        safety_identifier=safety if SAFETY_IDENTIFIER.fullmatch(safety) else None,
    )


def _bound_query(query: dict[str, str], bound: BoundSession) -> tuple[tuple[str, str], ...]:
    """What the session of a client secret adds to the query; raises Failure where the query differs from it."""
    kind = "transcription" if bound.is_transcription else "realtime"
    if "call_id" in query:
        raise _bad_request(
            "call_id with a client secret", "Connect without call_id: a client secret opens a session of its own."
        )
    if query.get("intent", kind) != kind:
        raise _bad_request(
            "the client secret has another intent",
            f"Connect without intent, or with intent={kind}: the client secret was created for a session of this type.",
        )
    models = {query[name] for name in ("model", "deployment") if name in query}
    if models - {bound.model} and (bound.is_transcription or bound.model is not None):
        raise Failure(
            "model_refused",
            detail="the client secret is bound to another model",
            hint="Connect without model in the URL, or with the model with which the client secret was created.",
        )
    if bound.is_transcription:
        return () if "intent" in query else (("intent", kind),)
    return () if models or bound.model is None else (("model", bound.model),)


def _live_session(request: web.Request) -> str:
    session = request.match_info.get("session", "")
    if not _LIVE_SESSION.fullmatch(session):
        raise _bad_request(
            "the id of the session is malformed", "Attach to the id that session.started or the webhook named: live_..."
        )
    return session


def _check_model(query: dict[str, str], allowed: Sequence[str], hint: str | None, *, is_required: bool) -> None:
    needs_model = is_required and "call_id" not in query and query.get("intent") != "transcription"
    names = tuple(name for name in ("model", "deployment") if name in query)
    if len({query[name] for name in names} - {""}) > 1:  # the price of one would count, and the other be served
        raise _bad_request("model and deployment differ", "Send model or deployment, or both with the same value.")
    for name in names:
        if not query[name]:
            raise Failure("model_missing")
        if not MODEL_NAME.fullmatch(query[name]):
            raise _bad_request(
                f"{name} is not a model name", f"Send {name} as up to 128 letters, digits and . _ : / @ + -"
            )
        if allowed and query[name] not in allowed:
            raise Failure("model_refused", hint=hint)
        needs_model = False
    if needs_model:
        hint = f"Correct 'intent': of its values only transcription needs no model. {CATALOGUE['model_missing'].remedy}"
        raise Failure("model_missing", client_hint=hint if "intent" in query else None)


def wants_error_event(request: web.Request) -> bool:
    """Return whether the client gets a failure as an error event and a close code instead of an HTTP status.

    Browsers can read neither status nor body of a refused upgrade, so a request with an Origin header gets the event, unless
    `on_failure` asks for the other.
    """
    return asks_for_error_event(request) or ("Origin" in request.headers and _own(request, "on_failure") != "http")


def asks_for_error_event(request: web.Request) -> bool:
    """Return whether the client asks for the event by `on_failure=event`, which holds for refusals of admission too."""
    return _own(request, "on_failure") == "event"


def wants_draining_event(request: web.Request, *, default: bool) -> bool:
    """Return whether the client asks for the event `relay.draining`; raises Failure with bad_request."""
    return _wants(request, "draining_event", default=default)


def wants_budget_event(request: web.Request) -> bool:
    """Return whether the client asks for the event `relay.budget_nearly_used`; raises Failure with bad_request."""
    return _wants(request, "budget_event", default=False)


def wants_continuity(request: web.Request, endpoint: Endpoint, *, default: bool) -> bool:
    """Return whether the client wants its session to outlive its upstream connection; raises Failure with bad_request."""
    preference = _own(request, "continuity")
    if preference == "resume":
        raise _bad_request(
            "continuity=resume does not exist yet",
            "Send continuity=renew, which needs nothing else of a client, or off.",
        )
    if preference not in {None, "off", "renew"}:
        raise _bad_request("continuity is neither off nor renew", "Send continuity=renew or continuity=off.")
    if preference == "renew" and endpoint != "realtime":
        raise _bad_request(
            "continuity=renew, but this API has no conversation that another connection could continue",
            "Remove continuity=renew: translations and GPT-Live have no items that the relay could send again.",
        )
    return endpoint == "realtime" and (default if preference is None else preference == "renew")


def asks_for_continuity(request: web.Request) -> bool:
    """Return whether the client itself asks for it."""
    return _own(request, "continuity") == "renew"


def _wants(request: web.Request, name: str, *, default: bool) -> bool:
    preference = _own(request, name)
    if preference not in {None, "true", "false"}:
        raise _bad_request(f"{name} is neither true nor false", f"Send {name}=true or {name}=false.")
    return default if preference is None else preference == "true"


def _query(request: web.Request) -> list[tuple[str, str]]:
    """The query, with the parameters that the relay knows in lower case.

    Servers compare names in different ways, ASP.NET without case: `MODEL=` must not pass a check of `model`. One that
    exceeds 2 kB even if each of its bytes is escaped is not parsed: it is refused in any case, and read several times.
    """
    if len(request.rel_url.raw_query_string) > 3 * _MAX_QUERY_BYTES:
        return []
    pairs = ((name, name.strip().lower(), value) for name, value in request.query.items())
    return [(known if known in _KNOWN_PARAMETERS else name, value) for name, known, value in pairs]


def _own(request: web.Request, name: str) -> str | None:
    """The first value of one of the relay's own parameters."""
    return next((value for known, value in _query(request) if known == name), None)


def _subprotocols(request: web.Request) -> list[str]:
    values = request.headers.getall("Sec-WebSocket-Protocol", [])
    return [item.strip() for value in values for item in value.split(",", _MAX_LIST_ITEMS) if item.strip()]


def _lower_items(values: list[str]) -> set[str]:
    return {item.strip().lower() for value in values for item in value.split(",", _MAX_LIST_ITEMS)}


def _bad_request(detail: str, hint: str) -> Failure:
    """A malformed request; the client receives the hint, which is static, and the log both."""
    return Failure("bad_request", detail=detail, hint=hint)
