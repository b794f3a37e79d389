"""`make conformance`: Autobahn's test suite on both sides of the relay.

    python -m tests.conformance [--short] [--side client|server|both]

Client side: the fuzzing client connects to the relay, whose upstream echoes. Server side: a client that echoes connects to
the relay, whose upstream is the fuzzing server. The relay is a process of its own; everything listens on loopback. The
suite's reports are in build/conformance. Exit codes: 0 passed, 1 failed, 3 the suite is unavailable on this machine.
"""

import argparse
import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.conformance.run import Findings, RunFailed, run_client_side, run_server_side
from tests.conformance.verdict import FULL, OUTCOMES, SHORT, Verdict, judge
from tests.conformance.wstest import WAYS, Wstest, WstestUnavailable, cache_folder, obtain
from tests.support.command_line import NOT_RUN, print_line, run_program

RESULTS: Final = Path(__file__).resolve().parents[2] / "build/conformance"
FAULTS_SHOWN: Final = 5

Run = Callable[[Wstest, Sequence[str], Path], Coroutine[None, None, Findings]]
SIDES: Final[Mapping[str, tuple[str, Run]]] = {
    "client": ("fuzzing client - relay - echo", run_client_side),
    "server": ("echo - relay - fuzzing server", run_server_side),
}


def main() -> int:
    """Prepare the suite, run the sides, print the results; returns the exit code."""
    options = _options()
    patterns = options.cases.split(",") if options.cases else SHORT if options.short else FULL
    try:
        wstest = obtain(options.cache, (options.way,) if options.way else WAYS)
    except WstestUnavailable as exc:
        print_line(f"NOT RUN: conformance, since wstest is unavailable on this machine: {exc}")
        return NOT_RUN
    passed = [_run(side, wstest, patterns) for side in (SIDES if options.side == "both" else (options.side,))]
    return 0 if all(passed) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance", description="Autobahn's test suite on the relay."
    )
    parser.add_argument("--short", action="store_true", help="without large messages and compression: half a minute")
    parser.add_argument(
        "--side", choices=[*SIDES, "both"], default="both", help="the side of the relay on which the suite runs"
    )
    parser.add_argument("--cases", help="run these cases instead, as in 3.*,7.9.5")
    parser.add_argument("--way", choices=WAYS, help="how to prepare wstest; by default the first way that works")
    parser.add_argument("--cache", type=Path, default=cache_folder(), help="the folder in which wstest is kept")
    return parser.parse_args()


def _run(side: str, wstest: Wstest, patterns: Sequence[str]) -> bool:
    title, run = SIDES[side]
    results = RESULTS / side
    started = time.monotonic()
    try:
        findings = asyncio.run(run(wstest, patterns, results))
    except RunFailed as exc:
        print_line(f"{title}: FAILED: {exc}")
        return False
    verdict = judge(findings.reports, findings.cases, patterns)
    _show(title, findings, verdict, time.monotonic() - started)
    print_line(f"  reports: {results}/index.html")
    return not (verdict.problems or findings.faults)


def _show(title: str, findings: Findings, verdict: Verdict, seconds: float) -> None:
    counts = ", ".join(f"{verdict.counts.get(word, 0)} {word}" for word in OUTCOMES)
    print_line(f"{title}: {len(findings.cases)} cases in {seconds:.0f} s: {counts}")
    for explanation, cases in verdict.accepted.items():
        print_line(f"  accepted {' '.join(cases)}: {explanation}")
    for problem in verdict.problems:
        print_line(f"  FAILED {problem}")
    for fault in findings.faults[:FAULTS_SHOWN]:
        print_line(f"  FAILED the relay: {fault}")
    if len(findings.faults) > FAULTS_SHOWN:
        print_line(f"  FAILED the relay: {len(findings.faults) - FAULTS_SHOWN} more faults")


if __name__ == "__main__":
    run_program(main)
