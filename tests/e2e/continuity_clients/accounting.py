"""Accounts for every spoken sample and every event of a call: what the client said and saw against what upstream recorded.

Pure. The voices count aloud (`service.simulator.numbered`): a turn is accounted by the numbers of its samples, and where it
was replayed as text by its words, one for each tenth of a second.
"""

import base64
import itertools
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.simulator import ConnectionRecord
from service.simulator.numbered import Ranges, sample_ranges, spoken_words
from tests.e2e.continuity_clients.tap import Seen

_ABOUT_ITEMS = (
    "conversation.item.done",
    "conversation.item.truncated",
    "conversation.item.deleted",
    "conversation.item.input_audio_transcription.completed",
    "conversation.item.input_audio_transcription.failed",
)
_OPEN_ENDED = ("response.created", "response.done")


@dataclass(frozen=True, slots=True)
class Account:
    """Samples or words of one direction."""

    expected: int
    lost: int
    doubled: int

    def __str__(self) -> str:
        return f"{self.expected} ({self.lost} lost, {self.doubled} doubled)"

    @property
    def is_exact(self) -> bool:
        """Whether each came exactly once."""
        return not self.lost and not self.doubled


@dataclass
class Findings:
    """What is wrong with a call; empty if nothing is."""

    faults: list[str] = field(default_factory=list)

    def expect(self, condition: object, fault: str) -> None:
        """Note the fault unless the condition is true."""
        if not condition:
            self.faults.append(fault)


def account(expected: Sequence[tuple[int, int]], found: Sequence[tuple[int, int]]) -> Account:
    """Compare ranges of sample numbers."""
    wanted, counted = sorted(expected), sorted(found)
    points = sorted({edge for pair in (*wanted, *counted) for edge in pair})
    total = lost = doubled = 0
    for first, end in itertools.pairwise(points):
        need = any(a <= first and end <= b for a, b in wanted)
        have = sum(a <= first and end <= b for a, b in counted)
        total += (end - first) * need
        lost += (end - first) * (need and not have)
        doubled += (end - first) * max(0, have - 1)
    return Account(total, lost, doubled)


def known_items(seen: Iterable[Seen]) -> frozenset[str]:
    """The items that the client knows."""
    added = (one.event["item"] for one in seen if not one.is_from_client and one.type == "conversation.item.added")
    return frozenset(str(item["id"]) for item in added)


def turns_of(upstreams: Sequence[ConnectionRecord], known: Container[str]) -> dict[str, Ranges]:
    """The audio turns of a conversation over all its connections, by item; a replayed turn is the turn of its item.

    `known`: the items that the client knows. A connection may be lost with a turn of which the client has not heard; the turn
    is then that of the next connection.
    """
    turns: dict[str, Ranges] = {}
    for record in upstreams:
        assert record.conversation is not None
        turns |= {
            turn.item_id: turn.samples for turn in record.conversation.turns if turn.samples and turn.item_id in known
        }
    return turns


def spoken(said: Sequence[tuple[int, int]], upstreams: Sequence[ConnectionRecord], known: Container[str]) -> Account:
    """The user's samples against the committed turns of all connections, each item counted once."""
    return account(said, [pair for ranges in turns_of(upstreams, known).values() for pair in ranges])


def received(seen: Sequence[Seen]) -> Ranges:
    """The samples of answers that reached the client."""
    deltas = [
        one.event["delta"] for one in seen if not one.is_from_client and one.type == "response.output_audio.delta"
    ]
    return sample_ranges(b"".join(map(base64.b64decode, deltas)))


def answered(upstreams: Sequence[ConnectionRecord], seen: Iterable[Seen]) -> list[tuple[int, int]]:
    """The samples of the answers that upstream completed, if the client saw them begin and not end as cut.

    Upstream can complete an answer whose events are still on their way when its connection is replaced. The client then
    sees nothing of it, or the end of an answer that was cut, and the answer is asked for again.
    """
    received = [one for one in seen if not one.is_from_client and one.type in _OPEN_ENDED]
    begun = {one.event["response"]["id"] for one in received}
    cut = {one.event["response"]["id"] for one in received if one.event["response"].get("status") == "cancelled"}
    return [
        response.samples
        for record in upstreams
        if record.conversation is not None
        for response in record.conversation.responses
        if response.samples is not None and response.status == "completed" and response.response_id in begun - cut
    ]


def remembered(said: Sequence[tuple[int, int]], last: ConnectionRecord) -> Account:
    """The user's words against those that the last connection knows, as audio or text."""
    assert last.conversation is not None
    turns = {turn.item_id: turn.samples for turn in last.conversation.turns}
    words = Counter[str]()
    for item in last.conversation.items:
        if item.get("role") == "user":
            samples = turns.get(str(item["id"]))
            words.update(spoken_words(samples) if samples else text_of(item).split())
    wanted = Counter(spoken_words(said))
    return Account(wanted.total(), (wanted - words).total(), sum(max(0, words[word] - 1) for word in wanted))


def text_of(item: dict[str, Any]) -> str:
    """Text and transcripts of an item."""
    parts: list[dict[str, Any]] = item.get("content") or []
    return " ".join(str(part.get("text") or part.get("transcript") or "") for part in parts)


def check_events(seen: Sequence[Seen], *, allowed_errors: tuple[str, ...] = ()) -> Findings:
    """Whether what a client received is one unbroken session: see invariants 2 and 5 of continuity."""
    findings = Findings()
    received = [one for one in seen if not one.is_from_client]
    created = sum(one.type == "session.created" for one in received)
    findings.expect(created == 1, f"{created} events session.created")
    own = sorted({one.type for one in received if one.type.startswith("relay.")})
    findings.expect(not own, f"events of the relay: {', '.join(own)}")
    errors = [one.event["error"] for one in received if one.type == "error"]
    bad = [
        f"{error.get('code')}: {error.get('message')}" for error in errors if error.get("code") not in allowed_errors
    ]
    findings.expect(not bad, f"error events: {bad}")
    _check_responses(received, findings)
    _check_items(received, findings)
    return findings


def _check_responses(received: Sequence[Seen], findings: Findings) -> None:
    counts = {
        kind: Counter(one.event["response"]["id"] for one in received if one.type == kind) for kind in _OPEN_ENDED
    }
    for kind, found in counts.items():
        twice = [name for name, count in found.items() if count > 1]
        findings.expect(not twice, f"{kind} more than once: {twice}")
    unended = counts["response.created"].keys() - counts["response.done"].keys()
    findings.expect(not unended, f"responses that did not end: {sorted(unended)}")
    open_responses = set[str]()
    for one in received:
        if one.type == "response.created":
            open_responses.add(one.event["response"]["id"])
        elif one.type == "response.done":
            open_responses.discard(one.event["response"]["id"])
        elif one.type.startswith("response."):
            name = one.event.get("response_id")
            findings.expect(name in open_responses, f"{one.type} of {name}, which is not open")


def _check_items(received: Sequence[Seen], findings: Findings) -> None:
    added = set[str]()
    for one in received:
        if one.type == "conversation.item.added":
            name = one.event["item"]["id"]
            findings.expect(name not in added, f"item {name} was added twice")
            added.add(name)
        elif one.type in _ABOUT_ITEMS:
            name = one.event.get("item_id") or one.event.get("item", {}).get("id")
            findings.expect(name in added, f"{one.type} of {name}, which was not added")


def check_memory(seen: Sequence[Seen], last: ConnectionRecord) -> Findings:
    """Whether the last connection has the client's items, in the client's order; unheard answers may be missing."""
    findings = Findings()
    known = list[str]()
    with_text = set[str]()
    for one in seen:
        if one.is_from_client:
            continue
        if one.type == "conversation.item.added":
            known.append(one.event["item"]["id"])
        elif one.type == "conversation.item.deleted":
            known = [name for name in known if name != one.event["item_id"]]
        elif one.type in ("response.output_audio_transcript.delta", "response.output_text.delta"):
            with_text.add(one.event["item_id"])
    assert last.conversation is not None
    has = [str(item["id"]) for item in last.conversation.items]
    roles = {
        one.event["item"]["id"]: one.event["item"].get("role") for one in seen if one.type == "conversation.item.added"
    }
    missing = [name for name in known if name not in has and (roles.get(name) != "assistant" or name in with_text)]
    findings.expect(not missing, f"items that the last connection lacks: {missing}")
    findings.expect(
        [name for name in known if name in has] == has, f"items of the last connection {has}, of the client {known}"
    )
    return findings
