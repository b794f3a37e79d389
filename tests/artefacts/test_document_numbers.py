"""Numbers in the documents are the constants and defaults of the code."""

import math
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from bench import prose
from monitoring.alerts import ALERTS
from service import machine
from service.access.limits import ConcurrencyLimit
from service.failures import CATALOGUE, Failure
from service.realtime.scanner import MAX_HELD_BYTES
from service.realtime.scanner_runs import MAX_BUFFERED_FRAME_BYTES
from service.relay.closing_sides import CLIENT_CLOSE_SECONDS, LOST_CLIENT_CLOSE_SECONDS, UPSTREAM_CLOSE_SECONDS
from service.relay.drain import CLOSES_PER_SECOND
from service.relay.grace import MARGIN_SECONDS, grace_seconds
from service.relay.ticker import TICK_SECONDS
from service.relay.ticker import TURN_SECONDS as TICK_TURN_SECONDS
from service.relay.watchdog import ACK_ONLY_SECONDS, SessionLimits
from service.settings import SETTINGS
from service.upstream.circuit import DEFINITE_OPEN_SECONDS
from service.wire.leg import SLICE_BYTES, WRITE_HIGH_BYTES
from service.wire.signs_of_life import MIN_PROGRESS_BYTES
from service.wire.small_writes import MAX_SMALL_WRITES, SMALL_BYTES
from service.wire.turns import (
    FRAMES_PER_DELIVERY,
    HEAVY_SECONDS,
    HEAVY_SLICE_BYTES,
    LIGHT_SLICE_BYTES,
    READ_SECONDS,
    TURN_SECONDS,
)
from tools import generated

ROOT: Final = Path(__file__).resolve().parents[2]
KIB: Final = 1024
READ_KIB: Final = 256  # the largest read of asyncio's and uvloop's transports
HELD_KIB: Final = READ_KIB + (WRITE_HIGH_BYTES + MAX_BUFFERED_FRAME_BYTES + MAX_HELD_BYTES) // KIB
SESSION: Final = SessionLimits(max_message_bytes=0)
GHOST_SECONDS: Final = math.ceil(SESSION.probe_seconds + LOST_CLIENT_CLOSE_SECONDS)
SLOW: Final = f"{SESSION.slow_seconds:g} s"
DEFAULTS: Final = {setting.name: setting.default or "" for setting in SETTINGS}
DIAL: Final = DEFAULTS["RELAY_DIAL_TIMEOUT_SECONDS"]
DRAIN: Final = DEFAULTS["RELAY_DRAIN_SECONDS"]
SPREAD: Final = DEFAULTS["RELAY_CLOSE_SPREAD_SECONDS"]
POD_GRACE: Final = generated.pod_grace_seconds(generated.KUBERNETES)
PROCESS_MIB: Final = machine.PROCESS_BYTES >> 20
SESSION_KIB: Final = machine.SESSION_BYTES >> 10
KEY_REJECTED: Final = CATALOGUE["key_rejected"]
_TENS: Final = ("", "", "twenty", "thirty", "forty")
_UNITS: Final = (
    "", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip


def in_words(number: int) -> str:
    """A number below 50 as a document writes it."""
    if number < len(_UNITS):
        return _UNITS[number]
    return "-".join(filter(None, (_TENS[number // 10], _UNITS[number % 10])))


def _detail_at_limit(maximum: int, unit: str) -> str | None:
    """What the log says of a client that is refused because `maximum` are in use."""
    limit = ConcurrencyLimit(maximum, "relay_full", unit)
    with ExitStack() as used:
        try:
            while True:
                used.enter_context(limit.acquire())
        except Failure as failure:
            return failure.detail


STATEMENTS: Final = {
    "README.md": (
        f"HTTP/1.1 {KEY_REJECTED.http_status} Failed Dependency",
        f'"message": "{KEY_REJECTED.sentence}"',
    ),
    "docs/architecture.md": (
        f"(`RELAY_DIAL_TIMEOUT_SECONDS`, {DIAL} s)",
        f"from memory for {DEFINITE_OPEN_SECONDS:g} s",
        f"the upstream side {UPSTREAM_CLOSE_SECONDS:g} s and the client {CLIENT_CLOSE_SECONDS:g} s",
        f"checks each session every {TICK_SECONDS:g} s",
        f"a peer that reads nothing ({SLOW})",
        f"answers no ping ({SESSION.silent_seconds:g} s; pings go out every {SESSION.ping_seconds:g} s)",
        f"a client that is sent little | {math.ceil(SESSION.silent_seconds + TICK_SECONDS)} s",
        f"more than the path accepts | {SLOW}",
        f"a proxy that accepts all of it | {ACK_ONLY_SECONDS:g} s",
        f"connects again | {GHOST_SECONDS} s after the first refusal",
        f"waits {SESSION.probe_seconds:g} s for an answer",
        f"at most once in {SESSION.probe_seconds:g} s",
        f"one read, at most {READ_KIB} KiB",
        f"a read of at most {SLICE_BYTES // KIB} KiB to its pipe directly",
        f"have used up {READ_SECONDS * 1000:g} ms",
        f"{TURN_SECONDS * 1000:g} ms in each turn for all sessions",
        f"at most {FRAMES_PER_DELIVERY} of these frames",
        f"in slices of {LIGHT_SLICE_BYTES // KIB} KiB",
        f"a tenth of them at a time, in {TICK_TURN_SECONDS * 1000:g} ms",
        f"more than {HEAVY_SECONDS * 1000:g} ms of such work",
        f"slices of {HEAVY_SLICE_BYTES // KIB} KiB",
        f"A frame of up to {MAX_BUFFERED_FRAME_BYTES // KIB} KiB is forwarded when it is complete",
        f"When more than {WRITE_HIGH_BYTES // KIB} KiB are unsent",
        f"less than {MIN_PROGRESS_BYTES // KIB} KiB in {SLOW} ends the session",
        f"{WRITE_HIGH_BYTES // KIB} KiB of unsent data, or {MAX_SMALL_WRITES} writes of less than {SMALL_BYTES} bytes",
        f"the rest of one read ({READ_KIB} KiB)",
        f"That is {HELD_KIB} KiB per direction",
        f"no more than {CLOSES_PER_SECOND} a second",
    ),
    "docs/capacity.md": (
        f"at most {HELD_KIB} KiB in each direction",
        f"such a session after {SLOW}",
        f"counts {PROCESS_MIB} MiB for its own process",
        f"plan {SESSION_KIB} KiB per call",
        f"{DEFAULTS['RELAY_MAX_DIALS']}, the default",
    ),
    "docs/clients.md": (
        f"`RELAY_DIAL_TIMEOUT_SECONDS` ({DIAL})",
        f"its session is closed within {GHOST_SECONDS} s",
        f"from memory for up to {DEFINITE_OPEN_SECONDS:g} seconds",
        f"`key_rejected` (HTTP {KEY_REJECTED.http_status}, or close {KEY_REJECTED.close_code})",
    ),
    "docs/deployment.md": (
        f"from memory for up to {DEFINITE_OPEN_SECONDS:g} seconds",
        f"with 1001: {CLOSES_PER_SECOND} per second",
        f"{PROCESS_MIB} MiB and {SESSION_KIB} KiB per call",
        f"drains for `RELAY_DRAIN_SECONDS` ({generated.KUBERNETES['RELAY_DRAIN_SECONDS']})",
        f"the sum and a margin, {POD_GRACE} s",
        f"pause {generated.pause_seconds():g} + drain + `RELAY_CLOSE_SPREAD_SECONDS` {SPREAD}",
        f"+ closing {CLIENT_CLOSE_SECONDS:g} + margin {MARGIN_SECONDS}",
        f"drains for `RELAY_DRAIN_SECONDS` ({DRAIN})",
        f"`stop_grace_period` ({grace_seconds(float(DRAIN), float(SPREAD))} s)",
        f"`STOP_GRACE_PERIOD={grace_seconds(300, float(SPREAD))}s` for `RELAY_DRAIN_SECONDS=300`",
    ),
    "docs/invariants.md": (f"at most {HELD_KIB} KiB per direction", f"ends its session after {SLOW}"),
    "docs/runbooks/clients.md": (
        f"closes within {GHOST_SECONDS} s those that do not answer",
        f"silent for {math.ceil(SESSION.silent_seconds + TICK_SECONDS)} seconds; for {ACK_ONLY_SECONDS:g} seconds",
        f"for {SESSION.probe_seconds:g} seconds after a ping",
    ),
    "docs/runbooks/relay.md": (
        f"`{_detail_at_limit(1000, 'sessions')}` is `RELAY_MAX_SESSIONS`",
        f"`{_detail_at_limit(int(DEFAULTS['RELAY_MAX_DIALS']), 'dials')}` is `RELAY_MAX_DIALS`",
    ),
    "docs/monitoring.md": (f"{in_words(len(ALERTS))} alerts",),
}


def one_line(text: str) -> str:
    """A text with each run of blanks and line breaks as one blank."""
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize("document", STATEMENTS)
def test_document_states_the_numbers_of_the_code(document: str) -> None:
    """Each statement is in the document, whatever its line breaks."""
    text = one_line((ROOT / document).read_text(encoding="utf-8"))

    assert [] == [statement for statement in STATEMENTS[document] if statement not in text]


def test_readme_shows_defaults_of_settings() -> None:
    """Each row of the README's table of settings names settings that exist, and their literal defaults."""
    rows = re.findall(
        r"^\| (`[A-Z_]+`.*?) \| (.*?) ?\|", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(rows) > 5
    for cell, default in rows:
        names = [name.removesuffix("_FILE") for name in re.findall(r"`([A-Z_]+)`", cell)]
        assert DEFAULTS.keys() >= set(names)
        literal = re.fullmatch(r"(?:`[^`]+`(?:, )?)+", default)
        assert literal is None or [DEFAULTS[name] for name in names] == re.findall(r"`([^`]+)`", default)


def test_documents_agree_on_the_duration_of_the_tests() -> None:
    """README and docs/testing.md state the same."""
    duration = "under four minutes on two cores"

    assert f"runs the tests, in {duration}" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(
        rf"^\| `make test` .* \| {duration} \|$", (ROOT / "docs/testing.md").read_text("utf-8"), re.MULTILINE
    )


def test_monitoring_page_states_the_number_of_dashboards() -> None:
    """As many as there are files."""
    dashboards = list((ROOT / "monitoring/grafana/dashboards").glob("*.json"))
    text = (ROOT / "docs/monitoring.md").read_text(encoding="utf-8").lower()

    assert f"{in_words(len(dashboards))} dashboards" in text


def test_benchmarks_page_has_the_prose_of_its_generator() -> None:
    """`docs/benchmarks.md` is regenerated rarely; its prose follows `bench/prose.py` in between."""
    text = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")

    assert text.startswith(prose.INTRODUCTION)
    assert text.endswith(prose.LIMITS)
