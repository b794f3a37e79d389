"""Metrics of conversations, through the whole relay and the simulator: tokens, cost, latency, interruptions."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from service.realtime.pricing import cost_usd
from service.realtime.usage import parse_usage
from service.simulator import SimulatorOptions
from tests.support.harness import Relay, eventually, running_relay, simulated_relay
from tests.support.raw_websocket_server import CREATED, ServerConnection, raw_upstream
from tests.support.simulator_client import RealtimeClient, silence, speech

PREFIX = "realtime_relay"
QUICK = SimulatorOptions(pace=0, rate_limits_delay_seconds=0.001)
RESPONSE_DELAY_SECONDS = 0.3


@asynccontextmanager
async def caller(relay: Relay, model: str = "gpt-realtime-2025-08-28") -> AsyncIterator[RealtimeClient]:
    """Open a session through the relay and read its first event."""
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{relay.url}/v1/realtime?model={model}", max_msg_size=0) as ws,
    ):
        found = RealtimeClient(ws)
        assert (await found.next_event())["type"] == "session.created"
        yield found


def tokens(relay: Relay, model: str) -> dict[tuple[str, str], float]:
    """The tokens counted for a model, by kind and modality, without those that are 0."""
    name = f"{PREFIX}_tokens_total"
    samples = [sample for family in relay.app.metrics.registry.collect() for sample in family.samples]
    return {
        (sample.labels["kind"], sample.labels["modality"]): sample.value
        for sample in samples
        if sample.name == name and sample.labels["model"] == model and sample.value
    }


async def test_response_is_counted_by_its_usage() -> None:
    """Tokens by kind and modality, cost by the model's family, responses by status, and the remaining rate limit."""
    async with simulated_relay(QUICK) as relay, caller(relay) as client:
        done = (await client.speak(1_000, "response.done"))[-1]
        limits = (await client.read_until("rate_limits.updated"))[-1]["rate_limits"][0]

        usage = parse_usage(done["response"]["usage"])
        expected = {
            ("input", "text"): usage.input.text - usage.cached.text,
            ("input", "audio"): usage.input.audio - usage.cached.audio,
            ("cached_input", "text"): usage.cached.text,
            ("cached_input", "audio"): usage.cached.audio,
            ("output", "text"): usage.output.text,
            ("output", "audio"): usage.output.audio,
        }
        await eventually(lambda: not math.isnan(relay.metric(f"{PREFIX}_rate_limit_remaining_ratio", limit="tokens")))
        assert {kind: count for kind, count in expected.items() if count} == tokens(relay, "gpt-realtime")
        assert cost_usd("gpt-realtime", usage) == pytest.approx(
            relay.metric(f"{PREFIX}_estimated_cost_usd_total", model="gpt-realtime")
        )
        assert 1 == relay.metric(f"{PREFIX}_responses_total", status="completed")
        assert limits["remaining"] / limits["limit"] == relay.metric(
            f"{PREFIX}_rate_limit_remaining_ratio", limit="tokens"
        )
        assert 0 == relay.metric(f"{PREFIX}_unpriced_responses_total")


async def test_response_latency_is_measured_once_per_turn() -> None:
    """From the end of speech to the first audio, and from the request to the first delta."""

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        async for message in connection.messages():
            if b"response.create" in message:
                connection.send(b'{"type":"response.created"}')
                await asyncio.sleep(RESPONSE_DELAY_SECONDS)  # the latency that is measured
                for _ in range(3):
                    connection.send(b'{"type":"response.output_audio.delta","delta":"AAAA"}')
                connection.send(b'{"type":"response.done","response":{"status":"completed"}}')

    async with (
        raw_upstream(script) as upstream,
        running_relay(OPENAI_BASE_URL=upstream.url, RELAY_MODEL="probe") as relay,
        caller(relay, "scripted") as client,
    ):
        for _ in range(2):
            await client.send("input_audio_buffer.commit")
            await client.send("response.create")
            await client.read_until("response.done")
        for name in ("speech_to_audio_seconds", "response_first_delta_seconds"):
            assert 2 == relay.metric(f"{PREFIX}_{name}_count")
            assert 1.9 * RESPONSE_DELAY_SECONDS < relay.metric(f"{PREFIX}_{name}_sum") < 2 * RESPONSE_DELAY_SECONDS + 1
        assert 2 == relay.metric(f"{PREFIX}_unpriced_responses_total")  # no usage came with them


async def test_turn_detection_starts_latency_at_speech_stopped() -> None:
    """With the provider's own turn detection; speech during a response is counted as an interruption."""
    async with (
        simulated_relay(SimulatorOptions(pace=2, rate_limits_delay_seconds=0.001)) as relay,
        caller(relay) as client,
    ):
        await client.append_audio(speech(600) + silence(700))
        await client.read_until("response.output_audio.delta")
        assert 1 == relay.metric(f"{PREFIX}_speech_to_audio_seconds_count")
        assert 0 == relay.metric(f"{PREFIX}_response_first_delta_seconds_count")
        await client.append_audio(speech(600))
        await client.read_until("response.done")

        assert 1 == relay.metric(f"{PREFIX}_interruptions_total", reason="turn_detected")
        assert 1 == relay.metric(f"{PREFIX}_responses_total", status="cancelled")


async def test_model_without_a_price_is_counted_as_unpriced() -> None:
    """Its tokens have the model label `other`; its name appears in no metric."""
    options = SimulatorOptions(pace=0, models=QUICK.models | {"my-deployment"})
    async with simulated_relay(options) as relay, caller(relay, "my-deployment") as client:
        await client.update_session(output_modalities=["text"])
        await client.send("response.create")
        await client.read_until("response.done")

        assert tokens(relay, "other")
        assert 1 == relay.metric(f"{PREFIX}_unpriced_responses_total")
        assert "my-deployment" not in relay.used_series()


async def test_time_to_first_event_and_limits_are_exported() -> None:
    """The time runs from the client's request to the first event; limits are exported beside their use."""
    async with simulated_relay(QUICK, RELAY_MAX_SESSIONS="7", RELAY_MAX_DIALS="5") as relay, caller(relay):
        assert 1 == relay.metric(f"{PREFIX}_time_to_first_event_seconds_count", upstream="compatible")
        assert 0 < relay.metric(f"{PREFIX}_time_to_first_event_seconds_sum", upstream="compatible") < 60
        assert (7, 1) == (relay.metric(f"{PREFIX}_sessions_limit"), relay.metric(f"{PREFIX}_sessions_active"))
        assert (5, 0) == (relay.metric(f"{PREFIX}_dials_limit"), relay.metric(f"{PREFIX}_dials_active"))
        assert relay.metric(f"{PREFIX}_memory_limit_bytes") > 0


def failing_checks(relay: Relay) -> list[Any]:
    """The checks and reasons whose series is 1."""
    name = f"{PREFIX}_health_check_reason"
    samples = [sample for family in relay.app.metrics.registry.collect() for sample in family.samples]
    return [tuple(sample.labels.values()) for sample in samples if sample.name == name and sample.value]


async def test_health_check_reason_is_exported_while_a_check_fails() -> None:
    """The reason of a failing check is 1; all others are 0, and all are 0 when the checks pass."""
    async with simulated_relay(SimulatorOptions(pace=0, scenario="quota-exhausted"), OPENAI_API_KEY="sk-x") as relay:
        await eventually(lambda: ("handshake", "quota_exhausted") in failing_checks(relay))
        relay.app.monitor.handshake.reset()
        relay.app.monitor.key.reset()
        relay.app.monitor._publish()
        assert [] == failing_checks(relay)
