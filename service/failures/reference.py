"""Renders the catalogue: `docs/failures.md`, with one anchor for each reason, and the table of the runbooks' index."""

from collections.abc import Collection, Iterable
from typing import Final

from service.failures import ADMISSION_FAILURES, CATALOGUE, DIAL_FAILURES, ENDINGS, START_FAILURES, Row
from service.failures.translation import NETWORK_ERRORS, STEPS, Rule

_FIRST_SERVER_ERROR: Final = 500
_LAST_STATUS: Final = 999


def render_markdown() -> str:
    """The text of `docs/failures.md`."""
    parts = [
        "# Failures and endings\n",
        (
            "Generated from `service/failures/catalogue.py`; every response, log line, metric and report of the relay uses "
            "these texts.\n"
        ),
        "If the provider closed with a private code (3000 to 4999), browsers receive that code and its reason instead.\n",
        (
            '"What leads to it" lists the rules of `service/failures/translation.py`, by which answers of the provider '
            "become reasons. They apply in this order: who answered, the provider's code, known sentences of its message, "
            "the status. The first rule that matches decides. Where the evidence allows a better remedy than the one shown "
            "here, every surface shows that one.\n"
        ),
        (
            'Alerts, dashboards, log, health and doctor show the paragraph that begins with "Operator:" in place of the '
            "remedy that clients receive.\n"
        ),
        "`blame` names the party that caused the failure or the ending.\n",
        "`retry` states whether the same attempt can succeed without a change of client, relay or account.\n",
        "In a checkout, `python -m service` in a remedy is `.venv/run/bin/realtime-relay`.\n",
        "The fields of the error object are listed in [clients](clients.md#the-error-object).\n",
    ]
    for title, table in (
        ("Requests that the relay refuses", ADMISSION_FAILURES),
        ("Connections to the provider that fail", DIAL_FAILURES),
        ("GPT-Live sessions that the client does not start", START_FAILURES),
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
    causes = _render_causes(row.reason) if row.reason in DIAL_FAILURES else ""
    operator = f"Operator: {row.for_operator}\n\n" if row.for_operator else ""
    return f"### {row.reason}\n\n{row.sentence} ({', '.join(facts)})\n\n{row.remedy}\n\n{operator}{causes}{link}\n"


def _render_causes(reason: str) -> str:
    """What leads to a reason: the rules of the translation table, with the step at which each applies."""
    lines = [f"- {step}: {_describe(rule)}." for step, rules in STEPS for rule in rules if rule.reason == reason]
    if reason in NETWORK_ERRORS:
        lines.append(f"- Error of the connection: {NETWORK_ERRORS[reason]}")
    return "\n".join(["What leads to it:\n", *dict.fromkeys(lines), "\n"]) if lines else ""


def _describe(rule: Rule) -> str:
    parts = []
    if rule.by:
        parts.append(f"answered by {_listed(rule.by)}")
    if rule.status:
        parts.append(f"HTTP {_numbers(rule.status)}")
    if rule.close:
        parts.append(f"close code {_numbers(rule.close)}")
    if rule.code:
        parts.append(f"code {_listed(f'`{code}`' for code in rule.code)}")
    if rule.says:
        parts.append(f"the message contains {_listed(f'`{text}`' for text in rule.says)}")
    if rule.trait is not None:
        parts.append(str(rule.trait))
    return "; ".join(parts) or "no other rule applies"


def _listed(values: Iterable[str]) -> str:
    return " or ".join(values)


def _numbers(values: Collection[int]) -> str:
    numbers = sorted(values)
    if len(numbers) > 4 and numbers[-1] - numbers[0] == len(numbers) - 1:  # noqa: PLR2004 - shorter ranges are listed
        return f"{numbers[0]} to {numbers[-1]}"
    is_open = numbers[-1] == _LAST_STATUS
    shown = [str(number) for number in numbers if not is_open or number < _FIRST_SERVER_ERROR]
    return ", ".join([*shown, f"{_FIRST_SERVER_ERROR} and above"] if is_open else shown)
