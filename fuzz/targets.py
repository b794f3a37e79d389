"""The properties that must hold for any input. A target takes bytes and raises AssertionError if a property does not hold.

This module does not import atheris, so that tests can run the seeds and former findings.
"""

import json
from collections.abc import Callable
from typing import Final

from fuzz.properties import require
from fuzz.requests import admission, heads
from service.realtime.closing import (
    MAX_REASON_BYTES,
    close_code_to_forward,
    close_payload,
    is_sendable_close_code,
    parse_close,
)
from service.realtime.events import (
    ERROR_CODES,
    HEAD_BYTES,
    PARSED_EVENT_TYPES,
    event_type,
    parse_error,
    parse_object,
    type_in_head,
)
from service.realtime.frames import Opcode, build_frame
from service.realtime.intricacy import is_intricate
from service.realtime.scanner import MAX_HELD_BYTES, Scanner
from service.realtime.scanner_items import ControlFrame, Violation
from service.realtime.scanner_runs import MAX_BUFFERED_FRAME_BYTES
from service.realtime.server_events import INTERRUPTION_REASONS, RESPONSE_STATUSES, parse_server_event
from tests.support.checked_scanner import CheckedScanner
from tests.support.reference_decoder import HEADER_BYTES, decode

SIZE_LIMITS: Final = (0, 125, 1000, 200_000)
MANY_SPACES: Final = (
    b"\xf5\xf5",
    b" " * 65_500,
)  # two bytes that no UTF-8 text contains are replaced by many spaces, so that inputs stay small
SOME_SPACES: Final = (b"\xf5\xf6", b" " * 500)
MAX_MANY_SPACES: Final = 4  # replacements per input; more would only be slow
BYTEWISE_MAX_BYTES: Final = 64


def scanner(data: bytes) -> None:
    """The frame scanner agrees with the reference for any stream and slicing.

    The first byte selects masking, size limit and whether event types are requested. The second byte is the number of cuts,
    two bytes each. The rest is the stream.
    """
    if len(data) < 2:  # noqa: PLR2004 - the two bytes of the options
        return
    options, count = data[0], data[1] % 8
    masked, limit, parsed_types = (
        bool(options & 1),
        SIZE_LIMITS[options >> 1 & 3],
        PARSED_EVENT_TYPES if options & 8 else frozenset(),
    )
    offsets, stream = data[2 : 2 + 2 * count], data[2 + 2 * count :]
    stream = stream.replace(*MANY_SPACES, MAX_MANY_SPACES).replace(*SOME_SPACES)
    cuts = [int.from_bytes(offsets[n : n + 2], "big") * len(stream) >> 16 for n in range(0, len(offsets), 2)]
    decoded = decode(stream, masked=masked, limit=limit)
    if masked and parsed_types and any(is_intricate(b"".join(f.payload for f in parts)) for parts in decoded.messages):
        return  # the reference parses any: with the right key, spaces are commas
    # One incomplete frame, the fragments of a message, which is held whole if it is to be read, and its head.
    max_fragment_bytes = max(MAX_HELD_BYTES, limit if parsed_types else 0)
    max_held_bytes = (
        MAX_BUFFERED_FRAME_BYTES + max_fragment_bytes + HEADER_BYTES * (len(decoded.frames) + 1) + HEAD_BYTES
    )

    def checked(cuts: list[int]) -> CheckedScanner:
        check = CheckedScanner(
            Scanner(masked=masked, max_message_bytes=limit, parsed_types=parsed_types), decoded, parsed_types
        )
        check.feed_sliced(cuts)
        require("held bytes are bounded", holds=check.max_held <= max_held_bytes)
        return check

    whole = checked([])
    require("slicing does not change the result", holds=checked(cuts).outcome() == whole.outcome())
    if len(stream) <= BYTEWISE_MAX_BYTES:
        bytewise = checked(list(range(1, len(stream))))
        require("slicing into bytes does not change the result", holds=bytewise.outcome() == whole.outcome())


def closing(data: bytes) -> None:
    """A close payload for any code and reason is valid. A received one is refused, or its code can be forwarded."""
    code = int.from_bytes(data[:2], "big")
    for errors in ("replace", "surrogateescape", "surrogatepass"):
        try:
            reason = data[2:].decode("utf-8", errors)
        except UnicodeDecodeError:
            continue
        _check_sent_close(close_code_to_forward(code), reason)
        _check_sent_close(close_code_to_forward(None), reason)
    _check_received_close(data[:125])


def _check_sent_close(code: int, reason: str) -> None:
    require("the code may be sent", holds=is_sendable_close_code(code) and close_code_to_forward(code) == code)
    payload = close_payload(code, reason)
    sent, text = parse_close(payload)
    require("the code is kept", holds=sent == code)
    require("the reason is kept or truncated", holds=reason.encode("utf-8", "replace").decode().startswith(text))
    require(
        "the reason is truncated no more than necessary",
        holds=len(text) == len(reason) or len(payload) > MAX_REASON_BYTES - 2,
    )
    items = Scanner(masked=False, max_message_bytes=0).feed(build_frame(Opcode.CLOSE, payload))
    require("a peer accepts the frame", holds=items == [ControlFrame(Opcode.CLOSE, payload)])


def _check_received_close(payload: bytes) -> None:
    (item,) = Scanner(masked=True, max_message_bytes=0).feed(build_frame(Opcode.CLOSE, payload, b"\x01\x80\x7f\xff"))
    code, reason = parse_close(payload)
    if isinstance(item, Violation):
        require("a code of RFC 6455", holds=item.close_code in {1002, 1007})
        return
    require("the payload is unmasked", holds=item == ControlFrame(Opcode.CLOSE, payload))
    require("the code is None or may be sent", holds=code is None or is_sendable_close_code(code))
    require("parsing and building are inverse", holds=close_payload(code, reason) == payload)


def events(data: bytes) -> None:
    """A type that is found is the event's own, or that of the head of an incomplete one. Parsing never raises."""
    found = event_type(data)
    pairs = _pairs(data)
    for length in (len(data) // 2, len(data) - 1, HEAD_BYTES):
        part = data[: max(0, length)]
        if not parse_object(part):
            shown = type_in_head(part[:HEAD_BYTES])
            require("an incomplete event has the type of its head", holds=event_type(part) in {None, shown})
    if pairs is not None and found is not None and len(dict(pairs)) == len(pairs):
        require("the type is that of the JSON object", holds=dict(pairs).get("type") == found)
    if pairs and pairs[0] == ("type", "error") and b"\\" not in data:
        require("a type in first place is found", holds=found == "error")
    error = parse_error(data)
    if error is not None:
        require("the label is in the closed set", holds=error.label in ERROR_CODES | {"other"})
        require("texts are strings", holds=all(isinstance(text, str) for text in (error.type, error.message)))
    for kind in PARSED_EVENT_TYPES:
        event = parse_server_event(kind, data)
        incident, response = event.incident, event.response
        require("an incident has a code", holds=incident is None or (incident.event == kind and bool(incident.code)))
        require(
            "the response status is in the closed set", holds=response is None or response.status in RESPONSE_STATUSES
        )
        is_known = response is None or response.interruption in {None, *INTERRUPTION_REASONS}
        require("the interruption is in the closed set", holds=is_known)
        require(
            "the remaining ratio is between 0 and 1", holds=all(0 <= ratio <= 1 for _, ratio in event.remaining_ratios)
        )
    if data.isascii():
        require("bytes and text give the same error", holds=error == parse_error(data.decode("ascii")))


def _pairs(data: bytes) -> list[tuple[str, object]] | None:
    """The top-level members of a JSON object in UTF-8, or None if there is no object."""
    top: list[list[tuple[str, object]]] = []

    def keep(pairs: list[tuple[str, object]]) -> None:
        top.append(pairs)

    try:
        json.loads(data.decode("utf-8"), object_pairs_hook=keep)
    except (ValueError, RecursionError):
        return None
    return top[-1] if top and data.lstrip(b" \t\r\n").startswith(b"{") else None


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "scanner": scanner,
    "closing": closing,
    "events": events,
    "heads": heads,
    "admission": admission,
}
