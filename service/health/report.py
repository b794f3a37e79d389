"""The response of `/healthz`: from the checks to a status and a body. Pure.

The body follows the draft "Health Check Response Format for HTTP APIs" (`application/health+json`); `?verbose` and
`?exclude=` work as in kube-apiserver. All texts about a check come from the catalogue.
"""

from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import Literal

from service.failures import CATALOGUE
from service.health.checks import HealthCheck
from service.version import __version__

Overall = Literal["pass", "warn", "fail"]


def overall(checks: Collection[HealthCheck], *, is_stale: bool = False) -> Overall:
    """The worst status of the checks. An unknown check counts as fail; stale results count as warn at best.

    A check that is not required counts as warn at worst, and not before its first result.
    """
    statuses = {check.status for check in checks if check.is_required}
    if statuses & {"fail", "unknown"}:
        return "fail"
    is_hampered = any(check.status in {"warn", "fail"} for check in checks if not check.is_required)
    return "warn" if "warn" in statuses or is_hampered or (checks and is_stale) else "pass"


def public_body(status: Overall) -> dict[str, object]:
    """The body on the public port: the status only."""
    return {"status": status}


def detailed_body(
    checks: Collection[HealthCheck],
    upstream: str,
    *,
    sessions: int,
    is_stale: bool = False,
    notes: Iterable[str] = (),
) -> dict[str, object]:
    """The body for operators on the internal port: each check with its last result."""
    body: dict[str, object] = {
        "status": overall(checks, is_stale=is_stale),
        "releaseId": __version__,
        "serviceId": "realtime-relay",
        "checks": {
            **{f"{check.component}:{check.name}": [_entry(check)] for check in checks},
            "relay:sessions": [{"status": "pass", "observedValue": sessions, "observedUnit": "count"}],
        },
    }
    lines = [f"upstream: {upstream}", *notes]
    lines += [
        f"{check.component}:{check.name}: {check.caveat}"
        for check in checks
        if check.caveat and check.status == "pass" and check.source == "active"
    ]
    if upstream == "simulator":
        lines.append("The built-in simulator answers in place of OpenAI; speech is simulated.")
    if is_stale:
        lines.append("stale: the checks have not run for longer than any pause; search the log for task.crashed")
    body["notes"] = lines
    return body


def _entry(check: HealthCheck) -> dict[str, object]:
    entry: dict[str, object] = {"status": check.status, "source": check.source}
    if check.reason is not None:
        entry |= {"reason": check.reason, "runbook": CATALOGUE[check.reason].runbook}
        if check.evidence:
            entry["evidence"] = dict(check.evidence)
    if check.checked_at is not None:
        entry["time"] = datetime.fromtimestamp(check.checked_at, UTC).isoformat(timespec="seconds")
    if check.seconds is not None:
        entry |= {"observedValue": round(check.seconds * 1000), "observedUnit": "ms"}
    output = check.output()
    if output is not None:
        entry["output"] = output
    return entry
