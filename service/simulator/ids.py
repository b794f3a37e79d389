"""Identifiers in the provider's format: a prefix and 21 base62 characters, or a fixed number of hex digits.

The first five of the 21 characters encode the time in seconds, as in the identifiers seen on the wire in 2026-08:
identifiers of the same second share them.
"""

import secrets
import string
import time

_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_TIME_CHARACTERS = 5
_RANDOM_CHARACTERS = 16


def new_id(prefix: str) -> str:
    """Return an identifier: the prefix (``event``, ``item``, ``resp``, ``conv``, ``sess``), ``_`` and 21 characters."""
    return f"{prefix}_{_encode_time(int(time.time()))}{random_base62(_RANDOM_CHARACTERS)}"


def random_base62(count: int) -> str:
    """Return ``count`` random base62 characters."""
    return "".join(secrets.choice(_BASE62) for _ in range(count))


def new_call_id() -> str:
    """Return the identifier of a function call: ``call_`` and 16 characters."""
    return f"call_{random_base62(_RANDOM_CHARACTERS)}"


def new_client_secret() -> str:
    """Return a client secret: ``ek_`` and 32 hex digits."""
    return f"ek_{secrets.token_hex(16)}"


def new_request_id() -> str:
    """Return a value for the ``x-request-id`` header of a REST response."""
    return f"req_{secrets.token_hex(16)}"


def _encode_time(seconds: int) -> str:
    digits = []
    for _ in range(_TIME_CHARACTERS):
        seconds, digit = divmod(seconds, len(_BASE62))
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))
