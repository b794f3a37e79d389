"""What the last HTTP response reveals beside its status: the kind of server, and the difference between the clocks."""

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import SimpleNamespace
from typing import Final

import aiohttp
from yarl import URL

from service.doctor.steps import Finding
from service.failures import Failure

_MAX_CLOCK_SKEW_SECONDS: Final = 30.0
"""The relay tolerates more. A Date header has whole seconds and includes the time of its transfer."""


class LastResponse:
    """Records the headers of the last response of the sessions that it observes, and when it arrived."""

    def __init__(self) -> None:
        self._last: tuple[datetime, Mapping[str, str]] | None = None

    def observe(self, session: aiohttp.ClientSession) -> None:
        """Record the responses of a session from now on."""
        trace = aiohttp.TraceConfig()
        trace.on_request_end.append(self._record)
        trace.freeze()
        session.trace_configs.append(trace)

    async def _record(
        self, _session: aiohttp.ClientSession, _context: SimpleNamespace, end: aiohttp.TraceRequestEndParams
    ) -> None:
        self._last = (datetime.now(UTC), end.response.headers)

    def notes(self, failure: Failure) -> list[str]:
        """What the headers reveal about the server that caused a failure."""
        if self._last is None or failure.wire_status is None:
            return []
        headers, notes = self._last[1], []
        if "html" in headers.get("Content-Type", "").lower() and failure.upstream_code is None:
            notes.append("The response is an HTML page: a captive portal, proxy or edge answered instead of the API.")
        if failure.reason == "redirect_refused":
            with suppress(ValueError):
                notes.append(f"The redirect points to {URL(headers.get('Location', '')).host or 'another path'}.")
        return notes

    def compare_clocks(self) -> Finding:
        """Compare this machine's clock with the Date header."""
        if self._last is None or "Date" not in self._last[1]:
            return Finding("the provider sent no Date header", status="skipped")
        received_at, headers = self._last
        try:
            skew = (received_at - parsedate_to_datetime(headers["Date"]).astimezone(UTC)).total_seconds()
        except (ValueError, OverflowError):
            return Finding("the provider's Date header is not a date", status="skipped")
        if abs(skew) <= _MAX_CLOCK_SKEW_SECONDS:
            return Finding(f"within {_MAX_CLOCK_SKEW_SECONDS:.0f} s of the provider's clock", seconds=0.0)
        side = "ahead of" if skew > 0 else "behind"
        note = "With a wrong clock, certificates appear invalid and log times are wrong. Enable time synchronisation (NTP)."
        return Finding(f"this machine's clock is {abs(skew):.0f} s {side} the provider's", [note], "warn", 0.0)
