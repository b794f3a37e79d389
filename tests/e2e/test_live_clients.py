"""The checks of `make e2e-live`: what they accept, and what they reject."""

from array import array
from typing import Any, Final

import pytest

from service.simulator.audio import PCM16, tone
from tests.e2e.live_clients import checks
from tests.e2e.live_clients.clients import CLIENTS
from tests.e2e.live_clients.environments import EnvironmentUnavailable, WrongPackage, _run
from tests.e2e.live_clients.examples import connected, example
from tests.e2e.live_clients.outcome import ClientFailed, Outcome

VOICE: Final = array("h", [1 + at % 7_000 for at in range(24_000)]).tobytes()
SENT: Final = bytes(4_800) + VOICE + bytes(4_800)
WORDS: Final = " Polly hears every word (close_requested, 3.0 s)"
ENDED: Final[dict[str, Any]] = {
    "client": "node", "reason": "client_closed", "closed_reason": "close_requested", "usage_confirmed": True,
    "usage_seconds": 7.2, "duration_seconds": 7.3,
}  # fmt: skip
COUNTS: Final = {
    "realtime_relay_sessions_ended_total live client_closed": 1.0,
    "realtime_relay_live_final_usage_total confirmed": 1.0,
    "realtime_relay_admissions_total admitted": 1.0,
    "realtime_relay_live_start_seconds_count": 1.0,
}


def test_equal_voice_passes() -> None:
    """Silence around it may differ."""
    assert "24000 samples" in Outcome(SENT, bytes(9_600) + VOICE, WORDS).check()


@pytest.mark.parametrize(
    ("received", "output"),
    [
        (b"", WORDS),
        (VOICE[:1_000] + b"\1\1" + VOICE[1_002:], WORDS),
        (VOICE[:20_000] + VOICE[20_480:], WORDS),
        (VOICE[14_000:], WORDS),
        (VOICE + VOICE, WORDS),
        (VOICE, "(close_requested, 3.0 s)"),
    ],
    ids=["nothing", "one sample", "a gap", "the beginning is missing", "twice", "no transcript"],
)
def test_other_voice_or_no_transcript_fails(received: bytes, output: str) -> None:
    """Each difference is found."""
    with pytest.raises(ClientFailed):
        Outcome(SENT, received, output).check()


def test_one_session_with_confirmed_usage_passes() -> None:
    """The counts of one conversation."""
    checks.check_counts(COUNTS)
    assert "7.2 s billed" in checks.check_end(ENDED, "node")


def test_other_ending_and_events_are_expected_of_some() -> None:
    """A client that was killed, and one to which the model delegates."""
    commentary = "realtime_relay_events_total live client_to_upstream session.commentary.append"
    lost = {name.replace("client_closed", "client_lost"): value for name, value in COUNTS.items()}
    checks.check_counts(lost, "client_lost")
    checks.check_counts(COUNTS | {commentary: 1.0}, events=["session.commentary.append"])
    assert "billed" in checks.check_end(ENDED | {"reason": "client_lost"}, "node", "client_lost")
    for counts, reason, events in (
        (COUNTS, "client_lost", []),
        (COUNTS, "client_closed", ["session.commentary.append"]),
    ):
        with pytest.raises(ClientFailed):
            checks.check_counts(counts, reason, events)


def test_voice_ends_where_the_tone_of_the_simulator_begins() -> None:
    """What the model says of delegated work is no part of what was sent."""
    assert "24000 samples" in Outcome(SENT, VOICE + bytes(960) + tone(PCM16) * 2, WORDS).without_tone().check()


def test_client_delegation_is_the_example_with_both_blocks() -> None:
    """The program compiles."""
    (client,) = [client for client in CLIENTS if client.name == "livekit-delegation"]
    text = client.edit(connected(example(client.heading), 1, "token"))
    compile(text, "example.py", "exec")
    assert 'delegation="client"' in text
    assert "append_commentary" in text


@pytest.mark.parametrize(
    "change",
    [
        {"realtime_relay_sessions_ended_total live client_closed": 2.0},
        {"realtime_relay_sessions_ended_total live upstream_lost": 1.0},
        {"realtime_relay_live_final_usage_total unconfirmed": 1.0},
        {"realtime_relay_connection_failures_total session_start 1013 quota_exhausted": 1.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_any_other_count_fails(change: dict[str, float]) -> None:
    """A second count, another ending, an unconfirmed usage, a failure."""
    with pytest.raises(ClientFailed):
        checks.check_counts(COUNTS | change)


@pytest.mark.parametrize(
    "change",
    [
        {"client": "other"},
        {"reason": "client_lost"},
        {"closed_reason": "expired"},
        {"usage_confirmed": False},
        {"usage_seconds": 0.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_any_other_end_fails(change: dict[str, Any]) -> None:
    """Each field of the log line that is checked."""
    with pytest.raises(ClientFailed):
        checks.check_end(ENDED | change, "node")


def test_refused_start_is_one_failure_at_its_start() -> None:
    """Its log line and its count; a second count fails."""
    event = {"client": "node", "reason": "quota_exhausted", "phase": "session_start"}
    event["upstream_code"] = "credit_balance_exhausted"
    counted = {"realtime_relay_connection_failures_total session_start quota_exhausted": 1.0}

    checks.check_refusal(event, "node", counted)
    for wrong in (event | {"phase": "breaker"}, event | {"client": "other"}):
        with pytest.raises(ClientFailed):
            checks.check_refusal(wrong, "node", counted)
    with pytest.raises(ClientFailed):
        checks.check_refusal(event, "node", dict.fromkeys(counted, 2.0))


def test_refused_client_shows_the_reason() -> None:
    """And brings back no voice."""
    assert "quota_exhausted" in Outcome(SENT, b"", "quota_exhausted", 1).check_refusal("quota_exhausted")
    for outcome in (Outcome(SENT, b"", "Error 1008"), Outcome(SENT, VOICE, "quota_exhausted")):
        with pytest.raises(ClientFailed):
            outcome.check_refusal("quota_exhausted")


def test_secret_in_output_is_named() -> None:
    """The failure names the place."""
    with pytest.raises(ClientFailed, match="the log contains"):
        checks.check_secrets({"log": f"x {checks.KEY_CANARY}"}, checks.relay_secrets("token"))


def test_example_that_cannot_be_connected_is_rejected() -> None:
    """An unknown section, and an example without the placeholders."""
    with pytest.raises(LookupError):
        example("GPT-Live with a telephone")
    with pytest.raises(LookupError):
        connected("print()", 1, "token")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Could not find a version that satisfies the requirement", EnvironmentUnavailable),
        ("THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", WrongPackage),
    ],
)
def test_wrong_package_is_no_missing_registry(message: str, expected: type[Exception], tmp_path: Any) -> None:
    """A wrong hash fails the run; a registry that does not answer only skips the client."""
    with pytest.raises(expected, match="exited with 1"):
        _run(["sh", "-c", f"echo {message}; exit 1"], tmp_path)
