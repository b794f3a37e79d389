"""A `Continuity` that is fed with single events, for tests of what it makes of them."""

import base64
import json
from collections.abc import Sequence
from typing import Any

from service.realtime.continuity.continuity import Continuity
from service.realtime.continuity.limits import ContinuityLimits
from service.realtime.continuity.replay import Replay
from service.realtime.frames import Opcode, build_frame
from tests.support.continued_call import client_frame, messages_of, upstream_frame
from tests.support.numbered_speech import numbers_of
from tests.support.reference_api import Event

DETECTION: Event = {"type": "server_vad", "prefix_padding_ms": 300, "silence_duration_ms": 200}

CALL: Event = {"id": "a", "type": "function_call", "call_id": "c1", "name": "f", "arguments": ""}


def session_object(**fields: Any) -> Event:
    """A session as upstream shows it; `detection`, `transcription` and `format` are those of its input."""
    source = {
        "format": fields.pop("format", {"type": "audio/pcm", "rate": 24000}),
        "transcription": fields.pop("transcription", None),
        "turn_detection": fields.pop("detection", DETECTION),
    }
    output = {"format": {"type": "audio/pcm", "rate": 24000}, "voice": fields.pop("voice", "alloy")}
    session = {"type": "realtime", "object": "realtime.session", "id": "sess_1", "model": "m", "expires_at": 5000}
    return {**session, "instructions": "default", "audio": {"input": source, "output": output}, **fields}


def user_text(item_id: str, words: str) -> Event:
    """A typed message."""
    content = [{"type": "input_text", "text": words}]
    return {"id": item_id, "type": "message", "role": "user", "content": content}


class KeptSession:
    """Time passes with each event, so that their order is that of their times."""

    def __init__(self, limits: ContinuityLimits | None = None, **session: Any) -> None:
        self.continuity = Continuity(limits)
        self.now = 0.0
        self.up("session.created", session=session_object(**session))

    def up(self, kind: str, **fields: Any) -> None:
        """Upstream sent an event."""
        self.now += 0.001
        self.continuity.keep_upstream(kind, upstream_frame({"type": kind, "event_id": "e", **fields}), self.now)

    def client(self, kind: str, **fields: Any) -> None:
        """The client sent an event."""
        self.now += 0.001
        self.continuity.keep_client(kind, client_frame({"type": kind, **fields}), self.now)

    def item(self, item: Event, after: str | None = None) -> None:
        """Upstream added an item."""
        self.up("conversation.item.added", item=item, previous_item_id=after)
        self.up("conversation.item.done", item=item, previous_item_id=None)

    def answer(self, item_id: str, words: str, *, deltas: int = 4, is_whole: bool = True) -> None:
        """Upstream answers in speech; 100 ms in each event of audio."""
        response, item = self.begin_answer(item_id)
        ids = {"response_id": response["id"], "item_id": item_id, "output_index": 0, "content_index": 0}
        self.up("response.content_part.added", **ids, part={"type": "audio", "transcript": ""})
        self.up("response.output_audio_transcript.delta", **ids, delta=words)
        self.audio(item_id, deltas)
        if is_whole:
            done = {**item, "status": "completed", "content": [{"type": "output_audio", "transcript": words}]}
            self.up("conversation.item.done", item=done, previous_item_id=None)
            self.up("response.output_item.done", response_id=response["id"], output_index=0, item=done)
            self.up("response.done", response={**response, "status": "completed"})

    def audio(self, item_id: str, deltas: int) -> None:
        """Upstream sends audio of an answer, 100 ms in each event."""
        ids = {"response_id": f"resp_{item_id}", "item_id": item_id, "output_index": 0, "content_index": 0}
        frame = {"type": "response.output_audio.delta", "event_id": "event_" + "x" * 21, **ids, "delta": "A" * 6400}
        self.continuity.keep_audio(deltas, deltas * len(upstream_frame(frame)), self.now)

    def begin_answer(self, item_id: str, **response: Any) -> tuple[Event, Event]:
        """Upstream begins an answer; returns the response and its item."""
        response = {"id": f"resp_{item_id}", "conversation_id": "conv_1", "status": "in_progress", **response}
        item = {"id": item_id, "type": "message", "role": "assistant", "status": "in_progress", "content": []}
        self.up("response.created", response=response)
        self.up("response.output_item.added", response_id=response["id"], output_index=0, item=item)
        self.up("conversation.item.added", item=item, previous_item_id=None)
        return response, item

    def lose(self) -> list[Event]:
        """Upstream is lost; returns what the client gets."""
        return [json.loads(payload) for payload in self.continuity.upstream_lost(self.now)]

    def replay(self, **session: Any) -> "NewUpstream":
        """Another upstream, with this session at first."""
        created = json.dumps({"type": "session.created", "session": session_object(id="sess_2", **session)}).encode()
        is_tolerant = not self.continuity.journal.is_sent
        return NewUpstream(self.continuity.start_replay(created, self.now, is_tolerant=is_tolerant))

    def flush(self, replay: Replay) -> tuple[list[Event], list[Event]]:
        """Go over to it; returns what it gets, and what the client gets."""
        self.continuity.begin_flush(replay, self.now)
        sent: list[Event] = []
        answered: list[Event] = []
        while (step := self.continuity.next_flush(self.now)) is not None:
            sent += events_of(step.to_upstream)
            answered += [json.loads(payload) for payload in step.to_client]
        return sent, answered


def events_of(frames: Sequence[bytes]) -> list[Event]:
    """The events in a client's frames."""
    return [event for frame in frames for event in messages_of(frame)]


class NewUpstream:
    """Accepts what a replay sends, but for items in `refused`."""

    def __init__(self, replay: Replay) -> None:
        self.replay = replay
        self.updates: list[Event] = []
        self.items: list[Event] = []
        self.deleted: list[str] = []

    def run(self, *, is_final: bool = True, refused: Sequence[str] = (), session: Event | None = None) -> "NewUpstream":
        """Take and acknowledge until nothing is left; `session`: what upstream shows after an update."""
        while payloads := self.replay.take(is_final=is_final):
            for payload in payloads:
                self._acknowledge(json.loads(payload), refused, session)
        return self

    def _acknowledge(self, event: Event, refused: Sequence[str], session: Event | None) -> None:
        if event["type"] == "session.update":
            self.updates.append(event["session"])
            shown = session if session is not None else self._merged(event["session"])
            self._send("session.updated", session=shown)
        elif event["type"] == "conversation.item.delete":
            self.deleted.append(event["item_id"])
            self._send("conversation.item.deleted", item_id=event["item_id"])
        elif event["item"]["id"] in refused:
            self._send("error", error={"code": "invalid_value", "event_id": event["event_id"]})
        else:
            self.items.append(event["item"] | {"after": event.get("previous_item_id")})
            self._send("conversation.item.added", item=event["item"])
            self._send("conversation.item.done", item=event["item"])

    def _merged(self, update: Event) -> Event:
        merged: Event = json.loads(json.dumps(self.replay.session))
        for side, values in update.get("audio", {}).items():
            merged["audio"][side].update(values)
        return merged | {key: value for key, value in update.items() if key != "audio"}

    def _send(self, kind: str, **fields: Any) -> None:
        frame = build_frame(Opcode.TEXT, json.dumps({"type": kind, **fields}).encode())
        self.replay.received(kind, frame)

    @property
    def texts(self) -> dict[str, str]:
        """The text of each message."""
        return {item["id"]: item["content"][0].get("text", "") for item in self.items if item["type"] == "message"}


# -- short names for what tests do ------------------------------------------------------------------------------------


def types(events: list[Event]) -> list[str]:
    """Their types."""
    return [event["type"] for event in events]


def append(session: KeptSession, audio: bytes) -> None:
    """The client sends audio in one event."""
    session.client("input_audio_buffer.append", audio=base64.b64encode(audio).decode())


def heard(events: list[Event]) -> list[int]:
    """The numbers of the speech in appends."""
    appends = [event["audio"] for event in events if event["type"] == "input_audio_buffer.append"]
    return numbers_of(b"".join(map(base64.b64decode, appends)))


def committed(session: KeptSession, item_id: str, start_ms: int, end_ms: int) -> None:
    """Upstream detects a turn."""
    session.up("input_audio_buffer.speech_started", item_id=item_id, audio_start_ms=start_ms)
    session.up("input_audio_buffer.speech_stopped", item_id=item_id, audio_end_ms=end_ms)
    session.up("input_audio_buffer.committed", item_id=item_id, previous_item_id=None)


def recovered(session: KeptSession) -> tuple[list[Event], list[Event]]:
    """What another upstream gets after the replay, and what the client gets meanwhile."""
    return session.flush(session.replay().run().replay)


def begin_call(session: KeptSession) -> Event:
    """Upstream begins to call a function; returns the ids of its events."""
    session.up("response.created", response={"id": "r", "conversation_id": "v"})
    session.up("response.output_item.added", response_id="r", output_index=0, item={**CALL, "status": "in_progress"})
    session.up("conversation.item.added", item={**CALL, "status": "in_progress"}, previous_item_id=None)
    return {"response_id": "r", "item_id": "a", "output_index": 0, "call_id": "c1"}
