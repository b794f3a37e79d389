"""The complete examples of docs/clients.md, as programs that connect to a relay of the test."""

import re
from pathlib import Path
from typing import Final

CLIENTS: Final = Path(__file__).resolve().parents[3] / "docs" / "clients.md"
TOKEN: Final = "<client token>"
ADDRESS: Final = "127.0.0.1:8080"


def example(heading: str, block: int = 0) -> str:
    """A fenced block of the section with this heading, the first by default; raises LookupError."""
    text = CLIENTS.read_text(encoding="utf-8")
    section = re.search(rf"^#+ {re.escape(heading)}$(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    blocks: list[str] = re.findall(r"^```\w+\n(.*?)^```$", section[1], re.MULTILINE | re.DOTALL) if section else []
    if len(blocks) <= block:
        raise LookupError(f"docs/clients.md has no example in the section {heading}")
    return blocks[block]


def connected(text: str, port: int, token: str) -> str:
    """An example with the address and the token of a relay; raises LookupError if it names neither."""
    for placeholder in (TOKEN, ADDRESS):
        if placeholder not in text:
            raise LookupError(f"the example does not contain {placeholder}")
    return text.replace(TOKEN, token).replace(ADDRESS, f"127.0.0.1:{port}")
