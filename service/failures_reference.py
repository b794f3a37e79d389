"""Renders the catalogue as `docs/failures.md`, with one anchor for each reason."""

from service.failures import DIAL_FAILURES, ENDINGS, REFUSALS, RUNBOOK_PAGES, Row


def render_markdown() -> str:
    """The text of `docs/failures.md`."""
    parts = [
        "# Failures and endings\n",
        "Generated from `service/failures.py`; every response, log line, metric and report of the relay uses these texts.\n",
        "If the provider closed with a private code (3000 to 4999), browsers receive that code and its reason instead.\n",
        "`retry` states whether the same attempt can succeed without a change of client, relay or account.\n",
    ]
    for title, table in (
        ("Requests that the relay refuses", REFUSALS),
        ("Connections to the provider that fail", DIAL_FAILURES),
        ("How sessions end", ENDINGS),
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
    link = f"[Runbook](runbooks/{RUNBOOK_PAGES[row.reason]}.md#{row.reason})"
    return f"### {row.reason}\n\n{row.sentence} ({', '.join(facts)})\n\n{row.remedy}\n\n{link}\n"
