"""Fetches the key set of an OpenID provider and keeps it.

Rules of this file:

* A set is fetched when it is first needed, every REFRESH_SECONDS, and for a key id that it does not have. One fetch of a
  set runs at a time, and the next begins MIN_INTERVAL_SECONDS after its end at the earliest, however many tokens ask.
* The last good set stays in use while fetches fail.
* A redirect is not followed, a compressed body is not read, and a body has a bound.
"""

import asyncio
import math
import time
from http import HTTPStatus
from typing import Final

import aiohttp
import structlog

from service.access.jwks import InvalidKeySet, KeySet, VerificationKey, parse_key_set
from service.deadlines import Deadline
from service.telemetry.tokens import TokenMetrics

FETCH_SECONDS: Final = 5.0
REFRESH_SECONDS: Final = 300.0
MIN_INTERVAL_SECONDS: Final = 10.0
MAX_BODY_BYTES: Final = 262_144
_HEADERS: Final = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}


class JwksUnavailable(Exception):
    """A key set that was not fetched. The message is a clause of the relay's own: it holds nothing of the answer."""


async def fetch_key_set(session: aiohttp.ClientSession, url: str) -> KeySet:
    """Fetch a key set; raises JwksUnavailable."""
    try:
        async with (
            Deadline(FETCH_SECONDS),
            session.get(url, headers=_HEADERS, allow_redirects=False) as response,
        ):
            body = await _read(response)
    except TimeoutError:
        raise JwksUnavailable(f"did not arrive within {FETCH_SECONDS:.0f} s") from None
    except (aiohttp.ClientError, OSError, ValueError) as exc:
        raise JwksUnavailable(f"was not received: {_described(exc)}") from None
    try:
        return parse_key_set(body)
    except InvalidKeySet as problem:
        raise JwksUnavailable(str(problem)) from None


async def _read(response: aiohttp.ClientResponse) -> bytes:
    if response.status in range(300, 400):
        raise JwksUnavailable(f"is redirected (HTTP {response.status}), which is not followed")
    if response.status != HTTPStatus.OK:
        raise JwksUnavailable(f"was answered with HTTP {response.status}")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise JwksUnavailable("is compressed, although the request does not accept that")
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise JwksUnavailable(f"is larger than {MAX_BODY_BYTES} bytes")
    return bytes(body)


def _described(exc: Exception) -> str:
    if isinstance(exc, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
        return "TLS failed (the certificate is not trusted, or the server speaks no TLS)"
    if isinstance(exc, aiohttp.ClientConnectorError):
        return f"the connection failed ({type(exc.os_error).__name__})"
    return type(exc).__name__  # not its text, which can hold headers


def open_session() -> aiohttp.ClientSession:
    """A session for key sets: without cookies, and without the proxies and .netrc of the environment."""
    return aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(),
        connector=aiohttp.TCPConnector(limit=8, force_close=True),
        timeout=aiohttp.ClientTimeout(total=None),  # `fetch_key_set` has the deadline
        auto_decompress=False,
    )


class JwksSource:
    """The key set at one URL. `names` are the tables [jwt.NAME] that use it, for messages."""

    def __init__(self, url: str, names: tuple[str, ...], session: aiohttp.ClientSession, metrics: TokenMetrics) -> None:
        self.url = url
        self.names = names
        self.problem: str | None = None  # of the last fetch
        self._session = session
        self._metrics = metrics
        self._clock = asyncio.get_running_loop().time
        self._key_set: KeySet | None = None
        self._fetched_at = -math.inf
        self._tried_at = -math.inf  # the end of the last fetch
        self._fetching: asyncio.Task[None] | None = None
        self._log = structlog.get_logger()

    @property
    def has_keys(self) -> bool:
        """Whether a set has ever been fetched."""
        return self._key_set is not None

    @property
    def age_seconds(self) -> float:
        """The age of the set in use."""
        return self._clock() - self._fetched_at

    def find(self, key_id: str | None) -> tuple[VerificationKey, ...]:
        """The keys that a token names, of the set that is in use."""
        return self._key_set.with_id(key_id) if self._key_set is not None else ()

    async def prepare(self, key_id: str | None) -> None:
        """Fetch the set if it has no key with this id, unless that was just done; waits FETCH_SECONDS at most."""
        if self.find(key_id):
            return
        self._begin(MIN_INTERVAL_SECONDS)
        if self._fetching is not None:
            # Not the task itself: it is cancelled with its issuer, and must not be with one of those who wait.
            await asyncio.wait([self._fetching])

    def refresh(self) -> None:
        """Begin a fetch if one is due."""
        self._begin(MIN_INTERVAL_SECONDS if self.problem is not None or not self.has_keys else REFRESH_SECONDS)

    def close(self) -> None:
        """Cancel the fetch."""
        if self._fetching is not None:
            self._fetching.cancel()

    def note(self) -> str | None:
        """What detailed health reports: that the last fetch failed, or that the set has keys that are not used."""
        place = f"JWKS of {' and '.join(f'[jwt.{name}]' for name in self.names)}"
        if self.problem is not None:
            kept = f"Keys of {self.age_seconds:.0f} s ago stay in use." if self.has_keys else "Its tokens are refused."
            return f"{place} {self.problem}. {kept}"
        if self._key_set is not None and self._key_set.ignored:
            return f"{place}: {'; '.join(self._key_set.ignored)}. These keys are not used."
        return None

    def _begin(self, interval: float) -> None:
        if self._fetching is None and self._clock() - self._tried_at >= interval:
            self._fetching = asyncio.get_running_loop().create_task(self._fetch(), name="fetch JWKS")

    async def _fetch(self) -> None:
        started = time.perf_counter()
        try:
            key_set = await fetch_key_set(self._session, self.url)
        except JwksUnavailable as problem:
            self._failed(str(problem))
        except Exception:  # noqa: BLE001 - a bug must not reach those who wait
            self._log.exception("jwks.fetch_crashed")
            self._failed("was not read, because of an error in the relay")
        else:
            self._succeeded(key_set, time.perf_counter() - started)
        finally:
            self._tried_at, self._fetching = self._clock(), None

    def _succeeded(self, key_set: KeySet, seconds: float) -> None:
        before, self._key_set, self._fetched_at = self._key_set, key_set, self._clock()
        self._metrics.fetches.labels("fetched").inc()
        is_new = before is None or [key.key_id for key in before.keys] != [key.key_id for key in key_set.keys]
        if is_new or self.problem is not None or (before is not None and before.ignored != key_set.ignored):
            log = self._log.warning if key_set.ignored else self._log.info
            log(
                "jwks.fetched",
                message="The relay uses the keys of the identity provider.",
                tables=self.names,
                keys=len(key_set.keys),
                ignored=key_set.ignored or None,
                seconds=round(seconds, 3),
            )
        self.problem = None

    def _failed(self, problem: str) -> None:
        self._metrics.fetches.labels("failed").inc()
        if problem != self.problem:
            self._log.error(
                "jwks.fetch_failed",
                message=f"The JWKS of the identity provider {problem}.",
                remedy="Check jwks_url of the table in RELAY_CLIENTS_FILE, and the network from the relay to it; "
                "'python -m service doctor' fetches it.",
                tables=self.names,
                keys_in_use_seconds=round(self.age_seconds) if self.has_keys else None,
            )
        self.problem = problem
