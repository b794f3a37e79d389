"""A policy: what the relay sends for it, and that the client never reads locked instructions."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.realtime.frames import Opcode, build_frame
from service.realtime.policy import (
    HIDDEN,
    SESSION_EVENT_TYPES,
    Policy,
    created_as_updated,
    update_event,
    without_instructions,
    without_quotation,
)
from service.realtime.scanner import Scanner
from tests.support.policy_events import SECRET, written


@given(st.sampled_from(["session.created", "session.updated", "response.created", "response.done"]), st.data())
def test_client_never_reads_locked_instructions(kind: str, data: st.DataObject) -> None:
    """In no encoding, in session or response; what else the event has stays as it is."""
    name = data.draw(st.sampled_from(["session", "response"]))
    others = data.draw(st.dictionaries(st.sampled_from(["id", "tools", "metadata"]), st.integers()))
    content: list[tuple[str, Any]] = list(others.items())
    content.insert(data.draw(st.integers(0, len(content))), ("instructions", SECRET))
    text = data.draw(written((("type", kind), (name, tuple(content)))))

    shown = without_instructions(text.encode())

    assert shown is not None
    assert {"type": kind, name: others} == json.loads(shown)


def test_event_without_instructions_stays_the_same_object() -> None:
    """It is then forwarded as it arrived."""
    payload = b'{"type":"response.done", "response":{"id":"x"}}'

    assert without_instructions(payload) is payload
    assert without_instructions(b'{"type":"response.done"') is None


def test_event_that_shows_the_session_never_passes_unread() -> None:
    """A client could make it large with tools of its own."""
    kinds = frozenset({"session.created", "session.updated", "response.created", "response.done"})
    scanner = Scanner(masked=False, max_message_bytes=1 << 24, parsed_types=kinds)
    event = json.dumps({"type": "session.updated", "session": {"tools": "A" * (2 << 20), "instructions": SECRET}})

    found = scanner.feed(build_frame(Opcode.TEXT, event.encode()))

    assert ["Violation"] == [type(item).__name__ for item in found]


def test_update_sets_what_the_policy_has() -> None:
    """At the places of the API; `"none"` is null."""
    policy = Policy(
        name="p",
        instructions="i",
        voice="marin",
        tools=({"type": "mcp"},),
        max_output_tokens="inf",
        turn_detection="none",
    )
    session = {
        "type": "realtime", "instructions": "i", "tools": [{"type": "mcp"}], "max_output_tokens": "inf",
        "audio": {"input": {"turn_detection": None}, "output": {"voice": "marin"}},
    }  # fmt: skip

    assert {"type": "session.update", "session": session} == json.loads(update_event(policy) or b"")
    assert update_event(Policy(name="p", locked=frozenset({"tools"}))) is None


def test_created_shows_the_session_as_updated() -> None:
    """With its own id and place."""
    created, updated = b'{"type":"session.created","event_id":"a","session":{"v":1}}', b'{"session":{"v":2}}'

    assert {"type": "session.created", "event_id": "a", "session": {"v": 2}} == json.loads(
        created_as_updated(created, updated)
    )
    assert created_as_updated(created, b"{}") is created


@pytest.mark.parametrize("size", [10, 70_000])
def test_event_of_an_unknown_type_is_read_where_the_session_is(size: int) -> None:
    """The provider may add types that show it. Without the events of a session they pass unread."""
    event = json.dumps({"type": "session.extended", "x": "A" * size, "session": {"instructions": SECRET}}).encode()
    frame = build_frame(Opcode.TEXT, event)

    def read(types: frozenset[str]) -> list[str]:
        items = Scanner(masked=False, max_message_bytes=1 << 24, parsed_types=types).feed(frame)
        return [type(item).__name__ for item in items]

    assert ["Message", "MessageEnd"] == read(SESSION_EVENT_TYPES | {"error"})
    assert ["Chunk", "MessageEnd"] == read(frozenset({"error"}))
    assert b'{"type":"session.extended","x":"' + b"A" * size + b'","session":{}}' == without_instructions(event)


INSTRUCTIONS = "You sell tickets for trains in Norway.\nNever for ferries."


@pytest.mark.parametrize("quoted", [INSTRUCTIONS, f"'{INSTRUCTIONS[:40]}...' is too long", f"... {INSTRUCTIONS[20:]}"])
def test_failure_that_quotes_the_instructions_is_hidden(quoted: str) -> None:
    """Whole, or one half: an error of a compatible server shows what it was sent. Code and type stay."""
    error = {"type": "error", "error": {"code": "invalid_value", "message": quoted, "details": [{"x": quoted}]}}

    shown = json.loads(without_quotation(json.dumps(error).encode(), INSTRUCTIONS))

    assert {"type": "error", "error": {"code": "invalid_value", "message": HIDDEN, "details": [{"x": HIDDEN}]}} == shown


@pytest.mark.parametrize("quoted", ["You sell", "You sell tickets for train", "Never for ferries.", "sessions", ""])
def test_shorter_quotation_is_shown(quoted: str) -> None:
    """Else a client could guess the instructions, letter by letter, with values that an error repeats."""
    payload = json.dumps({"type": "error", "error": {"message": f"Invalid value: '{quoted}'."}}).encode()

    assert without_quotation(payload, INSTRUCTIONS) is payload
