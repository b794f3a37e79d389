"""How a session ends: for which reason, and with which close frame to each side. Pure."""

import re
from dataclasses import dataclass, replace
from typing import Final, Literal

from service.failures import CATALOGUE
from service.realtime.closing import CloseCode, close_code_to_forward
from service.realtime.events import Direction
from service.realtime.live import ENDING_BY_CLOSED_REASON
from service.realtime.scanner_items import Violation
from service.realtime.scanner_types import INTRICATE_EVENT

Side = Literal["client", "upstream"]


_EXPIRED: Final = re.compile(r"maximum duration|session_expired")
_GOING_AWAY: Final = int(CloseCode.GOING_AWAY)
_TOO_SLOW: Final = frozenset({"client_too_slow", "upstream_too_slow"})


def side_of(direction: Direction) -> Side:
    """The peer at the source of a direction."""
    return "client" if direction == Direction.CLIENT_TO_UPSTREAM else "upstream"


@dataclass(frozen=True, slots=True)
class CloseInstruction:
    """How one side is closed: with a close frame, or by aborting the socket, since it is closed already or does not read."""

    code: int | None = None
    text: str = ""
    abort: bool = False
    close_received: bool = False  # its own close frame has arrived: answer it, and wait for no other
    unreadable: bool = False  # its bytes can no longer be parsed; its close frame would not be recognised

    @property
    def is_final(self) -> bool:
        """Whether no more events of this side can be read."""
        return self.abort or self.close_received or self.unreadable


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a session ended and how each side is closed.

    `send_error`: the client gets an error event before its close frame. `detail` is the evidence for the log, and `hint`
    replaces the catalogue's remedy in the event.
    """

    reason: str
    client: CloseInstruction
    upstream: CloseInstruction
    send_error: bool = False
    detail: str | None = None
    hint: str | None = None


def peer_closed(side: Side, code: int | None, text: str, *, expired: bool = False) -> Ending:
    """A side sent a close frame. It gets its own code back; the other side gets the code as far as it may be sent.

    `expired`: upstream sent the error `session_expired` before.
    """
    echo = CloseInstruction(code if code is None else close_code_to_forward(code), close_received=True)
    forwarded = CloseInstruction(close_code_to_forward(code), text)
    if side == "client":
        return Ending("client_closed", echo, forwarded)
    if expired or (code == CloseCode.GOING_AWAY and _EXPIRED.search(text)):
        return Ending("session_expired", forwarded, echo)
    if code == CloseCode.MESSAGE_TOO_BIG:  # without an event, the client would not learn whose limit it exceeded
        return Ending("provider_size_limit", forwarded, echo, send_error=True)
    return Ending("upstream_closed", forwarded, echo)


_EXPLAINED: Final = frozenset({"no_input_audio", "content_filtered", "upstream_lost"})


def session_closed(end: Ending, closed_reason: str, *, had_audio: bool) -> Ending:
    """The ending of a GPT-Live session that a peer closed after `session.closed` with this reason."""
    reason = ENDING_BY_CLOSED_REASON.get(closed_reason, "upstream_closed")
    if reason == "session_expired" and not had_audio:
        reason = "no_input_audio"
    # An upstream that is aborted has sent no close frame, whose code the client could get.
    client = CloseInstruction(int(CloseCode.NORMAL)) if end.upstream.abort else end.client
    is_open = not (client.abort or client.close_received)
    return replace(
        end,
        reason=reason,
        client=client,
        send_error=is_open and reason in _EXPLAINED,
        detail=f"session.closed: {closed_reason}",
    )


def peer_lost(side: Side) -> Ending:
    """A side disconnected without a close frame."""
    aborted = CloseInstruction(abort=True)
    if side == "client":
        return Ending("client_lost", aborted, CloseInstruction(_GOING_AWAY))
    return _reported("upstream_lost", aborted)


def _sentence(detail: str) -> str:
    return f"{detail[0].upper()}{detail[1:]}."


def too_big_hint(detail: str) -> str:
    """The remedy for a client's message that is too big. An event with too many values is so at any size."""
    sentence = _sentence(detail)
    return sentence if detail == INTRICATE_EVENT else f"{sentence} {CATALOGUE['message_too_big'].remedy}"


def peer_broke_protocol(side: Side, violation: Violation) -> Ending:
    """A side violated the protocol or the limit on messages; it gets the close code of RFC 6455 for it."""
    code = int(violation.close_code)
    if side == "client":
        too_big = code == CloseCode.MESSAGE_TOO_BIG
        reason = "message_too_big" if too_big else "client_protocol_error"
        close = CloseInstruction(code, CATALOGUE[reason].close_text, unreadable=True)
        # After a protocol error only a close frame may be sent (RFC 6455 section 7.1.7). An oversized message is not one.
        hint = too_big_hint(violation.detail) if too_big else None
        upstream = CloseInstruction(_GOING_AWAY)
        return Ending(reason, close, upstream, send_error=too_big, detail=violation.detail, hint=hint)
    # To the client, 1009 would mean that its own message is too big.
    reason = "upstream_message_too_big" if code == CloseCode.MESSAGE_TOO_BIG else "upstream_protocol_error"
    return replace(_reported(reason, CloseInstruction(code)), detail=violation.detail)


def relay_ended(reason: str, detail: str | None = None) -> Ending:
    """The relay ends the session. `detail`: why, if the reason does not say it; it is in the event as well."""
    if reason in _TOO_SLOW:
        # A peer that reads nothing will not read a close frame either, and must not hold memory until it does.
        aborted = CloseInstruction(abort=True)
        if reason == "client_too_slow":
            return Ending(reason, aborted, CloseInstruction(_GOING_AWAY))
        return _reported(reason, aborted)
    reported = replace(
        _reported(reason, CloseInstruction(_GOING_AWAY)), detail=detail, hint=detail and _sentence(detail)
    )
    if reason == "rate_exceeded":  # nothing that the client sends is looked at any more
        return replace(reported, client=replace(reported.client, unreadable=True))
    return reported


def upstream_flood(frames_per_second: float) -> Ending:
    """Upstream sends more frames than any session needs."""
    close = CloseInstruction(int(CloseCode.POLICY_VIOLATION), unreadable=True)
    detail = f"more than {frames_per_second:,.0f} frames a second"
    return replace(_reported("upstream_protocol_error", close), detail=detail)


def _reported(reason: str, upstream: CloseInstruction) -> Ending:
    """The client gets an error event and the close code of the catalogue."""
    row = CATALOGUE[reason]
    client = CloseInstruction(row.close_code or CloseCode.INTERNAL_ERROR, row.close_text)
    return Ending(reason, client, upstream, send_error=True)
