"""/metrics and /version, for the internal listener only."""

from aiohttp import web
from prometheus_client import exposition

from service.telemetry.metrics import Metrics
from service.version import __version__


class Internal:
    """What operators read."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def routes(self) -> list[web.RouteDef]:
        """The internal routes."""
        return [web.get("/metrics", self.metrics), web.get("/version", self.version)]

    async def metrics(self, request: web.Request) -> web.Response:
        """Prometheus text or OpenMetrics, as the scraper asks."""
        encode, content_type = exposition.choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._metrics.registry), headers={"Content-Type": content_type})

    async def version(self, _request: web.Request) -> web.Response:
        """The version that runs."""
        return web.json_response({"service": "realtime-relay", "version": __version__})
