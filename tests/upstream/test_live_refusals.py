"""Refusals of GPT-Live: of the upgrade, over sockets, and after `session.start`, by the translation table."""

import json

import pytest

from service.failures import Failure, Phase
from service.failures.translation import CODES_AFTER_START, Rule
from service.realtime.events import ERROR_CODES, ErrorEvent
from service.realtime.keys import Secret
from service.upstream import hints, translate
from service.upstream.breaker import CircuitBreaker
from service.upstream.circuit import Witness
from service.upstream.dial import Dialler
from service.upstream.target import DialRequest, Target
from tests.support.raw_http_server import Exchange, Script, raw_http

JSON = "application/json"
LIVE = DialRequest(query=(("model", "scripted"),), endpoint="live")
ATTACH = DialRequest(query=(("model", "scripted"),), endpoint="attach", live_session="live_u1_none")
OPENAI = Target("https://api.openai.com/v1", Secret("k"))
AZURE = Target("https://res.openai.azure.com/openai/v1", Secret("k"))
COMPATIBLE = Target("https://gateway.example/v1", Secret("k"))
SIMULATOR = Target("http://127.0.0.1:1/v1", Secret("k"), simulated=True)


def error(code: str | None, message: str = "CANARY", error_type: str = "invalid_request_error") -> bytes:
    """The provider's error object."""
    return json.dumps({"error": {"message": message, "type": error_type, "code": code, "param": None}}).encode()


def answering(status: str, body: bytes = b"", content_type: str = JSON, **headers: str) -> Script:
    """A script that answers every request with this response."""

    async def script(exchange: Exchange) -> None:
        exchange.answer(status, body, Content_Type=content_type, **headers)

    return script


async def refused_dial(script: Script, request: DialRequest) -> Failure:
    """Dial a server that runs the script; returns the failure."""
    async with raw_http(script) as upstream:
        dialler = Dialler(
            Target(upstream.url, Secret("k")), timeout_seconds=5, first_event="required", max_message_bytes=1 << 20
        )
        try:
            with pytest.raises(Failure) as raised:
                await dialler.dial(request)
        finally:
            await dialler.close()
    assert "CANARY" not in repr(raised.value) + raised.value.remedy
    return raised.value


@pytest.mark.parametrize(
    ("request_", "status", "body", "reason", "part"),
    [
        pytest.param(LIVE, "401 Unauthorized", error("invalid_api_key"), "key_rejected", "the server", id="wrong-key"),
        pytest.param(
            LIVE, "401 Unauthorized", error("missing_authorization"), "key_missing", "removes the header", id="no-key"
        ),
        pytest.param(LIVE, "404 Not Found", error(None), "wrong_base_url", "GPT-Live at /v1/live/sessions", id="404"),
        pytest.param(LIVE, "404 Not Found", b"no page", "wrong_base_url", "has no GPT-Live", id="404-other-server"),
        pytest.param(
            LIVE,
            "404 Not Found",
            error("404", "Resource not found"),
            "wrong_base_url",
            "has no GPT-Live",
            id="404-azure",
        ),
        pytest.param(
            ATTACH, "404 Not Found", error("session_id_not_found"), "call_not_found", "WebRTC or SIP", id="attach-gone"
        ),
        pytest.param(ATTACH, "404 Not Found", error(None), "call_not_found", "WebRTC or SIP", id="attach-websocket"),
        pytest.param(
            ATTACH, "404 Not Found", b"no page", "wrong_base_url", "has no GPT-Live", id="attach-other-server"
        ),
        pytest.param(LIVE, "302 Found", b"", "redirect_refused", "Azure redirects a key", id="redirect"),
    ],
)
async def test_refused_upgrade_of_live_maps_to_reason(
    request_: DialRequest, status: str, body: bytes, reason: str, part: str
) -> None:
    """A 404 concerns no model, since the upgrade names none: the server has no such path, or the session is unknown."""
    failure = await refused_dial(answering(status, body, Location="/x?api-key=CANARY"), request_)

    assert (reason, Phase.UPGRADE, int(status[:3])) == (failure.reason, failure.phase, failure.http_status)
    assert part in failure.remedy


@pytest.mark.parametrize(
    ("code", "message", "reason", "part"),
    [
        ("credit_balance_exhausted", "You have no credits remaining...", "quota_exhausted", "Add credit"),
        ("insufficient_quota", "", "quota_exhausted", "Add credit"),
        ("billing_hard_limit_reached", "", "quota_exhausted", "Add credit"),
        ("account_deactivated", "", "account_refused", "deactivated"),
        ("invalid_api_key", "", "key_rejected", "fingerprint"),
        ("forbidden", "Voice session access denied", "key_forbidden", "three causes"),
        ("missing_scope", "", "key_forbidden", "api.responses.write"),
        ("invalid_model", 'Model "m" is not supported in realtime mode.', "model_not_found", "such as gpt-live-1"),
        (None, 'Model "m" is not supported in realtime mode.', "model_not_found", "such as gpt-live-1"),
        ("invalid_voice", "", "request_rejected", "session.audio.output.voice"),
        ("unknown_parameter", "Unknown parameter: 'session.voice'.", "request_rejected", "client's session.start"),
        ("missing_required_parameter", "", "request_rejected", "session.model is required"),
        ("invalid_value", "", "request_rejected", "client's session.start"),
        (None, "The instructions exceed 16384 tokens. CANARY", "request_rejected", "Shorten session.instructions"),
        (None, "CANARY", "request_rejected", "client's session.start"),
        ("shape_of_tomorrow", "CANARY", "request_rejected", "client's session.start"),
        ("server_error", "", "upstream_error", "status.openai.com"),
    ],
)
@pytest.mark.parametrize("close_code", [None, 4000])
def test_refused_start_maps_to_reason(code: str | None, message: str, reason: str, part: str, close_code: int) -> None:
    """With and without a close code, which is not published. The remedy names the event that the client has to correct."""
    failure = translate.from_events(
        ErrorEvent("invalid_request_error", code, message), close_code, "", phase=Phase.SESSION_START
    )
    hints.add_hint(failure, OPENAI, request=LIVE, model="gpt-live-9")

    assert (reason, Phase.SESSION_START, close_code) == (failure.reason, failure.phase, failure.close_code)
    assert part in failure.remedy
    assert "CANARY" not in repr(failure)


@pytest.mark.parametrize("target", [OPENAI, AZURE, COMPATIBLE], ids=lambda target: target.label)
def test_ambiguous_refusal_names_its_three_causes(target: Target) -> None:
    """With what to do about each, for the operator and for the client."""
    failure = translate.from_events(ErrorEvent("", "forbidden", ""), None, "", phase=Phase.SESSION_START)
    hints.add_hint(failure, target, request=LIVE)

    for text in (failure.remedy, failure.client_remedy):
        assert all(part in text for part in ("voice to one of GPT-Live", "access to GPT-Live", "OAuth token"))
    assert failure.upstream_code == "forbidden"


@pytest.mark.parametrize("rule", CODES_AFTER_START, ids=lambda rule: rule.code[0])
def test_codes_after_start_mean_nothing_else_elsewhere(rule: Rule) -> None:
    """A gateway answers 403 `forbidden` to any request, and the Realtime API rejects parameters of the query."""
    for code in rule.code:
        for failure in (
            translate.from_events(ErrorEvent("invalid_request_error", code, ""), None, ""),
            translate.from_status(403, ErrorEvent("", code, ""), {}, is_call=False),
        ):
            assert rule.hint != failure.hint
        assert code in ERROR_CODES


@pytest.mark.parametrize("target", [OPENAI, AZURE, COMPATIBLE, SIMULATOR], ids=lambda target: target.label)
@pytest.mark.parametrize(
    ("request_", "model", "part"),
    [
        (DialRequest(query=(("model", "gpt-live-1"),)), None, "Connect to /v1/live/sessions in place of"),
        (DialRequest(query=(("model", "openai/gpt-live-1.1"),)), None, "Connect to /v1/live/sessions in place of"),
        (LIVE, "gpt-realtime", "Connect to /v1/realtime?model="),
        (LIVE, "gpt-4o-mini-realtime-preview", "Connect to /v1/realtime?model="),
        (LIVE, "gpt-live-0", "Correct the model in the client's session.start"),
        (LIVE, None, "Correct the model in the client's session.start"),
    ],
)
def test_model_of_the_other_api_is_sent_to_its_route(
    target: Target, request_: DialRequest, model: str | None, part: str
) -> None:
    """By the name that the client requested; the provider's text is not used."""
    error = ErrorEvent("invalid_request_error", None, 'Model "CANARY" is not supported in realtime mode.')
    failure = translate.from_events(error, None, "")
    hints.add_hint(failure, target, request=request_, model=model)

    assert failure.reason == "model_not_found"
    assert failure.remedy.startswith(("The Realtime API", "GPT-Live", "Correct"))
    assert part in failure.remedy
    assert failure.client_remedy == failure.remedy


def test_model_of_its_own_api_keeps_the_remedy() -> None:
    """No route is named where the route is right."""
    failure = Failure("model_not_found")
    hints.add_hint(failure, OPENAI, request=DialRequest(query=(("model", "gpt-realtime-9"),)))

    assert failure.remedy == failure.row.operator_action


def test_start_without_an_answer_is_a_timeout_of_the_start() -> None:
    """Its remedy does not advise RELAY_FIRST_EVENT, which has no effect on GPT-Live."""
    failure = translate.from_timeout(Phase.SESSION_START)
    hints.add_hint(failure, OPENAI, request=LIVE)

    assert ("first_event_timeout", Phase.SESSION_START) == (failure.reason, failure.phase)
    assert "did not answer session.start" in failure.remedy


@pytest.mark.parametrize(("code", "is_refused"), [("forbidden", False), ("credit_balance_exhausted", True)])
def test_only_a_definite_start_refusal_refuses_the_client(code: str, *, is_refused: bool) -> None:
    """`forbidden` may be due to the voice, which the client corrects and connects again."""
    breaker = CircuitBreaker(lambda: 100.0)
    ada, bob = Witness("ada", "live", ""), Witness("bob", "live", "")
    failure = translate.from_events(ErrorEvent("", code, ""), None, "", phase=Phase.SESSION_START)
    with breaker.permit(ada) as permit:
        breaker.failed(failure, permit)

    with breaker.permit(bob):
        pass
    if is_refused:
        with pytest.raises(Failure), breaker.permit(ada):
            pass
    else:
        with breaker.permit(ada):
            pass


def test_forbidden_start_of_several_clients_is_remembered() -> None:
    """A series that two clients meet concerns the key."""
    breaker = CircuitBreaker(lambda: 100.0)
    failure = translate.from_events(ErrorEvent("", "forbidden", ""), None, "", phase=Phase.SESSION_START)
    for name in ("ada", "bob", "cy", "dan", "eve"):
        with breaker.permit(Witness(name, "live", "")) as permit:
            breaker.failed(failure, permit)

    with pytest.raises(Failure), breaker.permit(Witness("gil", "live", "")):
        pass
    with breaker.permit(Witness("gil", "conversation", "gpt-realtime")):
        pass
