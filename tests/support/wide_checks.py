"""What has to hold after a call in which the client uses more of the API: see `wide_talk.py`."""

from collections import Counter
from typing import Any, Final

from tests.support.continued_call import client_view
from tests.support.reference_api import DELTA_MS, Event, ReferenceApi
from tests.support.talk import Talk

_REFUSALS: Final = frozenset(
    {
        "conversation_already_has_active_response",
        "response_cancel_not_active",
        "item_delete_invalid_item_id",
        "item_truncate_invalid_item_id",
        "item_retrieve_invalid_item_id",
        "item_create_invalid_previous_item_id",
        "item_create_duplicate_item_id",
        "invalid_tool_call_id",
        "input_audio_buffer_commit_empty",
        "string_above_max_length",
        "unknown_parameter",
        "cannot_update_voice",
        "unsupported_content_type",
        "invalid_value",
    }
)


class WideChecks(Talk):
    """See the head of this file."""

    def __init__(self, plan: list[int], *, resets_detection: bool = True, **options: Any) -> None:
        self._resets_detection = resets_detection
        self.uncertain: set[int] = set()  # numbers that a change of the turn detection, or a clear, may lose
        self._has_switched = False
        self.beside: dict[str, str] = {}  # requests outside the conversation: by their metadata, the id of the event
        self.aimed: set[str] = set()  # responses that were cancelled by their id
        self.expected: set[str] = set()  # events that upstream refuses
        self.sure: set[str] = set()  # events that upstream must accept, by what the client has seen
        super().__init__(plan, **options)

    def send(self, kind: str, **fields: Any) -> None:
        """Send an event with an id."""
        if self._is_sure(kind, fields):
            self.sure.add(f"c{self._number + 1}")
        super().send(kind, **fields)

    def _is_sure(self, kind: str, fields: Event) -> bool:
        deleted = {event["item_id"] for event in self.sent if event["type"] == "conversation.item.delete"}
        view = set(client_view(self.call.seen)) - deleted if kind != "input_audio_buffer.append" else set()
        if kind == "response.create":
            source = fields["response"].get("input", ())
            is_outside = fields["response"].get("conversation") == "none"
            return is_outside and all(part.get("id") in view for part in source if part["type"] == "item_reference")
        if kind == "conversation.item.create":
            item = fields["item"]
            if "call_id" in item and self.calls.get(item["call_id"]) not in view:
                return False
            return "id" not in item and fields.get("previous_item_id", "root") in {"root", *view}
        if kind == "conversation.item.truncate":
            parts = [event for event in self.of("response.content_part.added") if event["item_id"] == fields["item_id"]]
            heard = sum(
                DELTA_MS for event in self.of("response.output_audio.delta") if event["item_id"] == fields["item_id"]
            )
            is_audio = any(event["part"]["type"] == "audio" for event in parts)
            return is_audio and fields["item_id"] in view and fields["audio_end_ms"] <= heard
        return kind in {"conversation.item.delete", "conversation.item.retrieve"} and fields["item_id"] in view

    # -- what has to hold ---------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Assert that nothing was lost, doubled or left open."""
        assert self.call.leg is not None
        api = self.call.leg.api
        self._check_speech(api)
        self._check_items(api)
        self._check_responses()
        self._check_requests(api)
        self._check_session(api)
        self._check_beside()
        self._check_transcripts()
        self._check_turns()
        codes = {error["code"] for api in self.apis for error in api.errors}
        assert not codes - _REFUSALS, codes

    def _refused(self) -> Counter[str]:
        return Counter(event["error"]["event_id"] for event in self.of("error"))

    def _check_requests(self, api: ReferenceApi) -> None:
        refused = self._refused()
        assert not [event_id for event_id, count in refused.items() if event_id is not None and count > 1]
        assert all(event_id is None or event_id.startswith("c") for event_id in refused), refused
        assert not self.expected - set(refused)
        assert not self.sure & set(refused), [
            event for event in self.of("error") if event["error"]["event_id"] in self.sure
        ]
        known = [event["item"] for event in self.of("conversation.item.added")]
        texts = Counter(part["text"] for item in known for part in item.get("content") or () if "text" in part)
        outputs = {item["call_id"] for item in known if item["type"] == "function_call_output"}
        retrieved = len(self.of("conversation.item.retrieved"))
        for event in self.sent:
            if event["event_id"] in refused:
                continue
            if event["type"] == "conversation.item.create":
                item = event["item"]
                if "call_id" in item:
                    assert item["call_id"] in outputs, event
                elif "text" in item["content"][0]:
                    assert item["content"][0]["text"] in texts, event
            retrieved -= event["type"] == "conversation.item.retrieve"
        assert retrieved == 0
        assert not [item_id for item_id in client_view(self.call.seen) if self._is_deleted(item_id)]
        assert all(kind["type"] in {"message", "function_call", "function_call_output"} for kind in api.items)

    def _is_deleted(self, item_id: str) -> bool:
        refused = self._refused()
        deletes = [event for event in self.sent if event["type"] == "conversation.item.delete"]
        accepted = [event for event in deletes if event["event_id"] not in refused and event["item_id"] == item_id]
        return item_id in self.deleted and bool(accepted)

    def _check_session(self, api: ReferenceApi) -> None:
        refused = self._refused()
        wanted: Event = {}
        sides: Event = {"input": {}, "output": {}}
        for event in self.sent:
            if event["type"] == "session.update" and event["event_id"] not in refused:
                session = dict(event["session"])
                for side, values in session.pop("audio", {}).items():
                    sides[side].update(values)
                wanted.update(session)
        assert {key: api.session[key] for key in wanted} == wanted
        for side, values in sides.items():
            assert {key: api.session["audio"][side][key] for key in values} == values

    def _check_beside(self) -> None:
        """Each answer outside the conversation came to its own end, unless the client has cancelled it."""
        refused = self._refused()
        ends: dict[str, list[Event]] = {}
        for event in self.of("response.done"):
            response = event["response"]
            if (response["metadata"] or {}).get("beside"):
                assert response["conversation_id"] is None
                ends.setdefault(response["metadata"]["beside"], []).append(response)
            elif response["conversation_id"] is None:
                raise AssertionError("an answer outside the conversation without its metadata")
        for number, event_id in self.beside.items():
            if event_id in refused:
                continue
            responses = ends.get(number, [])
            assert responses, f"no answer to request {number} outside the conversation"
            if not any(response["id"] in self.aimed or self._is_final(response) for response in responses):
                statuses = [response["status"] for response in responses]
                assert set(statuses[:-1]) <= {"cancelled"}, statuses
                assert statuses[-1] != "cancelled", statuses

    def _is_final(self, response: Event) -> bool:
        """Whether a cancelled answer is not asked for again: upstream had begun to end it, or it has a call."""
        outputs = [event for event in self.of("response.output_item.done") if event["response_id"] == response["id"]]
        is_cut = any(
            event["item"]["status"] == "incomplete" and not event["event_id"].startswith("event_relay")
            for event in outputs
        )
        return is_cut or any(
            item["type"] == "function_call" and item["status"] == "completed" for item in response["output"]
        )

    def _check_turns(self) -> None:
        """Each turn that upstream detects is answered, unless an answer is active."""
        if any(event["type"] == "response.cancel" for event in self.sent) or self._has_switched or self._is_manual:
            return
        detected = {event["item_id"] for event in self.of("input_audio_buffer.speech_stopped")}
        begun: dict[str, int] = {}
        open_answers: set[str] = set()
        committed: list[tuple[int, bool]] = []
        for number, event in enumerate(self.call.seen):
            response = event.get("response", {})
            if response.get("conversation_id") is not None:
                is_begin = event["type"] == "response.created"
                (open_answers.add if is_begin else open_answers.discard)(response["id"])
                begun.update({response["id"]: number} if is_begin else {})
            elif event["type"] == "input_audio_buffer.committed" and event["item_id"] in detected:
                committed.append((number, bool(open_answers)))
        for number, is_answering in committed:
            assert is_answering or any(later > number for later in begun.values()), "a turn is not answered"

    def _check_text(self, item: Event, said: str) -> None:
        super()._check_text(item, said)
        parts = [event for event in self.of("response.content_part.added") if event["part"]["type"] == "audio"]
        is_spoken = any(event["item_id"] == item["id"] for event in parts)
        if is_spoken and item["id"] in self.cut:
            wanted = min(self.cut[item["id"]] / DELTA_MS, len(said.split()))
            assert abs(len(item["content"][0]["text"].split()) - wanted) <= 1, (item, said, self.cut[item["id"]])

    def _check_transcripts(self) -> None:
        kind = "conversation.item.input_audio_transcription.completed"
        found = Counter(event["item_id"] for event in self.of(kind))
        assert not [item_id for item_id, count in found.items() if count > 1], "transcribed twice"

    def _check_speech(self, api: ReferenceApi) -> None:
        deleted = {number for old in self.apis for item_id in self.deleted for number in old.heard.get(item_id, ())}
        wanted = set(range(1, self.spoken + 1)) - self.uncertain - deleted - set(self._uncommitted)
        self._check_heard(api, wanted)

    def _check_items(self, api: ReferenceApi) -> None:
        view = client_view(self.call.seen)
        has = [item["id"] for item in api.items]
        absent = set(view) - set(has)
        assert [item_id for item_id in view if item_id not in absent] == has
        said: dict[str, str] = {}
        kinds = {"response.output_audio_transcript.delta", "response.output_text.delta"}
        for event in self.call.seen:
            if event["type"] in kinds:
                said[event["item_id"]] = said.get(event["item_id"], "") + event["delta"]
        items = {event["item"]["id"]: event["item"] for event in self.of("conversation.item.added")}
        for item_id in absent:
            parts = items[item_id].get("content") or [{}]
            # What the client clears before upstream has reported its turn is kept no more.
            is_heard = any(set(old.heard.get(item_id, ())) - self.uncertain for old in self.apis)
            is_silence = parts[0].get("type") == "input_audio" and not is_heard
            assert is_silence or items[item_id].get("role") not in {"user", "system"}, items[item_id]
            assert not said.get(item_id) or item_id in self.cut, item_id
        for item in api.items:
            if item.get("role") == "assistant" and item["content"] and item["content"][0]["type"] == "output_text":
                self._check_text(item, said.get(item["id"], ""))

    def _check_cut_answers(self) -> None:
        """The user who waits for an answer that was cut gets another one."""
        if any(event["type"] == "response.cancel" for event in self.sent) or self._has_switched or not self._is_manual:
            return
        for number, event in enumerate(self.call.seen):
            is_cut = event["type"] == "response.done" and event["response"]["status"] == "cancelled"
            if is_cut and not self._is_final(event["response"]):
                assert any(later["type"] == "response.created" for later in self.call.seen[number:])
