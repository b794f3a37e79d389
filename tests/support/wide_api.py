"""More of the Realtime API for tests of continuity: answers outside the conversation, in text, cut short, with many calls."""

from collections.abc import Iterator
from typing import Any, Final

from tests.support.reference_api import Event, ReferenceApi, Refused, Response

TEXT: Final = 100  # and a number of words
CALLS: Final = 200  # and a number of calls
FAILED: Final = 300  # after a number of words
INCOMPLETE: Final = 400  # after a number of words
HALF_CALL: Final = 500
PLANS: Final = (0, 1, 3, 8, -2, TEXT + 1, TEXT + 4, CALLS + 2, CALLS + 3, FAILED, FAILED + 2, INCOMPLETE + 2, HALF_CALL)


class WideApi(ReferenceApi):
    """The plan may hold the kinds above. `resets_detection`: a commit or clear of the client ends speech that was noticed."""

    def __init__(self, *args: Any, resets_detection: bool = True, **options: Any) -> None:
        super().__init__(*args, **options)
        self._resets_detection = resets_detection
        self.beside: list[Response] = []  # outside the conversation
        self._steps = 0
        self._texts: set[str] = set()  # responses in text

    @property
    def is_idle(self) -> bool:
        """Whether it does nothing by itself."""
        return super().is_idle and not self.beside

    def step(self) -> None:
        """Responses go on by turns."""
        self._steps += 1
        if not self.beside or self._unheard or (self.active is not None and self._steps % 2):
            super().step()
            return
        response = self.beside[self._steps // 2 % len(self.beside)]
        event = next((event for event in response.events if event["kind"].startswith("response.")), None)
        if event is None:
            self._end(response, response.status, None)
        else:
            self._send(**event)

    # -- session and input --------------------------------------------------------------------------------------------

    def _update(self, event: Event) -> None:
        voice = event["session"].get("audio", {}).get("output", {}).get("voice")
        if voice not in {None, self.session["audio"]["output"]["voice"]} and self._has_audio():
            raise Refused("cannot_update_voice", None)
        super()._update(event)

    def _has_audio(self) -> bool:
        parts = [part for item in self.items if item.get("role") == "assistant" for part in item["content"]]
        return any(part["type"] == "output_audio" for part in parts)

    def _commit(self, event: Event) -> None:
        super()._commit(event)
        self._reset_detection()

    def _clear(self, event: Event) -> None:
        super()._clear(event)
        self._reset_detection()

    def _reset_detection(self) -> None:
        if self._resets_detection:
            self._input.forget_speech()

    def _create(self, event: Event) -> None:
        super()._create(event)
        item = self.out[-1]["item"]
        if any(part["type"] == "input_audio" for part in item.get("content", ())):
            self._expect_transcript(item["id"])

    def _expect_transcript(self, item_id: str) -> None:
        if self._has_transcripts and self.session["audio"]["input"]["transcription"]:
            self._unheard.append((item_id, " ".join(map(str, self.heard[item_id]))))

    def _speech_begins(self) -> None:
        if (self._detection or {}).get("interrupt_response", True):
            super()._speech_begins()

    def _turn_ends(self) -> None:
        if (self._detection or {}).get("create_response", True):
            super()._turn_ends()

    # -- answers ------------------------------------------------------------------------------------------------------

    def _create_response(self, event: Event) -> None:
        wanted = event.get("response") or {}
        for item in wanted.get("input", ()):
            if item["type"] == "item_reference" and not any(known["id"] == item["id"] for known in self.items):
                raise Refused("invalid_value", "response.input[0].id")
        if wanted.get("conversation") != "none":
            super()._create_response(event)
            return
        self._respond(wanted)

    def _cancel(self, event: Event) -> None:
        wanted = event.get("response_id")
        responses = [*self.beside, self.active] if wanted else [self.active]
        for response in responses:
            if response is not None and wanted in {None, response.response_id}:
                self._end(response, "cancelled", "client_cancelled")
                return
        raise Refused("response_cancel_not_active", None)

    def _respond(self, wanted: Event) -> None:
        if self._plan and wanted.get("output_modalities") == ["text"] and 0 < self._plan[0] < TEXT:
            self._plan[0] += TEXT
        active = self.active
        super()._respond(wanted)
        assert self.active is not None
        if wanted.get("conversation") == "none":
            self.out.pop()
            self.active.base["conversation_id"] = None
            self._send("response.created", response=self.active.base)
            self.beside.append(self.active)
            self.active = active

    def _answer_events(self, response_id: str, words: int, items: list[Event]) -> Iterator[Event]:
        if words < TEXT:
            yield from super()._answer_events(response_id, words, items)
        elif words < CALLS:
            self._texts.add(response_id)
            yield from super()._answer_events(response_id, words - TEXT, items)
        elif words < FAILED:
            for _ in range(words - CALLS):
                yield from super()._answer_events(response_id, 0, items)
        else:
            yield from self._cut_short(response_id, words, items)

    def _cut_short(self, response_id: str, words: int, items: list[Event]) -> Iterator[Event]:
        response = next(known for known in [*self.beside, self.active] if known and known.response_id == response_id)
        response.status = "failed" if words < INCOMPLETE else "incomplete"
        count, deltas = words % 100, 0
        if words == FAILED:
            return
        for event in super()._answer_events(response_id, 0 if words == HALF_CALL else count + 1, items):
            yield event
            deltas += event["kind"].endswith(".delta")
            if deltas == 2 * count + (words == HALF_CALL):
                break
        if response.status == "incomplete":
            item = items[-1]
            item["status"] = "incomplete"
            yield {"kind": "conversation.item.done", "item": item, "previous_item_id": None}
            ids = {"response_id": response_id, "output_index": 0}
            yield {"kind": "response.output_item.done", "item": item, **ids}

    def _message_events(self, ids: Event, item: Event, count: int) -> Iterator[Event]:
        if ids["response_id"] not in self._texts:
            yield from super()._message_events(ids, item, count)
            return
        ids = {**ids, "content_index": 0}
        item["content"] = [{"type": "output_text", "text": ""}]
        yield {"kind": "response.content_part.added", **ids, "part": {"type": "text", "text": ""}}
        for index in range(count):
            word = f"t{item['id'][-4:]}.{index} "
            item["content"][0]["text"] += word
            yield {"kind": "response.output_text.delta", **ids, "delta": word}

    # -- outside the conversation -------------------------------------------------------------------------------------

    def _place(self, item: Event, after: str | None = None) -> str | None:
        if any(item is known for response in self.beside for known in response.items):
            return None
        return super()._place(item, after)

    def _end(self, response: Response, status: str, reason: str | None) -> None:
        if response not in self.beside:
            super()._end(response, status, reason)
            return
        self.beside.remove(response)
        details = {"type": "cancelled", "reason": reason} if reason else None
        ends = {"status": status, "status_details": details, "output": response.items}
        self._send("response.done", response={**response.base, **ends})
