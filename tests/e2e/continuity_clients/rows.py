"""The rows of the table of continuity that unmodified SDKs must pass: what happens, and what must be true of it."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from service.simulator import Behaviour, End, Fault, Moment, SimulatorOptions
from tests.e2e.continuity_clients import accounting
from tests.e2e.continuity_clients.call import Call, call
from tests.e2e.continuity_clients.clients import Client
from tests.e2e.continuity_clients.tap import Seen
from tests.e2e.live_clients.outcome import ClientFailed

_ROW_SECONDS: Final = 120.0  # only a hang lasts longer
_LONG_ANSWER: Final = 20.0
_CHARACTERS_A_SECOND: Final = 64_000  # PCM in base64
_TOLERANCE: Final = 8  # characters around the cut of a truncated answer


def options(**others: Any) -> SimulatorOptions:
    """A simulator whose answers count aloud, and that records everything."""
    return SimulatorOptions(**{"keep_conversations": True, "numbered_answers": True, "pace": 4.0} | others)


@dataclass(frozen=True, slots=True)
class Row:
    """One row. `script` is what happens during the call; it returns what was seen."""

    name: str
    script: Callable[[Call], Awaitable[str]]
    dials: tuple[Behaviour, ...] = ()
    options: SimulatorOptions = field(default_factory=options)
    connections: int | None = 2  # None: any number
    is_heard: bool = True  # every sample of every answer
    seconds: float = _ROW_SECONDS

    async def run(self, client: Client, environment: Path) -> str:
        """Hold the call; returns a summary. Raises ClientFailed."""
        async with call(client, environment, self.options, dials=self.dials) as running:
            try:
                async with asyncio.timeout(self.seconds):
                    seen = await self.script(running)
            except (TimeoutError, ClientFailed, AssertionError) as exc:
                problem = str(exc) or f"it did not end within {self.seconds:.0f} s"
            else:
                problem = ""
            # The records of the last connection are read while it lives: afterwards they are those at its end.
        findings = self._findings(running)
        if problem or findings:
            raise ClientFailed("\n    ".join([problem, *findings, *_trace(running)]))
        return seen

    def _findings(self, running: Call) -> list[str]:
        upstreams = running.upstreams
        findings = accounting.check_events(running.tap.seen)
        findings.expect(self.connections in (None, len(upstreams)), f"{len(upstreams)} upstream connections")
        findings.expect(running.tap.connections == 1, f"the client connected {running.tap.connections} times")
        findings.faults += running.problems()
        if upstreams:
            spoken = accounting.spoken(running.said, upstreams, accounting.known_items(running.tap.seen))
            remembered = accounting.remembered(running.said, running.last)
            received = accounting.received(running.tap.seen)
            answered = accounting.account(accounting.answered(upstreams, running.tap.seen), received)
            heard = accounting.account(received, running.answer)
            findings.expect(spoken.is_exact, f"spoken samples: {spoken}")
            findings.expect(remembered.is_exact, f"words that the last connection knows: {remembered}")
            findings.expect(answered.is_exact or not self.is_heard, f"samples of completed answers: {answered}")
            findings.expect(heard.is_exact or not self.is_heard, f"played samples: {heard}")
            findings.faults += accounting.check_memory(running.tap.seen, running.last).faults
        errors = [error for record in upstreams if record.conversation for error in record.conversation.errors]
        errors = [error for error in errors if error["code"] != "session_expired"]  # of one that has been replaced
        findings.expect(not errors, f"upstream refused: {errors}")
        return findings.faults


def _trace(running: Call) -> list[str]:
    """The last events, log lines and output of a call that failed."""
    began = running.tap.seen[0].at if running.tap.seen else 0.0
    shown = [seen for seen in running.tap.seen if "delta" not in seen.type and "append" not in seen.type][-25:]
    events = [f"{seen.at - began:7.3f} {'->' if seen.is_from_client else '<-'} {seen.type}" for seen in shown]
    log = [
        str(line)
        for line in running.log
        if str(line.get("event", "")).startswith(("session.", "upstream.", "internal")) or "exception" in line
    ][-6:]
    if dump := os.environ.get("CONTINUITY_DUMP"):
        Path(dump).write_text(
            "\n".join(f"{seen.at - began:.3f} {seen.is_from_client} {seen.event}" for seen in running.tap.seen)
        )
    return [*events, *log, *running.output.splitlines()[-12:]]


def completed(running: Call) -> list[Seen]:
    """The ends of the answers that were completed. One that the relay cut is not among them: it is asked for again."""
    done = running.tap.received("response.done")
    return [seen for seen in done if seen.event["response"]["status"] == "completed"]


async def answered(running: Call, count: int = 1) -> None:
    """Wait until `count` answers have been completed and played."""
    await running.tap.wait(lambda: len(completed(running)) >= count)
    done = completed(running)[count - 1]
    deltas = running.tap.received("response.output_audio.delta")
    own = [seen for seen in deltas if seen.event["response_id"] == done.event["response"]["id"]]
    characters = sum(len(seen.event["delta"]) for seen in own)
    ends_at = own[0].at + characters / _CHARACTERS_A_SECOND if own else done.at
    await asyncio.sleep(max(0.0, ends_at - time.monotonic()) + 0.3)


async def _next_turn(running: Call, tenths: int, answers: int) -> None:
    """Say something more, and hear the answer."""
    await running.say(tenths)
    await answered(running, answers)


async def _expire_when_idle(running: Call) -> str:
    await _next_turn(running, 10, 1)
    switch = await running.switched()  # a recovery, if the machine was too busy for the renewal
    late = await _response_time(running, 12)
    await answered(running, 2)
    gap = f"{switch['event']} ({switch['cause']}), gap {switch['gap_seconds']} s"
    return f"{gap}, then speech_started {late:.0f} ms after the first word"


async def _response_time(running: Call, tenths: int) -> float:
    """Say something more; returns the milliseconds from its first sample to `speech_started`."""
    known = len(running.tap.received("input_audio_buffer.speech_started"))
    began = time.monotonic()
    await running.say(tenths)
    started = await running.tap.wait_received("input_audio_buffer.speech_started", known + 1)
    return (started.at - began) * 1000


async def _interrupt_after_swap(running: Call) -> str:
    await running.say(10)
    await running.tap.wait_received("response.done")
    await running.switched()
    await asyncio.sleep(0.5)
    await running.say(10)
    await answered(running, 2)
    if not running.tap.sent("conversation.item.truncate"):
        raise ClientFailed("the client did not truncate the answer")
    cut = running.tap.sent("conversation.item.truncate")[0].event
    if not [
        seen for seen in running.tap.received("conversation.item.truncated") if seen.event["item_id"] == cut["item_id"]
    ]:
        raise ClientFailed("the truncation was not answered")
    record = running.last.conversation
    assert record is not None
    texts = [accounting.text_of(item) for item in record.items if item["id"] == cut["item_id"]]
    spoken = "".join(
        seen.event["delta"]
        for seen in running.tap.received("response.output_audio_transcript.delta")
        if seen.event["item_id"] == cut["item_id"]
    )
    expected = len(spoken) * cut["audio_end_ms"] / 1000 / _LONG_ANSWER
    if len(texts) != 1 or not spoken.startswith(texts[0]) or abs(len(texts[0]) - expected) > _TOLERANCE:
        raise ClientFailed(f"of {spoken!r} remain {texts!r}, although it was cut at {cut['audio_end_ms']} ms")
    return f"cut at {cut['audio_end_ms']} ms: {len(texts[0].split())} of {len(spoken.split())} words remain"


async def _lose_in_speech(running: Call) -> str:
    await _next_turn(running, 10, 1)
    running.begin(30)
    await running.tap.wait_received("input_audio_buffer.speech_started", 2)
    await asyncio.sleep(0.8)
    lost_at = time.monotonic()
    await running.simulator.drop_all(End.RESET)
    await running.end_of_speech()
    await answered(running, 2)
    next_event = next(seen for seen in running.tap.seen if seen.at > lost_at and not seen.is_from_client)
    return f"next event {next_event.type} {(next_event.at - lost_at) * 1000:.0f} ms after the loss"


async def _lose_in_answer(running: Call) -> str:
    await running.say(15)
    await answered(running)  # the one that was asked for again
    await _next_turn(running, 10, 2)
    done = [seen.event["response"]["status"] for seen in running.tap.received("response.done")]
    if done[1:] != ["completed", "completed"]:
        raise ClientFailed(f"the answers ended as {done}")
    created = running.tap.received("response.created")
    gap = (created[1].at - running.tap.received("response.done")[0].at) * 1000
    return f"answers {', '.join(done)}; the next one began {gap:.0f} ms after the end of the first"


def _drop(event: str, count: int = 1) -> Behaviour:
    return Behaviour(faults=(Fault(Moment.AFTER_SENT, End.RESET, event=event, count=count),))


ROWS: Final = (
    Row("R1", _expire_when_idle, (Behaviour(session_seconds=8),)),
    Row(
        "R5",
        _interrupt_after_swap,
        (Behaviour(session_seconds=10, answer_seconds=_LONG_ANSWER),),
        options(pace=20.0),
        is_heard=False,
    ),
    Row("L9", _lose_in_speech),
    Row("L11-before", _lose_in_answer, (_drop("response.created"),)),
    Row("L11-after", _lose_in_answer, (_drop("response.output_audio.delta", 3),)),
)
