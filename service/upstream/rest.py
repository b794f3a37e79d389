"""GET /v1/models/{model}: the cheaper half of the health checks. A success proves the key, not that a session can open."""

import asyncio
from http import HTTPStatus

import aiohttp

from service.failures import Failure, Phase
from service.realtime.events import parse_error
from service.upstream import translate
from service.upstream.dial import DialProgress, http_get, read_body
from service.upstream.target import Target


async def fetch_model(session: aiohttp.ClientSession, target: Target, model: str, *, timeout_seconds: float) -> None:
    """Request the description of a model. Returns if the provider answers 200; raises Failure otherwise."""
    progress = DialProgress()
    url = target.model_url(model)
    headers = target.headers() | {"Accept": "application/json", "Accept-Encoding": "identity"}
    try:
        async with (
            asyncio.timeout(timeout_seconds),
            await http_get(session, target, url, headers, progress) as response,
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


def shows_key_is_valid(failure: Failure) -> bool:
    """Whether a refusal shows that the provider accepted the key: it checks the model after the key."""
    return failure.upstream_code == "model_not_found"


def is_inconclusive(failure: Failure) -> bool:
    """Whether a refusal leaves open if the key is valid: compatible servers need not serve /models."""
    return failure.reason in {"model_not_found", "call_not_found", "bad_reply", "redirect_refused"}
