"""What the probes say. Pure: from the checks to a status and a body.

The body is that of the draft "Health Check Response Format for HTTP APIs" (`application/health+json`); `?verbose` and
`?exclude=` work as kube-apiserver's do. Words come from the catalogue alone.
"""

from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import Literal

from service.failures import CATALOGUE
from service.health.checks import Check
from service.version import __version__

Overall = Literal["pass", "warn", "fail"]


def overall(checks: Collection[Check], *, is_stale: bool = False) -> Overall:
    """The worst of the checks; what was never checked cannot be called well, what is stale not quite."""
    statuses = {check.status for check in checks}
    if statuses & {"fail", "unknown"}:
        return "fail"
    return "warn" if "warn" in statuses or (checks and is_stale) else "pass"


def brief(status: Overall) -> dict[str, object]:
    """For everybody: the status, and nothing that tells of the inside."""
    return {"status": status}


def verbose(
    checks: Collection[Check],
    upstream: str,
    *,
    sessions: int,
    is_stale: bool = False,
    notes: Iterable[str] = (),
) -> dict[str, object]:
    """For operators: each check with its last answer."""
    body: dict[str, object] = {
        "status": overall(checks, is_stale=is_stale),
        "releaseId": __version__,
        "serviceId": "realtime-relay",
        "checks": {
            **{f"upstream:{check.name}": [_entry(check)] for check in checks},
            "relay:sessions": [{"status": "pass", "observedValue": sessions, "observedUnit": "count"}],
        },
    }
    said = [f"upstream: {upstream}", *notes]
    if upstream == "simulator":
        said.append("The built-in simulator stands in for OpenAI; speech is simulated.")
    if is_stale:
        said.append("stale: the checks have not been refreshed for longer than any pause; see task.crashed in the log")
    body["notes"] = said
    return body


def _entry(check: Check) -> dict[str, object]:
    entry: dict[str, object] = {"status": check.status, "source": check.source}
    if check.reason is not None:
        entry |= {"reason": check.reason, "runbook": CATALOGUE[check.reason].runbook}
    if check.checked_at is not None:
        entry["time"] = datetime.fromtimestamp(check.checked_at, UTC).isoformat(timespec="seconds")
    if check.seconds is not None:
        entry |= {"observedValue": round(check.seconds * 1000), "observedUnit": "ms"}
    output = check.output()
    if output is not None:
        entry["output"] = output
    return entry
