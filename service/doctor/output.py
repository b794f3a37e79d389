"""Prints results: text while the steps run, or one JSON document at the end. All output is redacted.

On a terminal, the running step is shown on a line that its result replaces; elsewhere each line is final. Colour is used on a
terminal only, and not if NO_COLOR is set (https://no-color.org).
"""

import json
import shutil
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TextIO

from service.doctor.steps import NOT_RUN, StepResult
from service.realtime.redaction import redact
from service.version import __version__

_COLOURS: Final = {"ok": "32", "warn": "33", "fail": "1;31", "skipped": "2"}
_MARKS: Final = {"ok": "ok", "warn": "warn", "fail": "FAIL", "skipped": "-"}
_INDENT: Final = " " * 21
_MIN_WIDTH: Final = 60
_ERASE_LINE: Final = "\r\x1b[K"


class Redaction:
    """Removes secrets from output. `secrets` is called each time, because steps find more of them."""

    def __init__(self, secrets: Callable[[], Iterable[str]]) -> None:
        self._secrets = secrets

    def text(self, value: str) -> str:
        """`value` without secrets and without control characters, which could move a terminal's cursor."""
        printable = "".join(character if character.isprintable() else "?" for character in value)
        return redact(printable, self._secrets())

    def tree(self, value: object) -> object:
        """A JSON value in which every string is redacted."""
        match value:
            case str():
                return self.text(value)
            case Mapping():
                return {str(name): self.tree(item) for name, item in value.items()}
            case list() | tuple():
                return [self.tree(item) for item in value]
            case _:
                return value


class TextReporter:
    """Prints each result as its step finishes."""

    def __init__(self, stream: TextIO, redaction: Redaction, environ: Mapping[str, str]) -> None:
        self._stream = stream
        self._redact = redaction.text
        self._live = stream.isatty() and environ.get("TERM") != "dumb"
        self._coloured = self._live and not environ.get("NO_COLOR")
        self._width = max(_MIN_WIDTH, shutil.get_terminal_size().columns) if self._live else 0

    def title(self, description: str) -> None:
        """Print the first line."""
        self._write(f"realtime-relay {__version__} doctor: {self._redact(description)}\n\n")

    def step_started(self, name: str) -> None:
        """Show the running step, on a terminal."""
        if self._live:
            self._write(f"{_ERASE_LINE}  ...   {name}")

    def announce(self, sentence: str) -> None:
        """Print a sentence before the next step."""
        if self._live:
            self._write(_ERASE_LINE)
        self._write(self._paragraph(sentence) + "\n")

    def step_finished(self, result: StepResult) -> None:
        """Print a result."""
        mark = self._colour(result.status, f"{_MARKS[result.status]:<5}")
        seconds = f"  ({_duration(result.seconds)})" if result.status != "skipped" else ""
        finding = f"{result.reason}: {result.finding}" if result.reason else result.finding
        start = _ERASE_LINE if self._live else ""
        lines = [f"{start}  {mark} {result.name:<12} {self._redact(finding)}{seconds}"]
        lines += [self._paragraph(note) for note in result.notes]
        if result.remedy:
            lines.append(self._paragraph(f"-> {result.remedy}"))
        if result.anchor:
            lines.append(self._paragraph(f"see {result.anchor}"))
        self._write("\n".join(lines) + "\n")

    def summary(self, results: Sequence[StepResult], success: str, caveat: str | None = None) -> None:
        """Print the last line: `caveat`, then `success` if no step failed."""
        start = "\n" + (self._colour("warn", self._redact(caveat)) + " " if caveat else "")
        failed = next((result.name for result in results if result.status == "fail"), None)
        if failed is not None:
            not_run = sum(result.finding == NOT_RUN for result in results)
            rest = f"; {not_run} later {'step' if not_run == 1 else 'steps'} not run" if not_run else ""
            self._write(start + self._colour("fail", f"Failed at {failed}") + rest + ".\n")
            return
        warnings = [result.name for result in results if result.status == "warn"]
        rest = f" Warnings: {', '.join(warnings)}." if warnings else ""
        self._write(start + self._colour("ok", success) + rest + "\n")

    def _paragraph(self, text: str) -> str:
        text = self._redact(text)
        if not self._width:
            return _INDENT + text
        return textwrap.fill(
            text, self._width, initial_indent=_INDENT, subsequent_indent=_INDENT, break_on_hyphens=False
        )

    def _colour(self, status: str, text: str) -> str:
        return f"\x1b[{_COLOURS[status]}m{text}\x1b[0m" if self._coloured else text

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


class NullReporter:
    """Prints nothing, for `--json`."""

    def announce(self, sentence: str) -> None:
        """Do nothing."""

    def step_started(self, name: str) -> None:
        """Do nothing."""

    def step_finished(self, result: StepResult) -> None:
        """Do nothing."""


def json_document(results: Sequence[StepResult], target: Mapping[str, object], redaction: Redaction) -> str:
    """The output of `--json`. `target` is what the chain checked."""
    body = {
        "version": __version__,
        "ok": all(result.status != "fail" for result in results),
        "target": target,
        "rungs": [result.as_object() for result in results],  # the name of the steps in the published format
    }
    return json.dumps(redaction.tree(body), indent=2) + "\n"


def _duration(seconds: float) -> str:
    if seconds < 0.001:  # noqa: PLR2004 - a millisecond
        return "<1 ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
