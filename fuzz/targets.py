"""What must hold for any input. A target takes bytes and raises when something does not hold.

No atheris in here, so that the tests can try the seeds and whatever was once found.
"""

import json
from collections.abc import Callable
from typing import Final

from service.realtime.closing import (
    MAX_REASON_BYTES,
    close_code_to_forward,
    close_payload,
    is_sendable_close_code,
    parse_close,
)
from service.realtime.events import ERROR_CODES, HEAD_BYTES, PARSED_EVENT_TYPES, event_type, parse_error
from service.realtime.frames import Opcode, build_frame
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import Control, Violation
from service.realtime.server_events import INTERRUPTION_REASONS, RESPONSE_STATUSES, parse_server_event
from tests.support.reference_decoder import Watch, decode

CAPS: Final = (0, 125, 1000, 200_000)
MANY_BLANKS: Final = (
    b"\xf5\xf5",
    b" " * 65_500,
)  # two bytes that no text holds stand for many, or inputs would be large
SOME_BLANKS: Final = (b"\xf5\xf6", b" " * 500)
MOST_BLANKS: Final = 4  # times many; more would only be slow
DRIPPED_BYTES: Final = 64
MOST_HELD: Final = 2 * 65_536 + 14 + HEAD_BYTES


def claim(what: str, *, holds: bool) -> None:
    """Raise if something does not hold."""
    if not holds:
        raise AssertionError(what)


def scanner(data: bytes) -> None:
    """However a stream is cut, the frame scanner agrees with the reference all the way.

    The first byte chooses masking, cap and whether events are read; the second is the number of cuts, two bytes each; the
    rest is the stream.
    """
    if len(data) < 2:  # noqa: PLR2004 - the two bytes of the choice
        return
    choice, count = data[0], data[1] % 8
    masked, cap, parsed_types = (
        bool(choice & 1),
        CAPS[choice >> 1 & 3],
        PARSED_EVENT_TYPES if choice & 8 else frozenset(),
    )
    places, stream = data[2 : 2 + 2 * count], data[2 + 2 * count :]
    stream = stream.replace(*MANY_BLANKS, MOST_BLANKS).replace(*SOME_BLANKS)
    cuts = [int.from_bytes(places[n : n + 2], "big") * len(stream) >> 16 for n in range(0, len(places), 2)]
    story = decode(stream, masked=masked, cap=cap)

    def watched(cuts: list[int]) -> Watch:
        watch = Watch(Scanner(masked=masked, max_message_bytes=cap, parsed_types=parsed_types), story, parsed_types)
        watch.feed_cut(cuts)
        claim("little is held back", holds=watch.most_held <= MOST_HELD)
        return watch

    whole = watched([])
    claim("slicing does not matter", holds=watched(cuts).outcome() == whole.outcome())
    if len(stream) <= DRIPPED_BYTES:
        dripped = watched(list(range(1, len(stream))))
        claim("nor does the smallest slicing", holds=dripped.outcome() == whole.outcome())


def closing(data: bytes) -> None:
    """What is made of any code and reason may be sent; any CLOSE that comes is refused, or its code may be sent on."""
    code = int.from_bytes(data[:2], "big")
    for errors in ("replace", "surrogateescape", "surrogatepass"):
        try:
            reason = data[2:].decode("utf-8", errors)
        except UnicodeDecodeError:
            continue
        _check_close_that_is_sent(close_code_to_forward(code), reason)
        _check_close_that_is_sent(close_code_to_forward(None), reason)
    _check_close_that_came(data[:125])


def _check_close_that_is_sent(code: int, reason: str) -> None:
    claim("a code that may be sent", holds=is_sendable_close_code(code) and close_code_to_forward(code) == code)
    payload = close_payload(code, reason)
    sent, text = parse_close(payload)
    claim("the code is kept", holds=sent == code)
    claim("the reason is kept, or cut", holds=reason.encode("utf-8", "replace").decode().startswith(text))
    claim("it is cut no shorter than it must be", holds=len(text) == len(reason) or len(payload) > MAX_REASON_BYTES - 2)
    items = Scanner(masked=False, max_message_bytes=0).feed(build_frame(Opcode.CLOSE, payload))
    claim("a peer would take it", holds=items == [Control(Opcode.CLOSE, payload)])


def _check_close_that_came(payload: bytes) -> None:
    (item,) = Scanner(masked=True, max_message_bytes=0).feed(build_frame(Opcode.CLOSE, payload, b"\x01\x80\x7f\xff"))
    code, reason = parse_close(payload)
    if isinstance(item, Violation):
        claim("the RFC's codes", holds=item.close_code in {1002, 1007})
        return
    claim("its payload is unmasked", holds=item == Control(Opcode.CLOSE, payload))
    claim("a code is none, or may be sent", holds=code is None or is_sendable_close_code(code))
    claim("payload and parts say the same", holds=close_payload(code, reason) == payload)


def events(data: bytes) -> None:
    """A type that is shown is the event's, shows from its first bytes on, and errors are parsed or not, but never raise."""
    shown = event_type(data)
    for length in (len(data) // 2, len(data) - 1, HEAD_BYTES):
        part = event_type(data[: max(0, length)])
        claim("more bytes change no type", holds=part in {None, shown})
    pairs = _pairs(data)
    if pairs is not None and shown is not None and len(dict(pairs)) == len(pairs):
        claim("the type is the JSON's", holds=dict(pairs).get("type") == shown)
    if pairs and pairs[0] == ("type", "error") and b"\\" not in data:
        claim("a type that stands first is seen", holds=shown == "error")
    error = parse_error(data)
    if error is not None:
        claim("a label is of the closed set", holds=error.label in ERROR_CODES | {"other"})
        claim("texts are texts", holds=all(isinstance(text, str) for text in (error.type, error.message)))
    for kind in PARSED_EVENT_TYPES:
        reading = parse_server_event(kind, data)
        incident, response = reading.incident, reading.response
        claim("an incident has a code", holds=incident is None or (incident.event == kind and bool(incident.code)))
        claim(
            "a response ends in a way of the closed set", holds=response is None or response.status in RESPONSE_STATUSES
        )
        is_known = response is None or response.interruption in {None, *INTERRUPTION_REASONS}
        claim("an interruption is one of the closed set", holds=is_known)
        claim("what is left is a share", holds=all(0 <= left <= 1 for _, left in reading.remaining_ratios))
    if data.isascii():
        claim("bytes and text say the same", holds=error == parse_error(data.decode("ascii")))


def _pairs(data: bytes) -> list[tuple[str, object]] | None:
    """The top-level members of a JSON object in UTF-8, or None if it is none."""
    top: list[list[tuple[str, object]]] = []

    def keep(pairs: list[tuple[str, object]]) -> None:
        top.append(pairs)

    try:
        json.loads(data.decode("utf-8"), object_pairs_hook=keep)
    except (ValueError, RecursionError):
        return None
    return top[-1] if top and data.lstrip(b" \t\r\n").startswith(b"{") else None


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {"scanner": scanner, "closing": closing, "events": events}
