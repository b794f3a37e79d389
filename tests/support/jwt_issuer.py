"""A local OpenID provider, and the tokens that it signs."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from aiohttp import web
from joserfc.jwk import ECKey, Key, RSAKey
from joserfc.jws import JWSRegistry

ISSUER: Final = "https://login.example.com/"
AUDIENCE: Final = "realtime-relay"
RSA: Final = RSAKey.generate_key(2048, {"kid": "r1", "use": "sig", "alg": "RS256"})
EC: Final = ECKey.generate_key("P-256", {"kid": "e1", "use": "sig"})


def segment(value: object) -> str:
    """A segment of a token: an object, or the bytes as they are."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def claims(**changes: Any) -> dict[str, Any]:
    """The claims of a good token; None removes one."""
    now = int(time.time())
    found = {"iss": ISSUER, "aud": AUDIENCE, "sub": "auth0|CANARYuser", "iat": now, "exp": now + 300, **changes}
    return {name: value for name, value in found.items() if value is not None}


def sign(payload: object = None, key: Key = RSA, **header: Any) -> str:
    """A token; by default a good one. `alg` in the header selects the algorithm, None removes a header."""
    algorithm = header.setdefault("alg", "RS256" if key.key_type == "RSA" else "ES256")
    header = {"kid": key.kid, "typ": "JWT", **header}
    shown = {name: value for name, value in header.items() if value is not None}
    signed = f"{segment(shown)}.{segment(claims() if payload is None else payload)}"
    return f"{signed}.{segment(JWSRegistry.algorithms[algorithm].sign(signed.encode(), key))}"


def key_set(*keys: Key) -> dict[str, Any]:
    """The document with the public keys."""
    return {"keys": [key.as_dict(private=False) for key in keys or (RSA, EC)]}


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Issuer:
    """A provider whose key set can be replaced, made to fail, or held back. `fetches` counts the requests."""

    def __init__(self) -> None:
        self.url = ""
        self.document: Any = key_set()
        self.answer: Answer | None = None
        self.fetches = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer a request for the key set."""
        self.fetches += 1
        await asyncio.wait_for(self.gate.wait(), 30)
        if self.answer is not None:
            return await self.answer(request)
        return web.json_response(self.document)


@asynccontextmanager
async def running_issuer() -> AsyncIterator[Issuer]:
    """Run a provider on loopback."""
    issuer = Issuer()
    app = web.Application()
    app.router.add_get("/{path:.*}", issuer.serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]  # an asyncio.Server
    issuer.url = f"http://127.0.0.1:{port}/jwks.json"
    try:
        yield issuer
    finally:
        issuer.gate.set()
        await runner.cleanup()


def issuer_table(url: str, lines: str = "", name: str = "app", issuer: str = ISSUER, audience: str = AUDIENCE) -> str:
    """The table of an issuer whose tokens belong to the client kiosk."""
    return (
        f'[jwt.{name}]\nissuer = "{issuer}"\naudience = "{audience}"\njwks_url = "{url}"\nclient = "kiosk"\n{lines}\n'
    )
