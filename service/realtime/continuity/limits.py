"""How much a session keeps to go on at another upstream. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ContinuityLimits:
    """Bounds in bytes of one session."""

    log_bytes: int = 65_536
    item_bytes: int = 524_288
    image_bytes: int = 4 << 20
    audio_bytes: int = 2 << 20
    journal_bytes: int = 262_144
