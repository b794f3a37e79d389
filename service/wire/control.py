"""Control frames, for the receivers that answer pings and report the end of the stream. `Pipe` has its own handling."""

from dataclasses import dataclass

from service.realtime.closing import close_code_to_forward, parse_close
from service.realtime.frames import Opcode
from service.realtime.scanner_items import ControlFrame, Item, Violation
from service.wire.leg import Leg


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """How a peer's stream ended: with a close frame or, if `is_violation`, with bytes that break RFC 6455 or a limit.

    `code` is the close frame's code, None if it has none, or the close code that names the violation. `reason` is text of the
    peer, or the static description of the violation.
    """

    code: int | None
    reason: str
    is_violation: bool = False


def handle_control(leg: Leg, item: Item) -> StreamEnd | None:
    """Answer a ping with a pong and a close frame with a close frame; return the end of the stream if `item` is one.

    A violation is reported and not answered: the caller owns the leg and aborts it. All other items are ignored.
    """
    match item:
        case ControlFrame(Opcode.PING, payload):
            leg.send_control(Opcode.PONG, payload)
        case ControlFrame(Opcode.CLOSE, payload):
            code, reason = parse_close(payload)
            leg.send_close(close_code_to_forward(code), "")
            return StreamEnd(code, reason)
        case Violation(code, detail):
            return StreamEnd(code, detail, is_violation=True)
    return None
