"""GET /v1/models/{model}: the cheap half of a health check. It proves the key, not that a socket opens."""

import asyncio
from http import HTTPStatus

import aiohttp

from service.failures import Failure, Phase
from service.realtime.events import parse_error
from service.upstream import translate
from service.upstream.dial import DialProgress, read_body, request
from service.upstream.target import Target


async def fetch_model(session: aiohttp.ClientSession, target: Target, model: str, *, timeout_seconds: float) -> None:
    """Ask for a model's description. Returns if the provider gives it; raises Failure otherwise."""
    progress = DialProgress()
    url = target.model_url(model)
    headers = target.headers() | {"Accept": "application/json", "Accept-Encoding": "identity"}
    try:
        async with (
            asyncio.timeout(timeout_seconds),
            await request(session, target, url, headers, progress) as response,
        ):
            if response.status == HTTPStatus.OK:
                return
            error = parse_error(await read_body(response))
            raise translate.from_status(response.status, error, response.headers, is_call=False)
    except (aiohttp.ClientError, OSError, ValueError) as exc:  # TimeoutError is an OSError
        phase = progress.phase if progress.phase is not Phase.FIRST_EVENT else Phase.UPGRADE
        raise translate.from_exception(
            exc, phase, tls=url.scheme == "https", proxied=target.proxy is not None
        ) from None


def proves_the_key(failure: Failure) -> bool:
    """Whether a refusal shows that the key was taken: the provider looks at the model after the key."""
    return failure.upstream_code == "model_not_found"


def says_nothing_of_the_key(failure: Failure) -> bool:
    """Whether a refusal leaves the key unjudged: compatible servers may not serve /models at all."""
    return failure.reason in {"model_not_found", "call_not_found", "bad_reply", "redirect_refused"}
