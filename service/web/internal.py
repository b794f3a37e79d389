"""/metrics and /version, which only the internal listener serves."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, Metric, exposition
from prometheus_client.registry import Collector

from service.telemetry.metrics import Metrics
from service.version import __version__

Encode = Callable[[Collector], bytes]
_EOF: Final = b"# EOF\n"  # ends OpenMetrics, and what is rendered of no metric
RENDERED_AT_ONCE_SECONDS: Final = 0.001
MAX_ACCEPT_CHARACTERS: Final = 1024
"""A longer `Accept` counts as none: 60 kB of commas take the parser 35 ms. That of Prometheus has 350."""
_CONTENT_TYPES: Final = frozenset(
    exposition.choose_encoder(f"{name};version={version}{escaping}")[1]
    for name, versions in {"text/plain": ("0.0.4", "1.0.0"), "application/openmetrics-text": ("", "1.0.0")}.items()
    for version in versions
    for escaping in ("", *(f";escaping={name}" for name in ("allow-utf-8", "underscores", "dots", "values")))
)
"""What can be asked for. The parser takes any version, and repeats it: requests could ask for any number of renderings."""


class _One(Collector):
    """A registry of one metric, as encoders read it."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        """The metric."""
        yield self._metric


class InternalHandler:
    """Handles GET /metrics and GET /version."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._renderings: dict[str, asyncio.Future[bytes]] = {}  # that wait for their turn, by content type
        self._turn = asyncio.Lock()

    def routes(self) -> list[web.RouteDef]:
        """Return the internal routes."""
        return [web.get("/metrics", self.metrics), web.get("/version", self.version)]

    async def metrics(self, request: web.Request) -> web.Response:
        """Respond with the metrics in the Prometheus text format or OpenMetrics, as the Accept header asks."""
        encode, content_type = _encoder(request.headers.get("Accept", ""))
        body = await self._render(encode, content_type)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _render(self, encode: Encode, content_type: str) -> bytes:
        """Render once for all requests that wait for a rendering with this content type."""
        rendering = self._renderings.get(content_type)
        if rendering is None:
            rendering = asyncio.ensure_future(self._render_later(encode, content_type))
            self._renderings[content_type] = rendering
        return await asyncio.shield(rendering)

    async def _render_later(self, encode: Encode, content_type: str) -> bytes:
        """Render metric by metric, and let the event loop go on in between: all of them take it about ten milliseconds.

        One rendering at a time, of any content type: each of several would take its part of every iteration.
        """
        await asyncio.sleep(0)  # let the other requests of this iteration join
        async with self._turn:
            del self._renderings[content_type]  # later requests get a new rendering
            return await self._render_parts(encode)

    async def _render_parts(self, encode: Encode) -> bytes:
        parts: list[bytes] = []
        yielded_at = time.perf_counter()
        for metric in self._metrics.registry.collect():
            parts.append(encode(_One(metric)).removesuffix(_EOF))
            if time.perf_counter() - yielded_at > RENDERED_AT_ONCE_SECONDS:
                await asyncio.sleep(0)
                yielded_at = time.perf_counter()
        return b"".join(parts) + encode(CollectorRegistry())

    async def version(self, _request: web.Request) -> web.Response:
        """Respond with the version of the running relay."""
        return web.json_response({"service": "realtime-relay", "version": __version__})


def _encoder(accept: str) -> tuple[Encode, str]:
    """The encoder and content type for an `Accept` header; the text format for one that asks for nothing known."""
    if accept.isascii() and len(accept) <= MAX_ACCEPT_CHARACTERS:
        with suppress(TypeError, ValueError):  # a version that is no number
            encode, content_type = exposition.choose_encoder(accept)
            if content_type in _CONTENT_TYPES:
                return encode, content_type
    return exposition.choose_encoder("")
