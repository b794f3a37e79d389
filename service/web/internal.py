"""/metrics and /version, for the internal listener only."""

import asyncio
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CollectorRegistry, exposition

from service.telemetry.metrics import Metrics
from service.version import __version__


class InternalHandler:
    """What operators read."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._renderings: dict[str, asyncio.Future[bytes]] = {}  # under way, by content type

    def routes(self) -> list[web.RouteDef]:
        """The internal routes."""
        return [web.get("/metrics", self.metrics), web.get("/version", self.version)]

    async def metrics(self, request: web.Request) -> web.Response:
        """Prometheus text or OpenMetrics, as the scraper asks."""
        encode, content_type = exposition.choose_encoder(request.headers.get("Accept", ""))
        body = await self._render(encode, content_type)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _render(self, encode: Callable[[CollectorRegistry], bytes], content_type: str) -> bytes:
        """What is asked for in one turn of the loop is rendered once: it takes milliseconds in which no frame goes on."""
        rendering = self._renderings.get(content_type)
        if rendering is None:
            rendering = asyncio.ensure_future(self._render_soon(encode, content_type))
            self._renderings[content_type] = rendering
        return await asyncio.shield(rendering)

    async def _render_soon(self, encode: Callable[[CollectorRegistry], bytes], content_type: str) -> bytes:
        await asyncio.sleep(0)  # let the others of this turn come
        del self._renderings[content_type]  # whoever comes from here on gets newer figures
        return encode(self._metrics.registry)

    async def version(self, _request: web.Request) -> web.Response:
        """The version that runs."""
        return web.json_response({"service": "realtime-relay", "version": __version__})
