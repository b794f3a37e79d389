"""/metrics and /version, which only the internal listener serves."""

import asyncio
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CollectorRegistry, exposition

from service.telemetry.metrics import Metrics
from service.version import __version__


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

    async def _render(self, encode: Callable[[CollectorRegistry], bytes], content_type: str) -> bytes:
        """Render once for all requests of one event loop iteration: rendering blocks the loop for milliseconds."""
        rendering = self._renderings.get(content_type)
        if rendering is None:
            rendering = asyncio.ensure_future(self._render_later(encode, content_type))
            self._renderings[content_type] = rendering
        return await asyncio.shield(rendering)

    async def _render_later(self, encode: Callable[[CollectorRegistry], bytes], content_type: str) -> bytes:
        await asyncio.sleep(0)  # let the other requests of this iteration join
        del self._renderings[content_type]  # later requests get a new rendering
        return encode(self._metrics.registry)

    async def version(self, _request: web.Request) -> web.Response:
        """Respond with the version of the running relay."""
        return web.json_response({"service": "realtime-relay", "version": __version__})
