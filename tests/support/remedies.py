"""The remedy that a client receives, and the operator's text for the same failure."""

import re

from service.failures import Row
from service.upstream import hints

UNNAMED = re.compile("|".join(re.escape(re.escape(text)) for text in hints.UNNAMED_FACTS.values()))

OPENAI_STATUS = re.escape("https://status.openai.com")


def as_operators_read(row: Row, remedy: str) -> re.Pattern[str]:
    """The operator's action, or a hint with the address of the upstream, which clients do not receive."""
    if row.for_operator and remedy in {row.remedy, hints.CLIENTS_FIRST.get(row.reason)}:
        action = re.escape(row.for_operator).replace(OPENAI_STATUS, f"(?:{OPENAI_STATUS}|the server [^ ]+ and its log)")
        return re.compile(f"{action}|.*Check the server .* and its log\\.")
    return re.compile(UNNAMED.sub("(?:[^ ]+|the default)", re.escape(remedy)))
