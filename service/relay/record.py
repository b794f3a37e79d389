"""The record of an ended session: who, when, how much, and what it cost. Pure; it never holds words."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from service.realtime.events import Api
from service.realtime.pricing import uncached
from service.realtime.usage import ASSISTANT_AUDIO_MS_PER_TOKEN, USER_AUDIO_MS_PER_TOKEN, Tokens
from service.relay.session_info import SessionInfo
from service.relay.spent import Spent

VERSION: Final = 1


def record_of(
    info: SessionInfo,
    spent: Spent,
    *,
    reason: str,
    ended_at: float,
    duration_seconds: float,
    messages: tuple[int, int],
    summary: Mapping[str, object],
) -> dict[str, Any]:
    """The fields of the record. `ended_at` is in seconds since 1970; `messages` are those of the client and of upstream."""
    usage = spent.usage
    return {
        "version": VERSION,
        "record": info.session_id,
        "client": info.client,
        "user": info.user,
        "model": info.model,
        "api": info.api,
        "started_at": _time(ended_at - duration_seconds),
        "ended_at": _time(ended_at),
        "duration_seconds": round(duration_seconds, 3),
        "reason": reason,
        "messages": dict(zip(("client", "upstream"), messages, strict=True)),
        "input_audio_seconds": round(uncached(usage).audio * USER_AUDIO_MS_PER_TOKEN / 1000, 3),
        "output_audio_seconds": round(usage.output.audio * ASSISTANT_AUDIO_MS_PER_TOKEN / 1000, 3),
        "billed_seconds": round(spent.billed_seconds, 3),
        "usage_confirmed": _is_confirmed(info.api, spent, summary),
        "tokens": {
            "total": spent.tokens,
            "input": _by_modality(uncached(usage)),
            "cached_input": _by_modality(usage.cached),
            "output": _by_modality(usage.output),
        },
        "usd": spent.microusd / 1_000_000,
        "usd_is_complete": spent.is_priced,
    }


def _is_confirmed(api: Api, spent: Spent, summary: Mapping[str, object]) -> object:
    if api is Api.LIVE:
        return summary.get("usage_confirmed", True)
    return False if spent.is_estimated else None


def _by_modality(tokens: Tokens) -> dict[str, int]:
    return {"text": tokens.text, "audio": tokens.audio, "image": tokens.image}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
