"""Finds the close frame of a peer that is not read, behind what it has sent."""

from time import perf_counter
from typing import Final

from service.realtime.closing import parse_close
from service.realtime.frames import Opcode
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import ControlFrame
from service.wire.leg import Leg

LOOKAHEAD_FRAMES: Final = 256
"""How many of the frames that a held source has not read are searched for its close frame: 16 seconds of speech."""


def find_close(source: Leg, scanner: Scanner) -> tuple[int | None, str] | None:
    """Search the unread bytes of a held leg; returns code and reason. `scanner` stays where the reading stopped.

    Behind a flood of small frames it is not found; the kernel reports when their sender disconnects.
    """
    unread = source.peek()
    if not unread:
        return None
    started = perf_counter()
    items = scanner.copy().feed(unread, LOOKAHEAD_FRAMES)
    source.charge_look(perf_counter() - started)
    if items and isinstance(items[-1], ControlFrame) and items[-1].opcode is Opcode.CLOSE:
        return parse_close(items[-1].payload)
    return None
