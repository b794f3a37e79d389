"""How the results look: text for people, one JSON document for machines. Nothing leaves unredacted.

On a terminal the rung that is being tried is shown on a line that its result replaces; elsewhere each line is final. Colour
only on a terminal, and not where NO_COLOR is set (https://no-color.org).
"""

import json
import shutil
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TextIO

from service.doctor.steps import NOT_TRIED, StepResult
from service.realtime.redaction import redact
from service.version import __version__

_COLOURS: Final = {"ok": "32", "warn": "33", "fail": "1;31", "skipped": "2"}
_MARKS: Final = {"ok": "ok", "warn": "warn", "fail": "FAIL", "skipped": "-"}
_INDENT: Final = " " * 21
_LEAST_WIDTH: Final = 60
_START_OF_LINE: Final = "\r\x1b[K"


class Redaction:
    """Knows what must not be printed; `secrets` is asked each time, since more become known on the way."""

    def __init__(self, secrets: Callable[[], Iterable[str]]) -> None:
        self._secrets = secrets

    def text(self, value: str) -> str:
        """A line without secrets and without anything that could move a terminal's cursor."""
        printable = "".join(letter if letter.isprintable() else "?" for letter in value)
        return redact(printable, self._secrets())

    def tree(self, value: object) -> object:
        """The same for everything in a document."""
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
    """Prints each rung as it ends."""

    def __init__(self, stream: TextIO, redaction: Redaction, environ: Mapping[str, str]) -> None:
        self._stream = stream
        self._clean = redaction.text
        self._live = stream.isatty() and environ.get("TERM") != "dumb"
        self._coloured = self._live and not environ.get("NO_COLOR")
        self._width = max(_LEAST_WIDTH, shutil.get_terminal_size().columns) if self._live else 0

    def head(self, what: str) -> None:
        """The first line."""
        self._write(f"realtime-relay {__version__} doctor: {self._clean(what)}\n\n")

    def step_started(self, name: str) -> None:
        """Show what is being tried, on a terminal."""
        if self._live:
            self._write(f"{_START_OF_LINE}  ...   {name}")

    def announce(self, sentence: str) -> None:
        """Something to be known beforehand."""
        if self._live:
            self._write(_START_OF_LINE)
        self._write(self._paragraph(sentence) + "\n")

    def step_finished(self, result: StepResult) -> None:
        """Print a result."""
        mark = self._colour(result.status, f"{_MARKS[result.status]:<5}")
        was_tried = result.finding != NOT_TRIED
        seconds = f"  ({_duration(result.seconds)})" if was_tried and result.status != "skipped" else ""
        finding = f"{result.reason}: {result.finding}" if result.reason else result.finding
        start = _START_OF_LINE if self._live else ""
        lines = [f"{start}  {mark} {result.name:<12} {self._clean(finding)}{seconds}"]
        lines += [self._paragraph(note) for note in result.notes]
        if result.remedy:
            lines.append(self._paragraph(f"-> {result.remedy}"))
        if result.anchor:
            lines.append(self._paragraph(f"see {result.anchor}"))
        self._write("\n".join(lines) + "\n")

    def verdict(self, rungs: Iterable[StepResult], success: str) -> None:
        """The last line."""
        known = list(rungs)
        broken = next((rung for rung in known if rung.status == "fail"), None)
        warnings = [rung.name for rung in known if rung.status == "warn"]
        if broken is not None:
            skipped = sum(rung.finding == NOT_TRIED for rung in known)
            behind = f"; {skipped} behind it not tried" if skipped else ""
            self._write("\n" + self._colour("fail", f"Broken at {broken.name}") + behind + ".\n")
            return
        also = f" Warnings: {', '.join(warnings)}." if warnings else ""
        self._write("\n" + self._colour("ok", success) + also + "\n")

    def _paragraph(self, text: str) -> str:
        text = self._clean(text)
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
    """For machines: nothing is printed until the document is complete."""

    def announce(self, sentence: str) -> None:
        """Say nothing."""

    def step_started(self, name: str) -> None:
        """Say nothing."""

    def step_finished(self, result: StepResult) -> None:
        """Say nothing."""


def json_document(rungs: Iterable[StepResult], target: Mapping[str, object], redaction: Redaction) -> str:
    """The one JSON document."""
    known = list(rungs)
    body = {
        "version": __version__,
        "ok": all(result.status != "fail" for result in known),
        "target": target,
        "rungs": [result.as_object() for result in known],
    }
    return json.dumps(redaction.tree(body), indent=2) + "\n"


def _duration(seconds: float) -> str:
    if seconds < 0.001:  # noqa: PLR2004 - a millisecond
        return "<1 ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
