"""What the relay must have recorded of one conversation: one session, one count, confirmed usage, no secret and no speech."""

import urllib.request
from collections.abc import Iterable
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.live_clients.outcome import WORDS, ClientFailed

KEY_CANARY: Final = "sk-sim-good-CANARY0key1234567890"
_ENDED: Final = "realtime_relay_sessions_ended_total"
_FINAL_USAGE: Final = "realtime_relay_live_final_usage_total"
_COUNTS: Final = {
    f"{_ENDED} live client_closed": 1.0,
    f"{_FINAL_USAGE} confirmed": 1.0,
    "realtime_relay_admissions_total admitted": 1.0,
    "realtime_relay_live_start_seconds_count": 1.0,
}
_MAY_NOT_GROW: Final = ("connection_failures_total", "live_events_refused_total", "incidents_total")


def counts(internal_url: str) -> tuple[str, dict[str, float]]:
    """The relay's metrics: as text, and by name and labels."""
    with urllib.request.urlopen(f"{internal_url}/metrics", timeout=60) as response:  # noqa: S310 - loopback
        text = response.read().decode()
    values = {
        " ".join((sample.name, *(value for _, value in sorted(sample.labels.items())))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    return text, values


def check_counts(before: dict[str, float], after: dict[str, float]) -> None:
    """Raises ClientFailed unless exactly one session was counted, as ended by its client with confirmed usage."""
    grown = {name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name, 0)}
    for name, expected in _COUNTS.items():
        if grown.get(name) != expected:
            raise ClientFailed(f"{name} grew by {grown.get(name, 0)}, not by {expected}")
    others = [name for name in grown if name.startswith((_ENDED, _FINAL_USAGE)) and name not in _COUNTS]
    others += [name for name in grown if any(word in name for word in _MAY_NOT_GROW)]
    if others:
        raise ClientFailed(f"the relay also counted {', '.join(others)}")


def check_end(event: dict[str, Any], name: str) -> str:
    """Check the log line `session.ended` of a client; returns a summary. Raises ClientFailed."""
    expected = {
        "client": name,
        "reason": "client_closed",
        "closed_reason": "close_requested",
        "usage_confirmed": True,
    }
    for key, value in expected.items():
        if event.get(key) != value:
            raise ClientFailed(f"session.ended has {key} {event.get(key)!r}, not {value!r}")
    if not 1 < event["usage_seconds"] <= event["duration_seconds"] + 1:
        raise ClientFailed(f"session.ended has usage_seconds {event['usage_seconds']}")
    return f"{event['usage_seconds']:.1f} s billed and confirmed"


def check_secrets(texts: dict[str, str], secrets: Iterable[str]) -> None:
    """Raises ClientFailed if a text contains a secret or the transcript."""
    for source, text in texts.items():
        for secret in secrets:
            if secret in text:
                raise ClientFailed(f"the {source} contains {secret!r}")


def relay_secrets(token: str) -> tuple[str, ...]:
    """What no output of the relay may contain."""
    return (KEY_CANARY, token, WORDS)
