"""What a pipe needs of its sink for each message."""

import asyncio
from collections.abc import Callable


class Outlet(asyncio.Protocol):
    """Has it in a slot, which is found at once: the other attributes of a leg are in a dictionary."""

    __slots__ = ("write_frames",)

    write_frames: Callable[[bytes], object]
    """Sends whole frames at frame boundaries; drops them once the leg is closing."""


def drop(_frames: bytes) -> None:
    """`write_frames` of a leg that is closing."""
