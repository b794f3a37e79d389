"""GET /v1/models/{model}: the cheaper half of the health checks. A success proves the key, not that a session can open."""

from http import HTTPStatus
from typing import Final

import aiohttp

from service.deadlines import Deadline
from service.failures import Failure, Phase
from service.upstream import hints, translate
from service.upstream.dial import DialProgress, http_get, read_body
from service.upstream.target import Target

_INCONCLUSIVE: Final = frozenset({
    "model_not_found", "call_not_found", "bad_reply", "redirect_refused", "wrong_base_url", "blocked_before_api"
})  # fmt: skip


async def fetch_model(session: aiohttp.ClientSession, target: Target, model: str, *, timeout_seconds: float) -> None:
    """Request the description of a model. Returns if the provider answers 200; raises Failure otherwise."""
    try:
        await _fetch_model(session, target, model, timeout_seconds)
    except Failure as failure:
        hints.add_hint(failure, target)
        raise


async def _fetch_model(session: aiohttp.ClientSession, target: Target, model: str, timeout_seconds: float) -> None:
    progress = DialProgress()
    url = target.model_url(model)
    headers = target.headers() | {"Accept": "application/json", "Accept-Encoding": "identity"}
    try:
        async with (
            Deadline(timeout_seconds),
            await http_get(session, target, url, headers, progress) as response,
        ):
            if response.status == HTTPStatus.OK:
                return
            raise translate.from_status(
                response.status,
                None,
                response.headers,
                is_call=False,
                body=await read_body(response),
                facts=hints.facts_of(target, url.path),
            )
    except (aiohttp.ClientError, OSError, ValueError) as exc:  # TimeoutError is an OSError
        phase = progress.phase if progress.phase is not Phase.FIRST_EVENT else Phase.UPGRADE
        raise translate.from_exception(exc, phase, tls=url.scheme == "https", proxy=target.proxy) from None


def shows_key_is_valid(failure: Failure) -> bool:
    """Whether a refusal shows that the provider accepted the key: it checks the model after the key."""
    return failure.upstream_code == "model_not_found"


def is_inconclusive(failure: Failure) -> bool:
    """Whether a refusal leaves open if the key is valid: compatible servers need not serve /models."""
    return failure.reason in _INCONCLUSIVE
