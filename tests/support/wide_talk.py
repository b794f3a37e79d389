"""A client that uses more of the API in a continued call than that of `talk.py`.

Its conversations are others, so that a seed of `talk.py` goes on to name the same one.
"""

import base64
from random import Random
from typing import Any, Final

from tests.support.continued_call import client_view
from tests.support.numbered_speech import speech
from tests.support.reference_api import DELTA_MS, Event, ReferenceApi
from tests.support.talk import ACTIONS, Step
from tests.support.wide_api import PLANS, WideApi
from tests.support.wide_checks import WideChecks

WIDE_ACTIONS: Final = (
    *ACTIONS, "after", "after", "remake", "retrieve", "beside", "beside", "beside", "aimed", "configure", "configure",
    "mode", "commit", "clear", "image", "remove", "remove", "anonymous", "bad", "bad", "pieces", "cut", "text",
    "voiced",
)  # fmt: skip
_TOOL: Final = {"type": "function", "name": "f", "description": None, "parameters": {"type": "object"}}
_DETECTION: Final = {"type": "server_vad", "prefix_padding_ms": 300, "silence_duration_ms": 200}


def random_wide_talk(seed: int) -> tuple[list[Step], list[int], dict[str, Any]]:
    """The steps, plan and options of `talk_through`: the same for the same seed."""
    rng = Random(seed)
    steps = [(rng.choice(WIDE_ACTIONS), rng.randint(0, 30), rng.randint(0, 30)) for _ in range(rng.randint(4, 25))]
    plan = [rng.choice(PLANS) for _ in range(rng.randint(1, 12))]
    options = {
        "is_manual": rng.random() < 0.5,
        "has_transcripts": rng.random() < 0.5,
        "lag": rng.choice([0, 0, 5, 15]),
        "fold_entries": rng.choice([1, 3, 1000]),
        "chunk": rng.choice([4800, 4800, 9600, 31_000, 960]),
        "resets_detection": rng.random() < 0.7,
    }
    return steps, plan, options


class WideTalk(WideChecks):
    """See the head of this file."""

    def _new_api(self) -> ReferenceApi:
        self._upstreams += 1
        options = {"lag_frames": self._lag, "has_transcripts": self._has_transcripts}
        api = WideApi(self._upstreams, self._plan, resets_detection=self._resets_detection, **options)
        self.apis.append(api)
        return api

    @property
    def last_id(self) -> str:
        """The id of the event that was sent last."""
        return f"c{self._number}"

    def _pick(self, found: list[str], number: int) -> str:
        return found[number % len(found)] if found else "unknown"

    def _text(self, role: str, words: str) -> Event:
        return {"type": "message", "role": role, "content": [{"type": "input_text", "text": words}]}

    # -- items --------------------------------------------------------------------------------------------------------

    def _do_after(self, a: int, b: int) -> None:
        added = [event["item"]["id"] for event in self.of("conversation.item.added")]
        places = [client_view(self.call.seen), added, sorted(self.deleted), ["root"], ["unknown"]]
        after = self._pick(places[a % len(places)] if a % 3 else places[0], b)
        self.send("conversation.item.create", item=self._text("system", f"x{self._number}."), previous_item_id=after)

    def _do_remake(self, a: int, _: int) -> None:
        """An item of a chosen id that is deleted at once, and perhaps created again."""
        item = {"id": f"made{self._number}", **self._text("user", f"m{self._number}.")}
        self.send("conversation.item.create", item=item)
        self.send("conversation.item.delete", item_id=item["id"])
        self.deleted.add(item["id"])
        if a % 2:
            self.send("conversation.item.create", item=item)
            self.deleted.discard(item["id"])

    def _do_retrieve(self, a: int, _: int) -> None:
        self.send("conversation.item.retrieve", item_id=self._pick(client_view(self.call.seen), a))

    def _do_image(self, a: int, _: int) -> None:
        part = {"type": "input_image", "image_url": "data:image/png;base64," + "A" * 40 * a}
        item = self._text("user", f"look {self._number}.")
        self.send("conversation.item.create", item={**item, "content": [*item["content"], part]})

    def _do_voiced(self, a: int, _: int) -> None:
        """A message of the user with audio of its own."""
        numbers = range(self.spoken + 1, self.spoken + 2 + a)
        self.spoken = numbers[-1]
        part = {"type": "input_audio", "audio": base64.b64encode(speech(numbers)).decode()}
        item = {"type": "message", "role": "user", "content": [part]}
        self.send("conversation.item.create", item=item)

    def _do_remove(self, a: int, _: int) -> None:
        """Any item, also speech, a call, or an answer that is not finished."""
        view = [item_id for item_id in client_view(self.call.seen) if item_id not in self.deleted]
        if view:
            self.deleted.add(item_id := self._pick(view, a))
            self.send("conversation.item.delete", item_id=item_id)

    def _do_anonymous(self, *_: int) -> None:
        self.call.send({"type": "conversation.item.create", "item": self._text("user", f"n{self._number}.")})

    def _do_bad(self, a: int, b: int) -> None:
        view = client_view(self.call.seen)
        item: Event = self._text("user", "bad")
        if a % 5 == 0 and view and view[b % len(view)] not in self.deleted:
            item["id"] = view[b % len(view)]
        elif a % 5 == 1:
            item["id"] = "y" * 33
        elif a % 5 == 2:
            item = {"type": "function_call_output", "call_id": "none", "output": "bad"}
        elif a % 5 == 3:
            self.send("session.update", session={"type": "realtime", "unknown": 1})
            self.expected.add(self.last_id)
            return
        else:
            self.send("conversation.item.create", item=item, previous_item_id="unknown")
            self.expected.add(self.last_id)
            return
        self.send("conversation.item.create", item=item)
        self.expected.add(self.last_id)

    def _do_cut(self, a: int, b: int) -> None:
        """Truncate any item, also one that is no answer, and beyond its end."""
        view = client_view(self.call.seen)
        spoken = {event["item_id"] for event in self.of("response.content_part.added")}
        item_id = self._pick(view, a)
        if item_id in spoken and item_id not in self.deleted:
            self._do_truncate(a, b)
        else:
            self.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=b * DELTA_MS)

    # -- answers ------------------------------------------------------------------------------------------------------

    def _do_beside(self, a: int, b: int) -> None:
        response: Event = {"conversation": "none", "metadata": {"beside": str(self._number)}}
        view = [item_id for item_id in client_view(self.call.seen) if item_id not in self.deleted]
        if a % 3 == 0:
            response["output_modalities"] = ["text"]
        if a % 4 == 0 and view:
            response["input"] = [{"type": "item_reference", "id": self._pick(view, b)}, self._text("user", "q")]
        elif a % 4 == 1:
            response["input"] = []
        self.send("response.create", response=response)
        self.beside[response["metadata"]["beside"]] = self.last_id

    def _do_text(self, *_: int) -> None:
        response = {"metadata": {"n": str(self._number)}, "output_modalities": ["text"], "instructions": "briefly"}
        self.send("response.create", response=response)

    def _do_aimed(self, a: int, _: int) -> None:
        begun = [event["response"]["id"] for event in self.of("response.created")]
        self.aimed.add(response_id := self._pick(begun, -1 - a % 3))
        self.send("response.cancel", response_id=response_id)

    # -- session and audio --------------------------------------------------------------------------------------------

    def _do_configure(self, a: int, b: int) -> None:
        for number in range(a % 3 + 1):
            session: Event = {"type": "realtime"}
            match (b + number) % 4:
                case 0:
                    session["tools"] = [_TOOL] * (a % 3)
                case 1:
                    session["audio"] = {"output": {"voice": self._pick(["alloy", "marin", "cedar"], a)}}
                case 2:
                    session["output_modalities"] = self._pick_modalities(a)
                case _:
                    session["instructions"] = f"be {a}.{number}"
            self.send("session.update", session=session)

    @staticmethod
    def _pick_modalities(a: int) -> list[str]:
        return ["text"] if a % 2 else ["audio"]

    def _certain(self) -> set[int]:
        seen = {event["item_id"] for event in self.of("input_audio_buffer.committed")}
        return {
            number for api in self.apis for item_id, heard in api.heard.items() if item_id in seen for number in heard
        }

    def _do_mode(self, a: int, _: int) -> None:
        """Switch between manual turns and turn detection, also in mid-speech."""
        self._has_switched = True
        self.uncertain |= set(range(1, self.spoken + 1)) - self._certain()
        self._is_manual, self._uncommitted = not self._is_manual, []
        turns = {**_DETECTION, "create_response": a % 3 > 0, "interrupt_response": a % 4 > 0}
        source = {"turn_detection": None if self._is_manual else turns}
        self.send("session.update", session={"type": "realtime", "audio": {"input": source}})

    def _do_commit(self, *_: int) -> None:
        """Also of an empty buffer, and within a turn that upstream detects."""
        self._uncommitted = []
        self.send("input_audio_buffer.commit")

    def _do_clear(self, *_: int) -> None:
        self.uncertain |= set(range(1, self.spoken + 1)) - self._certain()
        self._uncommitted = []
        self.send("input_audio_buffer.clear")

    def _do_pieces(self, a: int, b: int) -> None:
        """Speech in very small pieces, with empty ones between them."""
        chunk, self._chunk = self._chunk, (2 * a + 60) * 2
        numbers = range(self.spoken + 1, self.spoken + 7)
        self.spoken = numbers[-1]
        self._uncommitted += numbers
        self._append(speech(numbers))
        self.send("input_audio_buffer.append", audio="")
        self._chunk = chunk
        self.call.deliver(b, 0, b)
