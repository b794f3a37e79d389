"""The relay with an injected bug: every session with the model `BROKEN_MODEL` fails with an internal error at its start."""

import sys
from typing import Final

from service.cli import main
from service.relay.reporter import SessionReporter

BROKEN_MODEL: Final = "gpt-realtime-mini"

_original_started = SessionReporter.started


def _started(reporter: SessionReporter, connect_seconds: float) -> None:
    if reporter._info.model == BROKEN_MODEL:
        raise RuntimeError("an injected bug")
    _original_started(reporter, connect_seconds)


if __name__ == "__main__":
    SessionReporter.started = _started  # type: ignore[assignment, method-assign]
    sys.exit(main())
