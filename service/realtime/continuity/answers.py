"""The answers that upstream has begun or owes, and how much of them the client has got. Pure."""

from collections.abc import Container, Mapping, Sequence
from typing import Any, Final

from service.realtime.continuity import kept
from service.realtime.continuity.audio_length import PCM, AudioFormat, delta_envelope, deltas_ms
from service.realtime.continuity.journal import UNANSWERED_SECONDS, Journal
from service.realtime.continuity.journal_entries import Entry
from service.realtime.continuity.kept import body_of, text
from service.realtime.continuity.mirror_items import content_parts
from service.realtime.continuity.open_responses import (
    AUDIO_PARTS,
    CutAnswer,
    NewEventId,
    OpenResponse,
    Output,
    is_outside_conversation,
)
from service.realtime.events import parse_object
from service.realtime.values import child

_MAX_OPEN: Final = 32
_MAX_DELTAS: Final = 128  # that are kept as they came


class Answers:
    """See the head of this file. An answer is owed to a turn that upstream committed, until its response begins."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._responses: dict[str, OpenResponse] = {}
        self._owed: list[float] = []  # since when
        self._last_output: Output | None = None
        self._deltas: list[bytes] = []  # of open responses; needed only if one is cut
        self._deltas_bytes = 0
        self.audio_format: AudioFormat = PCM
        self.played_until = 0.0
        """When the user has heard all of it, at the earliest."""

    @property
    def is_open(self) -> bool:
        """Whether a response is active or owed."""
        return bool(self._responses or self._owed)

    @property
    def size(self) -> int:
        """The bytes that are kept."""
        return self._deltas_bytes + sum(response.size for response in self._responses.values())

    def owe(self, now: float) -> None:
        """Note a turn that upstream answers by itself, unless a response is active in the conversation."""
        if not any(response.in_conversation for response in self._responses.values()):
            self._owed.append(now)

    def trim(self, now: float) -> None:
        """Forget answers that are owed for so long that none will come."""
        if self._owed:
            self._owed = [since for since in self._owed if since > now - UNANSWERED_SECONDS]

    def cancel(self, response_id: str) -> None:
        """Note that the client cancels a response, or without an id that of the conversation."""
        for response in self._responses.values():
            if response_id == response.response_id or (not response_id and response.in_conversation):
                response.is_cancelled = True

    def stop_playing(self, now: float) -> None:
        """Note that the client plays no more of what it has got."""
        self.played_until = min(self.played_until, now)

    def audio_passed(self, events: int, size: int, now: float, item_id: str = "") -> None:
        """Count audio of an item, without its id of the one that is being answered."""
        output = self.output(item_id) if item_id else self._last_output
        if output is not None:
            milliseconds = deltas_ms(events, size, output.envelope, self.audio_format)
            output.audio_ms += milliseconds
            self.played_until = max(self.played_until, now) + milliseconds / 1000

    # -- responses ----------------------------------------------------------------------------------------------------

    def created(self, payload: bytes, body: Mapping[str, Any]) -> None:
        """A response begins: the one that is owed, or the one that the client requested."""
        response = child(body, "response")
        is_outside = response.get("conversation_id", "") is None
        request = self._request_of(response, is_outside=is_outside)
        if request is not None:
            self._journal.resolve(request)
        elif self._owed and not is_outside:
            self._owed.pop(0)
        response_id = text(response.get("id"))
        while len(self._responses) >= _MAX_OPEN:  # some servers never end a response
            del self._responses[next(iter(self._responses))]
        self._responses[response_id] = OpenResponse(response_id, payload, request.raw if request else None)

    def _request_of(self, response: Mapping[str, Any], *, is_outside: bool) -> Entry | None:
        """The client's request that a response answers, by conversation and metadata; upstream answers a turn first."""
        requests = [entry for entry in self._journal.events if entry.kind == kept.RESPONSE_CREATE and entry.is_sent]
        if "conversation_id" in response:
            requests = [entry for entry in requests if is_outside_conversation(entry.raw) is is_outside]
        metadata = response.get("metadata") or None
        if not requests or (self._owed and not metadata and not is_outside):
            return None
        same = [
            entry
            for entry in requests
            if (child(body_of(entry.raw, masked=True), "response").get("metadata") or None) == metadata
        ]
        return (same or requests)[0]

    def is_text(self, response: Mapping[str, Any], *, is_spoken: bool) -> bool:
        """Whether a response that ends has text only, although the client wants speech, as by default if `is_spoken`."""
        ended = self._responses.get(text(response.get("id")))
        if ended is None or response.get("status") != "completed":
            return False
        request = child(body_of(ended.request, masked=True), "response") if ended.request else {}
        wanted = request.get("output_modalities")
        if not ("audio" in wanted if isinstance(wanted, list) else is_spoken):
            return False
        outputs = response.get("output")
        items = [item for item in (outputs if isinstance(outputs, list) else ()) if isinstance(item, Mapping)]
        kinds = {text(part.get("type")) for item in items for part in content_parts(item)}
        return bool(kinds) and not kinds & AUDIO_PARTS

    def done(self, body: Mapping[str, Any], now: float) -> list[Output]:
        """A response ends; returns its items that upstream has not ended."""
        response = child(body, "response")
        ended = self._responses.get(text(response.get("id")))
        self._distribute_deltas()
        self._responses.pop(text(response.get("id")), None)
        self._find_last_output()
        if response.get("status") == "cancelled":
            is_outside = ended is not None and not ended.in_conversation
            if not is_outside:
                self.stop_playing(now)
            self._cancelled(response, is_outside=is_outside)
        return [output for output in ended.outputs.values() if not output.done] if ended is not None else []

    def _find_last_output(self) -> None:
        """Of the responses that go on, the item whose audio comes."""
        outputs = [output for response in self._responses.values() for output in response.outputs.values()]
        if self._last_output not in outputs:
            self._last_output = next((one for one in reversed(outputs) if one.is_spoken and not one.done), None)

    def _cancelled(self, response: Mapping[str, Any], *, is_outside: bool) -> None:
        """Take up what a cancelled response says of the client's own cancellation, which may still be under way.

        Where the user has interrupted it, it says nothing: what was said before the cancellation may not have arrived.
        """
        reason = text(child(response, "status_details").get("reason"))
        cancel = self._journal.first(kept.RESPONSE_CANCEL, text(response.get("id")))
        if cancel is None and not is_outside:
            cancel = self._journal.first(kept.RESPONSE_CANCEL, "")
        if cancel is None or reason == "turn_detected":
            return
        if reason == "client_cancelled":
            self._journal.resolve(cancel)
        else:
            self._journal.remove(cancel)

    # -- their items --------------------------------------------------------------------------------------------------

    def output_added(self, payload: bytes, body: Mapping[str, Any], *, in_conversation: bool) -> None:
        """A response has another item."""
        response = self._responses.get(text(body.get("response_id")))
        item_id = text(child(body, "item").get("id"))
        if response is not None:
            output = Output(item_id, payload, delta_envelope(payload, response.response_id, item_id))
            output.in_conversation = in_conversation
            response.outputs[item_id] = output
            if self._last_output is None or self._last_output.done:
                self._last_output = output

    def part_added(self, output: Output, payload: bytes, *, is_audio: bool) -> None:
        """An item has another part. The audio that follows is of the last one that has audio."""
        output.parts.append(payload)
        if is_audio:
            self._last_output = output

    def output(self, item_id: str) -> Output | None:
        """The item with an id, if its response is open."""
        for response in self._responses.values():
            if item_id in response.outputs:
                return response.outputs[item_id]
        return None

    def delta(self, payload: bytes) -> None:
        """Keep a part of a transcript, or of a text."""
        if self._responses:
            self._deltas.append(payload)
            self._deltas_bytes += len(payload)
            if len(self._deltas) > _MAX_DELTAS:
                self._distribute_deltas()

    def text_of(self, output: Output) -> str:
        """What has arrived of the transcript, or of the text, of an item."""
        self._distribute_deltas()
        return output.text

    def _distribute_deltas(self) -> None:
        for delta in map(parse_object, self._deltas):
            output = self.output(text(delta.get("item_id")))
            if output is not None and not output.done:
                output.text += text(delta.get("delta"))
        self._deltas, self._deltas_bytes = [], 0

    # -- upstream is lost ---------------------------------------------------------------------------------------------

    def end_all(self, new_id: NewEventId, done: Container[str]) -> tuple[list[bytes], list[CutAnswer], list[Output]]:
        """End what is open; `done`: items that are done in the conversation.

        Returns the events for the client, the answers, and their items. In the conversation one is wanted at most.
        """
        self._distribute_deltas()
        events: list[bytes] = []
        cut: list[CutAnswer] = []
        outputs: list[Output] = []
        for response in self._responses.values():
            events += response.ends(new_id, done)
            outputs += response.outputs.values()
            cut.append(response.cut())
        if self._owed:
            cut.append(CutAnswer("", None, is_outside=False, is_wanted=True))
        self._responses, self._owed, self._last_output, self.played_until = {}, [], None, 0.0
        outside = [answer for answer in cut if answer.is_outside]
        return (
            events,
            [*outside, *[answer for answer in cut if answer.is_wanted and not answer.is_outside][-1:]],
            outputs,
        )


def asked_again(journal: Journal, cut: Sequence[CutAnswer]) -> list[bytes | None]:
    """Return the requests of answers that a loss has cut; None: of one that upstream gives by itself.

    The conversation's is not asked for again if the client has cancelled it or asks itself, one outside it unless the client
    has cancelled that. Cancellations of what has ended are removed from the journal.
    """
    events = journal.events
    requests = [
        entry for entry in events if entry.kind == kept.RESPONSE_CREATE and not is_outside_conversation(entry.raw)
    ]
    asked = min((entry.order for entry in requests), default=None)
    cancels = [entry for entry in events if entry.kind == kept.RESPONSE_CANCEL]
    outside = {answer.response_id for answer in cut if answer.is_outside}
    aimed = [entry for entry in cancels if entry.item_id in outside]
    others = [entry for entry in cancels if entry not in aimed and (asked is None or entry.order < asked)]
    for entry in [*aimed, *others]:
        journal.remove(entry)
    cancelled = {entry.item_id for entry in aimed}
    return [
        answer.request
        for answer in cut
        if answer.is_wanted and not (answer.response_id in cancelled if answer.is_outside else requests or others)
    ]
