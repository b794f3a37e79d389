"""One minimal text response, the same that health may ask for: what it may cost, and what its end says. Pure."""

from collections.abc import Mapping
from typing import Final

from service.doctor.steps import Finding, StepFailed, step_failed
from service.failures import Failure
from service.health.response_check import MAX_OUTPUT_TOKENS
from service.realtime.events import ERROR_CODES, ErrorEvent
from service.realtime.usage import UsageInconsistent, parse_usage
from service.upstream import translate

COST: Final = (
    f"Costs about 120 tokens of input and at most {MAX_OUTPUT_TOKENS} of output: about 0.0007 USD on gpt-realtime and 0.0001 "
    "USD on gpt-realtime-mini (list prices of November 2026)."
)


def judge_done(body: Mapping[str, object]) -> Finding:
    """What `response.done` says; raises Broken if the response failed."""
    response = _mapping(body.get("response"))
    status = str(response.get("status") or "unknown")[:40]
    details = _mapping(response.get("status_details"))
    if status == "failed":
        raise _failed(_mapping(details.get("error")))
    tokens = _tokens(_mapping(response.get("usage")))
    if status == "completed":
        return Finding(f"the model has answered; {tokens}")
    if status == "incomplete" and details.get("reason") == "max_output_tokens":
        return Finding(f"the model has answered up to the cap of {MAX_OUTPUT_TOKENS} tokens; {tokens}")
    return Finding(f"the response ended as {status!r}; {tokens}", status="warn")


def judge_error(body: Mapping[str, object]) -> StepFailed:
    """An `error` event in answer to the request."""
    return _failed(_mapping(body.get("error")))


def _failed(error: Mapping[str, object]) -> StepFailed:
    event = ErrorEvent(*(str(error.get(name) or "") for name in ("type", "code", "message")))
    failure = translate.from_events(event, None, "")
    shown = next((name for name in (event.code, event.type) if name in ERROR_CODES), "of a code that is not known")
    return step_failed(
        Failure(failure.reason, failure.phase),
        f"The session opened, but the response failed: {shown}.",
    )


def _tokens(usage: Mapping[str, object]) -> str:
    if not usage:
        return "no usage was told"
    try:
        counted = parse_usage(usage)
    except UsageInconsistent:
        return "its usage does not add up"
    return f"{counted.input.total} tokens in, {counted.output.total} out"


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}
