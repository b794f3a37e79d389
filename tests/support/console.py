"""Requests to the console of a relay, as its page sends them, and the shapes that docs/api.md publishes."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
from multidict import CIMultiDictProxy

from tests.support.harness import TOKEN_CANARY, Relay

OPERATOR_CANARY: Final = "CANARY2operator-0123456789abcdef"
OPERATOR: Final = {"Relay-Operator": "1"}
BEARER: Final = {"Authorization": f"Bearer {OPERATOR_CANARY}"}
BASIC: Final = {"Authorization": f"Basic {base64.b64encode(f'me:{OPERATOR_CANARY}'.encode()).decode()}"}
ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
DOCUMENTED: Final = {
    section.partition("\n")[0]: json.loads(section.split("```json\n")[1].split("```")[0])
    for section in PAGE.split("\n## ")[1:]
    if "```json" in section and section.startswith(("GET", "POST", "DELETE"))
}
TOKENS: Final = {
    "RELAY_ACCESS": "tokens",
    "RELAY_CLIENT_TOKENS": f"kiosk:{TOKEN_CANARY}",
    "RELAY_OPERATOR_TOKEN": OPERATOR_CANARY,
}


@dataclass(frozen=True, slots=True)
class ConsoleAnswer:
    """The answer to one request."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """The code of the error object, if it is one."""
        is_json = self.headers.get("Content-Type", "").startswith("application/json")
        error = self.json.get("error") if is_json else None
        return str(error["code"]) if error is not None else None


async def ask(url: str, method: str = "GET", headers: dict[str, str] | None = None) -> ConsoleAnswer:
    """Send one request and read the answer."""
    timeout = aiohttp.ClientTimeout(total=120)
    async with (
        aiohttp.ClientSession(timeout=timeout) as client,
        client.request(method, url, headers=headers or {}, allow_redirects=False) as response,
    ):
        return ConsoleAnswer(response.status, response.headers, await response.read())


def shape(value: Any) -> Any:
    """The names in a document, at every depth; of a list, those of its first item."""
    match value:
        case {"evidence": _}:
            return {name: shape(item) if name != "evidence" else "evidence" for name, item in value.items()}
        case dict():
            return {name: shape(item) for name, item in value.items()}
        case [first, *_]:
            return [shape(first)]
        case _:
            return None


def same_shape(documented: Any, answered: Any) -> bool:
    """Whether two shapes are the same; null and an empty list stand for anything."""
    if documented is None or answered is None:
        return True
    if isinstance(documented, dict) and isinstance(answered, dict):
        return documented.keys() == answered.keys() and all(
            same_shape(item, answered[name]) for name, item in documented.items()
        )
    if isinstance(documented, list) and isinstance(answered, list):
        return same_shape(documented[0], answered[0])
    return bool(documented == answered)


async def read(relay: Relay, path: str) -> Any:
    """A document."""
    answer = await ask(relay.internal_url + path)
    assert (200, "application/json; charset=utf-8") == (answer.status, answer.headers["Content-Type"])
    return answer.json
