"""Removes keys and tokens from log events, as a second safeguard: code must not log them in the first place.

The processor redacts every string of an event, tracebacks included, and the strings within lists, tuples and mappings.
"""

from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, Final

from structlog.typing import EventDict, WrappedLogger

from service.realtime.keys import Secret
from service.realtime.redaction import KnownSecrets

_MAX_ADDED: Final = 64
"""Maximum number of rotated keys that are redacted. After more rotations the oldest of them are forgotten."""

_MAX_CACHED: Final = 512
_MAX_CACHED_CHARACTERS: Final = 512


class Redactor:
    """A structlog processor that knows the secrets of this process. Usable from any thread."""

    def __init__(self, secrets: Iterable[Secret | None] = ()) -> None:
        self._own = tuple(secret.reveal() for secret in secrets if secret is not None)
        self._added: tuple[str, ...] = ()
        # Those in use, and those before.
        self._replaceable: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())
        self._known = KnownSecrets(self._own)
        self._cached: dict[str, str] = {}  # texts that many events repeat

    def add(self, secret: Secret) -> None:
        """Redact one more secret from now on, such as a rotated key."""
        if secret.reveal() not in (*self._own, *self._added):
            self._added = (*self._added, secret.reveal())[-_MAX_ADDED:]
            self._rebuild()

    def replace(self, secrets: Iterable[Secret]) -> None:
        """Redact these secrets of the clients file as well, and still those that they replace."""
        self._replaceable = (frozenset(secret.reveal() for secret in secrets), self._replaceable[0])
        self._rebuild()

    def _rebuild(self) -> None:
        self._known = KnownSecrets((*self._own, *self._added, *frozenset().union(*self._replaceable)))
        self._cached = {}

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """Redact all values of an event, in place."""
        for name, value in event.items():
            event[name] = self._clean(value)
        return event

    def redact(self, value: str) -> str:
        """Return the text without secrets."""
        return self._known.redact(value)

    def redact_cached(self, value: str) -> str:
        """Redact a value of an event. Most are sentences and names of the relay's own, which repeat."""
        if len(value) > _MAX_CACHED_CHARACTERS:
            return self.redact(value)
        redacted = self._cached.get(value)
        if redacted is None:
            redacted = self.redact(value)
            if len(self._cached) >= _MAX_CACHED:
                self._cached = {}
            self._cached[value] = redacted
        return redacted

    def _clean(self, value: Any) -> Any:  # noqa: ANN401 - log events hold anything
        match value:
            case str():
                return self.redact_cached(value)
            case bytes():
                return self.redact(value.decode("utf-8", "replace"))
            case bool() | int() | float() | None:
                return value
            case Mapping() | MutableMapping():
                return {self.redact(str(key)): self._clean(item) for key, item in value.items()}
            case list() | tuple() | set() | frozenset():
                return [self._clean(item) for item in value]
            case _:
                # str, never repr: the repr of an aiohttp client error contains request headers.
                return self.redact(str(value))
