"""Identifiers as the provider makes them: a prefix and 21 base62 characters, or a fixed number of hex digits.

The first five of the 21 are a clock that ticks once a second, as in the identifiers seen on the wire 2026-08:
those made in the same second begin alike.
"""

import secrets
import string
import time

_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_CLOCK_CHARACTERS = 5
_RANDOM_CHARACTERS = 16


def new_id(prefix: str) -> str:
    """Make an identifier: ``event_``, ``item_``, ``resp_``, ``conv_`` or ``sess_`` and 21 characters."""
    return f"{prefix}_{_clock(int(time.time()))}{random_letters(_RANDOM_CHARACTERS)}"


def random_letters(count: int) -> str:
    """Make ``count`` base62 characters that mean nothing."""
    return "".join(secrets.choice(_BASE62) for _ in range(count))


def new_call_id() -> str:
    """Make the identifier of a function call: ``call_`` and 16 characters."""
    return f"call_{random_letters(_RANDOM_CHARACTERS)}"


def new_client_secret() -> str:
    """Make a short-lived key: ``ek_`` and 32 hex digits."""
    return f"ek_{secrets.token_hex(16)}"


def new_request_id() -> str:
    """Make the ``x-request-id`` of a REST answer."""
    return f"req_{secrets.token_hex(16)}"


def _clock(seconds: int) -> str:
    digits = []
    for _ in range(_CLOCK_CHARACTERS):
        seconds, digit = divmod(seconds, len(_BASE62))
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))
