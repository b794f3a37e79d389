"""A client that acts on what it has seen in a continued call, and what has to hold in the end."""

import base64
from collections import Counter
from random import Random
from typing import Any, Final

from service.realtime.continuity.limits import ContinuityLimits
from tests.support.continued_call import ContinuedCall, client_view
from tests.support.numbered_speech import silence, speech
from tests.support.reference_api import DELTA_MS, Event, ReferenceApi

Step = tuple[str, int, int]  # the name of an action, and two numbers

ACTIONS: Final = (
    "speak", "speak", "speak", "hush", "hush", "type", "type", "answer", "answer", "deliver", "deliver", "deliver",
    "deliver", "deliver", "output", "output", "cancel", "truncate", "truncate", "delete", "update", "system", "first",
    "wait", "commit", "clear", "renew", "renew", "rest", "rest",
)  # fmt: skip


def random_talk(seed: int) -> tuple[list[Step], list[int], dict[str, Any]]:
    """The steps, plan and options of `talk_through`: the same for the same seed."""
    rng = Random(seed)
    steps = [(rng.choice(ACTIONS), rng.randint(0, 30), rng.randint(0, 30)) for _ in range(rng.randint(4, 20))]
    plan = [rng.choice([0, 1, 3, 3, 8, -2]) for _ in range(rng.randint(1, 12))]
    options = {
        "is_manual": rng.random() < 0.5,
        "has_transcripts": rng.random() < 0.5,
        "lag": rng.choice([0, 0, 5, 15]),
        "fold_entries": rng.choice([1, 3, 1000]),
        "chunk": rng.choice([4800, 4800, 9600, 5000, 31_000, rng.choice([960, 1000, 4800, 4800])]),
    }
    return steps, plan, options


def talk_through(
    steps: list[Step], plan: list[int], lose_at: tuple[int, ...], *, kind: type["Talk"] | None = None, **options: Any
) -> "Talk":
    """Talk, with a loss of upstream after events of these numbers, and check what has to hold."""
    talk = (kind or Talk)(plan, **options)
    talk.call.lose_at.update(lose_at)
    for name, a, b in steps:
        talk.act(name, a, b)
    talk.finish()
    talk.check()
    return talk


class Talk:
    """A client that acts on what it has seen, and the checks at the end."""

    def __init__(
        self,
        plan: list[int],
        *,
        is_manual: bool = False,
        has_transcripts: bool = True,
        lag: int = 0,
        fold_entries: int = 3,
        chunk: int = 960,
        limits: ContinuityLimits | None = None,
    ) -> None:
        self._plan = list(plan)
        self._upstreams = 0
        self._lag = lag
        self._chunk = chunk
        self._is_manual = is_manual
        self.spoken = 0
        self.cleared: set[int] = set()
        self._uncommitted: list[int] = []
        self._has_transcripts = has_transcripts
        self._number = 0
        self.sent: list[Event] = []  # audio aside
        self.instructions = "be"
        self.deleted: set[str] = set()
        self.cut: dict[str, int] = {}
        self.outputs: set[str] = set()
        self.apis: list[ReferenceApi] = []
        self.call = ContinuedCall(self._new_api, limits, fold_entries=fold_entries)
        self.call.deliver(0, 0, 1)
        source: Event = {"transcription": {"model": "t"} if has_transcripts else None}
        if is_manual:
            source["turn_detection"] = None
        self.send("session.update", session={"type": "realtime", "instructions": "be", "audio": {"input": source}})
        self.call.deliver(9, 0, 9)

    def _new_api(self) -> ReferenceApi:
        self._upstreams += 1
        api = ReferenceApi(self._upstreams, self._plan, lag_frames=self._lag, has_transcripts=self._has_transcripts)
        self.apis.append(api)
        return api

    def send(self, kind: str, **fields: Any) -> None:
        """Send an event with an id."""
        self._number += 1
        event = {"event_id": f"c{self._number}", "type": kind, **fields}
        if kind != "input_audio_buffer.append":
            self.sent.append(event)
        self.call.send(event)

    # -- what it sees -------------------------------------------------------------------------------------------------

    def of(self, kind: str) -> list[Event]:
        """The events of a type that it has seen."""
        return [event for event in self.call.seen if event["type"] == kind]

    @property
    def calls(self) -> dict[str, str]:
        """The function calls that it has seen: call id and item id."""
        return {event["call_id"]: event["item_id"] for event in self.of("response.function_call_arguments.done")}

    # -- what it does -------------------------------------------------------------------------------------------------

    def act(self, name: str, a: int, b: int) -> None:
        """Do one action; if upstream is lost, recover at once or later."""
        getattr(self, f"_do_{name}")(a, b)
        if self.call.leg is None and (a + b) % 3:
            self.call.recover((b,) if a % 5 == 4 and b else (), flush_lost_at=b % 4 if a % 5 == 3 else 0)

    def _append(self, audio: bytes) -> None:
        for start in range(0, len(audio), self._chunk):
            part = audio[start : start + self._chunk]
            self.send("input_audio_buffer.append", audio=base64.b64encode(part).decode())
            self.call.advance(len(part) / 48_000)

    def _do_speak(self, a: int, b: int) -> None:
        numbers = range(self.spoken + 1, self.spoken + 6 + a)
        self.spoken = numbers[-1]
        self._uncommitted += numbers
        self._append(speech(numbers))
        self.call.deliver(b, 0, b)

    def _do_hush(self, a: int, b: int) -> None:
        self._append(silence(2 * a + 1))
        self.call.deliver(b, 0, b)

    def _do_deliver(self, a: int, b: int) -> None:
        self.call.deliver(a, b % 6, b)

    def _do_wait(self, a: int, _: int) -> None:
        self.call.advance(a / 10)

    def _do_type(self, a: int, _: int) -> None:
        item: Event = {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": f"hello {self._number}."}],
        }
        if a % 2:
            item["id"] = f"typed{self._number}"
        self.send("conversation.item.create", item=item)

    def _do_system(self, a: int, _: int) -> None:
        view = client_view(self.call.seen)
        text = f"note {self._number}."
        item = {"type": "message", "role": "system", "content": [{"type": "input_text", "text": text}]}
        after = {"previous_item_id": view[a % len(view)]} if view and a % 3 else {}
        self.send("conversation.item.create", item=item, **after)

    def _do_first(self, *_: int) -> None:
        text = f"first {self._number}."
        item = {"type": "message", "role": "system", "content": [{"type": "input_text", "text": text}]}
        self.send("conversation.item.create", item=item, previous_item_id="root")

    def _do_answer(self, a: int, _: int) -> None:
        response = {"metadata": {"n": str(self._number)}} if a % 2 else {}
        self.send("response.create", response=response)

    def _do_cancel(self, *_: int) -> None:
        self.send("response.cancel")

    def _do_update(self, a: int, _: int) -> None:
        self.instructions = f"be {a}"
        self.send("session.update", session={"type": "realtime", "instructions": self.instructions})

    def _do_output(self, *_: int) -> None:
        for call_id in self.calls:
            if call_id not in self.outputs and self.calls[call_id] not in self.deleted:
                self.outputs.add(call_id)
                item = {"type": "function_call_output", "call_id": call_id, "output": "done"}
                self.send("conversation.item.create", item=item)
                return

    def _do_truncate(self, a: int, _: int) -> None:
        spoken = [event["item_id"] for event in self.of("response.content_part.added")]
        spoken = [item_id for item_id in spoken if item_id not in self.deleted]
        if spoken:
            item_id = spoken[a % len(spoken)]
            heard = sum(DELTA_MS for event in self.of("response.output_audio.delta") if event["item_id"] == item_id)
            end = min(heard * (a % 4) // 4, self.cut.get(item_id, heard))
            self.cut[item_id] = end
            self.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=end)

    def _do_delete(self, a: int, _: int) -> None:
        added = [event["item"] for event in self.of("conversation.item.added")]
        mine = [item["id"] for item in added if item["type"] == "message" and not self._is_spoken(item)]
        mine = [item_id for item_id in mine if item_id not in self.deleted]
        if mine:
            self.deleted.add(item_id := mine[a % len(mine)])
            self.send("conversation.item.delete", item_id=item_id)

    @staticmethod
    def _is_spoken(item: Event) -> bool:
        return (item["role"], item["content"][0]["type"]) == ("user", "input_audio") if item["content"] else False

    def _do_commit(self, *_: int) -> None:
        if self._is_manual and len(self._uncommitted) >= 5:
            self._uncommitted = []
            self.send("input_audio_buffer.commit")

    def _do_clear(self, *_: int) -> None:
        if self._is_manual:
            self.cleared.update(self._uncommitted)
            self._uncommitted = []
            self.send("input_audio_buffer.clear")

    def _do_renew(self, a: int, _: int) -> None:
        if a % 2 or not self.call.switch():
            self.call.prepare()

    def _do_rest(self, a: int, _: int) -> None:
        for _ in range(a):
            self.call.deliver(9, 3, 9)

    def finish(self) -> None:
        """End what is open, and let everything arrive."""
        if self.call.leg is None:
            self.call.recover()
        self._append(silence(60))
        self._do_commit()
        if self.call.leg is None:
            self.call.recover()
        self.call.settle()
        self.call.prepare()
        self.call.switch()
        for _ in range(3):
            self._do_output()
            if self.call.leg is None:
                self.call.recover()
            self.call.settle()

    # -- what has to hold ---------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Assert that nothing was lost, doubled or left open."""
        assert self.call.leg is not None
        api = self.call.leg.api
        self._check_speech(api)
        self._check_items(api)
        self._check_responses()
        self._check_requests(api)
        codes = Counter(error["code"] for api in self.apis for error in api.errors)
        allowed = {"conversation_already_has_active_response", "response_cancel_not_active"}
        # After a deletion the client may name an item that is gone.
        allowed |= {"item_delete_invalid_item_id", "item_truncate_invalid_item_id"}
        allowed |= {"item_create_invalid_previous_item_id"} if self.deleted else set()
        assert not set(codes) - allowed, codes
        assert not self.call.refused

    def _check_requests(self, api: ReferenceApi) -> None:
        """Each event had its effect, or the client was sent its error."""
        refused = {event["error"]["event_id"] for event in self.of("error")}
        assert all(event_id.startswith("c") for event_id in refused)
        assert api.session["instructions"] == self.instructions
        has = {call["call_id"] for call in api.items if call["type"] == "function_call_output"}
        has |= {part["text"] for item in api.items for part in item.get("content", ()) if "text" in part}
        gone = [event["item"] for event in self.of("conversation.item.added") if event["item"]["id"] in self.deleted]
        has |= {part["text"] for item in gone for part in item["content"] if "text" in part}
        begun = [event["response"]["metadata"] for event in self.of("response.created")]
        has_cancelled = any(event["type"] == "response.cancel" for event in self.sent)
        for event in self.sent:
            if event["event_id"] in refused:
                continue
            if event["type"] == "conversation.item.create":
                item = event["item"]
                assert (item["call_id"] if "call_id" in item else item["content"][0]["text"]) in has, event
            if event["type"] == "response.create" and event["response"] and not has_cancelled:
                assert event["response"]["metadata"] in begun, event

    def _check_speech(self, api: ReferenceApi) -> None:
        wanted = set(range(1, self.spoken + 1)) - self.cleared - set(self._uncommitted if self._is_manual else ())
        self._check_heard(api, wanted)

    @staticmethod
    def _check_heard(api: ReferenceApi, wanted: set[int]) -> None:
        heard = Counter(number for item in api.items for number in api.heard.get(item["id"], ()))
        twice = {number for number, count in heard.items() if count > 1}
        assert not twice, f"doubled: {sorted(twice)}"
        assert not wanted - set(heard), f"lost: {sorted(wanted - set(heard))}"

    def _check_items(self, api: ReferenceApi) -> None:
        view = client_view(self.call.seen)
        has = [item["id"] for item in api.items]
        absent = set(view) - set(has)
        assert [item_id for item_id in view if item_id not in absent] == has
        said: dict[str, str] = {}
        for event in self.of("response.output_audio_transcript.delta"):
            said[event["item_id"]] = said.get(event["item_id"], "") + event["delta"]
        unfinished = set(view) - set(self.calls.values())
        for item_id in absent:  # answers of which nothing was said or heard, and calls that were not finished
            assert item_id in unfinished
            assert not said.get(item_id) or item_id in self.cut, item_id
        for item in api.items:
            if item.get("role") == "assistant" and item["content"] and item["content"][0]["type"] == "output_text":
                self._check_text(item, said[item["id"]])

    def _check_text(self, item: Event, said: str) -> None:
        words = item["content"][0]["text"]
        assert said.startswith(words)
        if item["id"] not in self.cut:
            assert words == said.rstrip() or words == said, (words, said)

    def _check_cut_answers(self) -> None:
        """The user who waits for an answer that was cut gets another one."""
        if not self._is_manual or any(event["type"] == "response.cancel" for event in self.sent):
            return
        for number, event in enumerate(self.call.seen):
            if event["type"] != "response.done" or event["response"]["status"] != "cancelled":
                continue
            outputs = event["response"]["output"]
            if not any(item["type"] == "function_call" and item["status"] == "completed" for item in outputs):
                assert any(later["type"] == "response.created" for later in self.call.seen[number:])

    def _check_responses(self) -> None:
        begun = [event["response"]["id"] for event in self.of("response.created")]
        ended = [event["response"]["id"] for event in self.of("response.done")]
        assert len(begun) == len(set(begun))
        assert sorted(begun) == sorted(ended)
        items: set[str] = set()
        for event in self.call.seen:
            item_id = event.get("item_id") or event.get("item", {}).get("id")
            if event["type"] in {
                "response.output_item.added",
                "conversation.item.added",
                "input_audio_buffer.committed",
            }:
                items.add(item_id)
            elif item_id and not event["type"].startswith("input_audio_buffer."):
                assert item_id in items, f"{event['type']} of an item that the client does not know"
        self._check_cut_answers()
        assert len(self.of("session.created")) == 1
        calls = [event["call_id"] for event in self.of("response.function_call_arguments.done")]
        assert len(calls) == len(set(calls))
        self.call.continuity.boundary(self.call.now)  # folds
        assert not self.call.continuity.mirror.answers.is_open
