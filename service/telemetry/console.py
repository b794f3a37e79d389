"""Renders a log event for a terminal: time, level, message, event name, facts; then remedy, runbook and traceback.

    2026-11-26T19:40:30.542Z info     The request carries no client token. (admission.refused) address=192.0.2.7 phase=access
        remedy: Send one of the relay's client tokens as 'Authorization: Bearer <token>'.

Values that are None or empty are left out. An event without a message shows its name in the place of the message. Whatever a
client or library wrote, only this module begins a line: line breaks and control characters within a value are escaped, and
every line after the first is indented.
"""

from collections.abc import Mapping
from typing import Final

from structlog.typing import EventDict, WrappedLogger

_INDENT: Final = " " * 4
_LEVEL_WIDTH: Final = len("critical")
_BOLD, _DIM, _CYAN, _GREEN = "1", "2", "36", "32"
_LEVEL_COLOURS: Final = {"debug": _DIM, "info": _GREEN, "warning": "33", "error": "31", "critical": "1;31"}
_OWN_LINES: Final = ("remedy", "runbook")
_TRACEBACKS: Final = ("exception", "stack")


class ConsoleRenderer:
    """A structlog renderer, the last processor. It returns one text for each event, without the final line break.

    It expects tracebacks as text (`structlog.processors.format_exc_info`). `colours` adds ANSI escape sequences.
    """

    def __init__(self, *, colours: bool) -> None:
        self._colours = colours

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> str:
        """Render an event; `event` is used up."""
        timestamp, level = str(event.pop("timestamp", "")), str(event.pop("level", ""))
        name, message = str(event.pop("event", "")), event.pop("message", None)
        below = [(key, event.pop(key, None)) for key in (*_OWN_LINES, *_TRACEBACKS)]
        parts = [
            self._colour(_DIM, _milliseconds(timestamp)),
            self._colour(_LEVEL_COLOURS.get(level, _BOLD), level.ljust(_LEVEL_WIDTH)),
            self._colour(_BOLD, _escape(str(message or name))),
        ]
        if message:
            parts.append(self._colour(_DIM, f"({_escape(name)})"))
        parts += [f"{self._colour(_CYAN, key)}={_value(value)}" for key, value in event.items() if not _is_empty(value)]
        lines = [" ".join(parts)]
        for key, value in below:
            if _is_empty(value):
                continue
            if key in _OWN_LINES:
                lines.append(f"{_INDENT}{self._colour(_GREEN, f'{key}:')} {_escape(str(value))}")
            else:
                lines += [_INDENT + _escape(line) for line in str(value).splitlines()]
        return "\n".join(lines)

    def _colour(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colours else text


def _milliseconds(timestamp: str) -> str:
    seconds, point, fraction = timestamp.partition(".")
    return f"{seconds}.{fraction[:3]}Z" if point else timestamp


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str | list | tuple | Mapping) and not value)


def _value(value: object) -> str:
    match value:
        case str():
            is_word = value and value.isprintable() and not any(char in " \"'" for char in value)
            return value if is_word else repr(value)
        case Mapping():
            return "{" + ", ".join(f"{_value(str(key))}={_value(item)}" for key, item in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(_value, value)) + "]"
        case _:
            return _escape(str(value))


def _escape(text: str) -> str:
    """The text with everything that is not printable as an escape sequence, such as line breaks and terminal codes."""
    return text if text.isprintable() else "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
