"""How a session ends: which reason, and what each side is told. Pure."""

import re
from dataclasses import dataclass
from typing import Final, Literal

from service.failures import CATALOGUE
from service.realtime.closing import CloseCode, close_code_to_forward
from service.realtime.scanner_items import Violation

Side = Literal["client", "upstream"]

_EXPIRED: Final = re.compile(r"maximum duration|session_expired")
_GOING_AWAY: Final = int(CloseCode.GOING_AWAY)


@dataclass(frozen=True, slots=True)
class CloseInstruction:
    """What one side is told: a CLOSE, or nothing because it is gone or must not be trusted to listen (`abort`)."""

    code: int | None = None
    text: str = ""
    abort: bool = False
    answered: bool = False  # the peer's own CLOSE has come, so none has to be waited for
    failed: bool = False  # what the peer sends can no longer be read, not even its CLOSE


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a session ended and what each side is told. `tell` asks for an error event to the client before its CLOSE."""

    reason: str
    client: CloseInstruction
    upstream: CloseInstruction
    tell: bool = False


def by_close(side: Side, code: int | None, text: str, *, expired: bool = False) -> Ending:
    """A side said CLOSE: it gets its own code back, the other side gets the code on, as far as it may be sent."""
    echo = CloseInstruction(code if code is None else close_code_to_forward(code), answered=True)
    onward = CloseInstruction(close_code_to_forward(code), text)
    if side == "client":
        return Ending("client_closed", echo, onward)
    if expired or (code == CloseCode.GOING_AWAY and _EXPIRED.search(text)):
        return Ending("session_expired", onward, echo)
    return Ending("upstream_closed", onward, echo)


def by_loss(side: Side) -> Ending:
    """A side is gone without a CLOSE."""
    gone = CloseInstruction(abort=True)
    if side == "client":
        return Ending("client_lost", gone, CloseInstruction(_GOING_AWAY))
    return _told("upstream_lost", gone)


def by_violation(side: Side, violation: Violation) -> Ending:
    """A side broke the protocol or the message cap; it is told the RFC's code."""
    code = int(violation.close_code)
    if side == "client":
        reason = "message_too_big" if code == CloseCode.MESSAGE_TOO_BIG else "client_protocol_error"
        # RFC 6455 section 7.1.7: whoever breaks the protocol gets a CLOSE and nothing more. One who sends too much is told.
        told = CloseInstruction(code, CATALOGUE[reason].close_text, failed=True)
        return Ending(reason, told, CloseInstruction(_GOING_AWAY), tell=reason == "message_too_big")
    if code == CloseCode.MESSAGE_TOO_BIG:  # 1009 would blame the client, which has only received
        text = CATALOGUE["message_too_big"].close_text
        return Ending(
            "message_too_big", CloseInstruction(CloseCode.INTERNAL_ERROR, text), CloseInstruction(code), tell=True
        )
    return _told("upstream_protocol_error", CloseInstruction(code))


def by_relay(reason: str) -> Ending:
    """The relay ends the session for a reason of its own."""
    if reason in {"client_too_slow", "upstream_too_slow"}:
        # Whoever does not read will not read a CLOSE either; it must not hold memory until it does.
        stuck = CloseInstruction(abort=True)
        if reason == "client_too_slow":
            return Ending(reason, stuck, CloseInstruction(_GOING_AWAY))
        return _told(reason, stuck)
    return _told(reason, CloseInstruction(_GOING_AWAY))


def _told(reason: str, upstream: CloseInstruction) -> Ending:
    row = CATALOGUE[reason]
    return Ending(
        reason, CloseInstruction(row.close_code or CloseCode.INTERNAL_ERROR, row.close_text), upstream, tell=True
    )
