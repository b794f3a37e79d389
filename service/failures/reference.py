"""Renders the catalogue: `docs/failures.md`, with one anchor for each reason, and the table of the runbooks' index."""

from service.failures import ADMISSION_FAILURES, CATALOGUE, DIAL_FAILURES, ENDINGS, Row


def render_markdown() -> str:
    """The text of `docs/failures.md`."""
    parts = [
        "# Failures and endings\n",
        (
            "Generated from `service/failures/catalogue.py`; every response, log line, metric and report of the relay uses "
            "these texts.\n"
        ),
        "If the provider closed with a private code (3000 to 4999), browsers receive that code and its reason instead.\n",
        "`blame` names the party that caused the failure or the ending.\n",
        "`retry` states whether the same attempt can succeed without a change of client, relay or account.\n",
        "In a checkout, `python -m service` in a remedy is `.venv/run/bin/python -m service`.\n",
        "The fields of the error object are listed in [clients](clients.md#the-error-object).\n",
    ]
    for title, table in (
        ("Requests that the relay refuses", ADMISSION_FAILURES),
        ("Connections to the provider that fail", DIAL_FAILURES),
        ("How sessions end", ENDINGS),
    ):
        parts.append(f"## {title}\n")
        parts.extend(_render_row(row) for row in table.values())
    return "\n".join(parts)


def render_table() -> str:
    """The table "By reason" of `docs/runbooks/README.md`: each reason with its page, sentence, HTTP status and close code."""
    lines = ["| reason | meaning | HTTP | close |", "| --- | --- | --- | --- |"]
    for reason, row in sorted(CATALOGUE.items()):
        link = f"[`{reason}`]({row.page}.md#{reason})"
        lines.append(f"| {link} | {row.sentence} | {row.http_status or '-'} | {row.close_code or '-'} |")
    return "\n".join(lines)


def _render_row(row: Row) -> str:
    facts = [f"blame: {row.blame}", f"retry: {row.retry}"]
    if row.http_status:
        facts.insert(0, f"HTTP {row.http_status}")
    if row.close_code:
        facts.insert(1 if row.http_status else 0, f"close {row.close_code}")
    elif row.event_close_code:
        facts.insert(1, f"close {row.event_close_code} with `?on_failure=event`")
    link = f"[Runbook](runbooks/{row.page}.md#{row.reason})"
    return f"### {row.reason}\n\n{row.sentence} ({', '.join(facts)})\n\n{row.remedy}\n\n{link}\n"
