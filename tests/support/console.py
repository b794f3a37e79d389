"""Requests to the console of a relay, as its page sends them."""

import base64
import json
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
from multidict import CIMultiDictProxy

OPERATOR_CANARY: Final = "CANARY2operator-0123456789abcdef"
OPERATOR: Final = {"Relay-Operator": "1"}
BEARER: Final = {"Authorization": f"Bearer {OPERATOR_CANARY}"}
BASIC: Final = {"Authorization": f"Basic {base64.b64encode(f'me:{OPERATOR_CANARY}'.encode()).decode()}"}


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
