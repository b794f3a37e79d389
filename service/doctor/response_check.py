"""The step `turn`: requests one short text response, the same as the health check does, and judges how it ends."""

from collections.abc import Mapping
from typing import Final

from service.deadlines import Deadline
from service.doctor.steps import Finding, StepFailed
from service.failures import Failure
from service.health.response_check import MAX_OUTPUT_TOKENS, REQUEST
from service.realtime.events import ERROR_CODES, ErrorEvent
from service.realtime.usage import UsageInconsistent, parse_usage
from service.upstream import translate
from service.upstream.stream import EventStream, StreamClosed

COST: Final = (
    f"The step 'turn' costs about 120 input tokens and at most {MAX_OUTPUT_TOKENS} output tokens: about 0.0007 USD on "
    "gpt-realtime and 0.0001 USD on gpt-realtime-mini (list prices of November 2026)."
)
_TIMEOUT_SECONDS: Final = 30.0


async def request_response(stream: EventStream) -> Finding:
    """Request a response and wait until it is done; raises StepFailed."""
    stream.send(REQUEST)
    try:
        async with Deadline(_TIMEOUT_SECONDS):
            while True:
                event = await stream.next_event(_TIMEOUT_SECONDS)
                if event.type == "response.done":
                    return _judge_response(event.body)
                if event.type == "error":
                    raise _response_failed(_mapping(event.body.get("error")))
    except TimeoutError:
        raise StepFailed(
            f"No response.done arrived within {_TIMEOUT_SECONDS:.0f} s.",
            reason="upstream_too_slow",
            remedy="Run the doctor again. If it persists, check https://status.openai.com.",
        ) from None
    except StreamClosed as closed:
        code = f"with code {closed.code}" if closed.code is not None else "without a close code"
        failure = Failure("upstream_closed" if closed.code else "upstream_lost")
        raise StepFailed.from_failure(failure, f"The connection was closed {code} during the response.") from None


def _judge_response(body: Mapping[str, object]) -> Finding:
    response = _mapping(body.get("response"))
    status = str(response.get("status") or "unknown")[:40]
    details = _mapping(response.get("status_details"))
    if status == "failed":
        raise _response_failed(_mapping(details.get("error")))
    tokens = _describe_usage(_mapping(response.get("usage")))
    if status == "completed":
        return Finding(f"the model answered; {tokens}")
    if status == "incomplete" and details.get("reason") == "max_output_tokens":
        return Finding(f"the model answered up to the limit of {MAX_OUTPUT_TOKENS} tokens; {tokens}")
    return Finding(f"the response ended with status {status!r}; {tokens}", status="warn")


def _response_failed(error: Mapping[str, object]) -> StepFailed:
    event = ErrorEvent(*(str(error.get(name) or "") for name in ("type", "code", "message")))
    failure = translate.from_events(event, None, "")
    # Only codes of the closed set are printed: any other may hold what the provider echoes.
    code = next((name for name in (event.code, event.type) if name in ERROR_CODES), "unknown error code")
    return StepFailed.from_failure(
        Failure(failure.reason, failure.phase), f"The session opened, but the response failed: {code}."
    )


def _describe_usage(usage: Mapping[str, object]) -> str:
    if not usage:
        return "no usage reported"
    try:
        tokens = parse_usage(usage)
    except UsageInconsistent:
        return "the reported usage is inconsistent"
    return f"{tokens.input.total} tokens in, {tokens.output.total} out"


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}
