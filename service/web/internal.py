"""/metrics and /version, which only the internal listener serves."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry, Metric, exposition
from prometheus_client.registry import Collector

from service.telemetry.metrics import Metrics
from service.version import __version__

Encode = Callable[[Collector], bytes]
_EOF: Final = b"# EOF\n"  # ends OpenMetrics, and what is rendered of no metric
RENDERED_AT_ONCE_SECONDS: Final = 0.001


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
        self._renderings: dict[str, asyncio.Future[bytes]] = {}  # in progress, by content type

    def routes(self) -> list[web.RouteDef]:
        """Return the internal routes."""
        return [web.get("/metrics", self.metrics), web.get("/version", self.version)]

    async def metrics(self, request: web.Request) -> web.Response:
        """Respond with the metrics in the Prometheus text format or OpenMetrics, as the Accept header asks."""
        accept = request.headers.get("Accept", "")
        try:
            encode, content_type = exposition.choose_encoder(accept if accept.isascii() else "")
        except (TypeError, ValueError):  # a version that is no number
            encode, content_type = exposition.choose_encoder("")
        body = await self._render(encode, content_type)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _render(self, encode: Encode, content_type: str) -> bytes:
        """Render once for all requests of one event loop iteration."""
        rendering = self._renderings.get(content_type)
        if rendering is None:
            rendering = asyncio.ensure_future(self._render_later(encode, content_type))
            self._renderings[content_type] = rendering
        return await asyncio.shield(rendering)

    async def _render_later(self, encode: Encode, content_type: str) -> bytes:
        """Render metric by metric, and let the event loop go on in between: all of them take it about ten milliseconds."""
        await asyncio.sleep(0)  # let the other requests of this iteration join
        del self._renderings[content_type]  # later requests get a new rendering
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
