"""The catalogue: one row for every way a connection fails or a session ends.

Rules of these tables:

* Every reason code is defined in one of the tables that this file joins: `admission_rows.py`, `dial_rows.py`,
  `start_rows.py` and `ending_rows.py`. HTTP bodies, error events, close frames, log lines, metric labels, health reports,
  the doctor, alerts and `docs/failures.md` take their text from these rows, so all of them report a cause alike.
* A sentence states what failed; a remedy states what to do, in the imperative. A second text is the operator's action where
  it differs from the client's. All are static: no text from a client or from the provider is ever inserted. Where the
  evidence shows a better action, `Failure.hint` replaces the remedy.
* HTTP 424 (Failed Dependency) marks a cause that only the operator can fix. Official clients retry 408, 429 and 5xx,
  and their sockets retry 1011 and 1013; a definite failure must reach the caller and must not be retried.
* `reason: sentence` fits a close frame (123 bytes, RFC 6455 section 5.5).
"""

from typing import Final

from service.failures.admission_rows import ADMISSION_FAILURES
from service.failures.dial_rows import DIAL_FAILURES
from service.failures.ending_rows import ENDINGS
from service.failures.start_rows import START_FAILURES

__all__ = ["ADMISSION_FAILURES", "CATALOGUE", "DIAL_FAILURES", "ENDINGS", "RUNBOOK_PAGES", "START_FAILURES"]

CATALOGUE: Final = {**ADMISSION_FAILURES, **DIAL_FAILURES, **START_FAILURES, **ENDINGS}

RUNBOOK_PAGES: Final = {reason: row.page for reason, row in CATALOGUE.items()}
"""Reason code to the name of its page in `docs/runbooks/`."""
