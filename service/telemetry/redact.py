"""The last line of defence: no log event leaves with a key or token in it.

Secrets are kept out at the source; this processor is for what nobody thought of. It looks at every string of an event,
tracebacks included, and at the strings inside lists, tuples and mappings.
"""

from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, Final

from structlog.typing import EventDict, WrappedLogger

from service.realtime.keys import Secret
from service.realtime.redaction import redact

_MOST: Final = 64
"""Keys rotate; who rotates more often than this within one process needs no old ones hidden."""


class Redactor:
    """A structlog processor that knows the secrets of this process."""

    def __init__(self, secrets: Iterable[Secret | None] = ()) -> None:
        self._own = tuple(secret.reveal() for secret in secrets if secret is not None)
        self._added: tuple[str, ...] = ()

    def add(self, secret: Secret) -> None:
        """One more secret, such as a new key; the old ones stay."""
        if secret.reveal() not in (*self._own, *self._added):
            self._added = (*self._added, secret.reveal())[-_MOST:]

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """Replace what is secret, in place."""
        for name, value in event.items():
            event[name] = self._clean(value)
        return event

    def redact(self, value: str) -> str:
        """A text without secrets."""
        return redact(value, (*self._own, *self._added))

    def _clean(self, value: Any) -> Any:  # noqa: ANN401 - log events hold anything
        match value:
            case str():
                return self.redact(value)
            case bytes():
                return self.redact(value.decode("utf-8", "replace"))
            case bool() | int() | float() | None:
                return value
            case Mapping() | MutableMapping():
                return {self.redact(str(key)): self._clean(item) for key, item in value.items()}
            case list() | tuple() | set() | frozenset():
                return [self._clean(item) for item in value]
            case _:
                return self.redact(str(value))  # str, never repr: reprs of client errors carry request headers
