"""The whole catalogue for people, with an anchor for each reason, printed from its rows."""

from service.failures import DIAL_FAILURES, ENDINGS, REFUSALS, RUNBOOKS, Row


def render_markdown() -> str:
    """`docs/failures.md`."""
    parts = [
        "# Failures and endings\n",
        "Generated from `service/failures.py`; every surface of the relay speaks of a failure in these words.\n",
        "Where the provider closed with a code of its own (3000 to 4999), browsers get that code and its reason instead.\n",
        "`retry` says whether the same attempt can succeed without anybody changing anything.\n",
    ]
    for title, table in (
        ("Refused by the relay", REFUSALS),
        ("The provider could not be reached", DIAL_FAILURES),
        ("How a session ends", ENDINGS),
    ):
        parts.append(f"## {title}\n")
        parts.extend(_render_row(row) for row in table.values())
    return "\n".join(parts)


def _render_row(row: Row) -> str:
    facts = [f"blame: {row.blame}", f"retry: {row.retry}"]
    if row.http_status:
        facts.insert(0, f"HTTP {row.http_status}")
    if row.close_code:
        facts.insert(1 if row.http_status else 0, f"close {row.close_code}")
    link = f"[Runbook](runbooks/{RUNBOOKS[row.reason]}.md#{row.reason})"
    return f"### {row.reason}\n\n{row.sentence} ({', '.join(facts)})\n\n{row.remedy}\n\n{link}\n"
