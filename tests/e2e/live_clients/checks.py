"""What the relay must have recorded of one conversation: one session, one count, confirmed usage, no secret and no speech."""

import urllib.request
from collections.abc import Iterable
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.live_clients.outcome import WORDS, ClientFailed

KEY_CANARY: Final = "sk-sim-good-CANARY0key1234567890"
DELEGATING_KEY: Final = "sk-sim-live-delegate-CANARY2key4567890"
REFUSED_KEY: Final = "sk-sim-quota-exhausted-CANARY1key4567890"
REFUSAL: Final = "quota_exhausted"
REFUSAL_CODE: Final = "credit_balance_exhausted"  # the provider's
_ENDED: Final = "realtime_relay_sessions_ended_total"
_FINAL_USAGE: Final = "realtime_relay_live_final_usage_total"
_COUNTS: Final = {
    f"{_FINAL_USAGE} confirmed": 1.0,
    "realtime_relay_admissions_total admitted": 1.0,
    "realtime_relay_live_start_seconds_count": 1.0,
}
_MUST_BE_ZERO: Final = ("connection_failures_total", "live_events_refused_total", "incidents_total")


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


def check_counts(values: dict[str, float], reason: str = "client_closed", events: Iterable[str] = ()) -> None:
    """Raises ClientFailed unless exactly one session was counted, with this ending, confirmed usage, and these events."""
    expected_counts = _COUNTS | {f"{_ENDED} live {reason}": 1.0}
    for event in events:
        if not values.get(f"realtime_relay_events_total live client_to_upstream {event}"):
            raise ClientFailed(f"the relay forwarded no {event}")
    for name, expected in expected_counts.items():
        if values.get(name) != expected:
            raise ClientFailed(f"{name} is {values.get(name, 0)}, not {expected}")
    counted = [name for name, value in values.items() if value]
    others = [name for name in counted if name.startswith((_ENDED, _FINAL_USAGE)) and name not in expected_counts]
    others += [name for name in counted if any(word in name for word in _MUST_BE_ZERO)]
    if others:
        raise ClientFailed(f"the relay also counted {', '.join(others)}")


def check_end(event: dict[str, Any], name: str, reason: str = "client_closed") -> str:
    """Check the log line `session.ended` of a client; returns a summary. Raises ClientFailed."""
    expected = {
        "client": name,
        "reason": reason,
        "closed_reason": "close_requested",
        "usage_confirmed": True,
    }
    for key, value in expected.items():
        if event.get(key) != value:
            raise ClientFailed(f"session.ended has {key} {event.get(key)!r}, not {value!r}")
    if not 0.5 < event["usage_seconds"] <= event["duration_seconds"] + 1:
        raise ClientFailed(f"session.ended has usage_seconds {event['usage_seconds']}")
    return f"{event['usage_seconds']:.1f} s billed and confirmed"


def check_refusal(event: dict[str, Any], name: str, values: dict[str, float]) -> None:
    """Raises ClientFailed unless the log line `upstream.connect_failed` and the counts are those of one refused start."""
    expected = {
        "client": name,
        "reason": REFUSAL,
        "phase": "session_start",
        "upstream_code": "credit_balance_exhausted",
    }
    for key, value in expected.items():
        if event.get(key) != value:
            raise ClientFailed(f"upstream.connect_failed has {key} {event.get(key)!r}, not {value!r}")
    failures = {name: value for name, value in values.items() if "connection_failures_total" in name and value}
    if sum(failures.values()) != 1 or not all(REFUSAL in name for name in failures):
        raise ClientFailed(f"the relay counted {failures}")


def check_secrets(texts: dict[str, str], secrets: Iterable[str]) -> None:
    """Raises ClientFailed if a text contains a secret or the transcript."""
    for source, text in texts.items():
        for secret in secrets:
            if secret in text:
                raise ClientFailed(f"the {source} contains {secret!r}")


def relay_secrets(token: str) -> tuple[str, ...]:
    """What no output of the relay may contain."""
    return (KEY_CANARY, DELEGATING_KEY, REFUSED_KEY, token, WORDS)
