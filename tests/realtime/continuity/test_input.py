"""What peers send may be anything: continuity reads it, raises nothing and stays within its bounds."""

import json
import os
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.realtime.continuity.continuity import Continuity
from service.realtime.continuity.kept import KEEP_FROM_CLIENT, KEEP_FROM_UPSTREAM
from service.realtime.continuity.limits import ContinuityLimits
from service.realtime.continuity.replay import REPLAY_TYPES
from service.realtime.frames import Opcode, build_frame
from tests.support.continued_call import client_frame
from tests.support.kept_session import KeptSession, NewUpstream, user_text

IS_DEEP: Final = os.environ.get("TEST_PROFILE") == "deep"
EXAMPLES: Final = int(os.environ.get("TEST_EXAMPLES", "10000" if IS_DEEP else "40"))
pytestmark = pytest.mark.timeout(36_000 if IS_DEEP else 180)

ids = st.sampled_from(["a", "b", "c"])
types = st.sampled_from(
    ["message", "function_call", "function_call_output", "audio", "output_audio", "text", "input_audio", "mcp_call"]
)
words = st.sampled_from(
    ["user", "assistant", "system", "completed", "incomplete", "cancelled", "hello there", "root", ""]
)
scalars = st.one_of(ids, types, words, st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
KEYS: Final = (
    "type", "id", "item_id", "item", "role", "content", "call_id", "name", "arguments", "output", "status",
    "session", "response", "response_id", "metadata", "previous_item_id", "audio", "input", "format", "rate",
    "transcription", "turn_detection", "transcript", "text", "part", "delta", "error", "code", "param", "event_id",
    "audio_start_ms", "audio_end_ms", "expires_at", "tools", "truncation", "conversation_id", "output_index",
    "phase",
)  # fmt: skip
keys = st.sampled_from(KEYS)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=5)),
    max_leaves=5,
)
objects = st.dictionaries(keys, values, max_size=7)
client_types = st.sampled_from(sorted(KEEP_FROM_CLIENT))
upstream_types = st.sampled_from(sorted(KEEP_FROM_UPSTREAM))
events = st.one_of(
    st.tuples(st.just("client"), client_types, objects),
    st.tuples(st.just("upstream"), upstream_types, objects),
    st.tuples(st.just("audio"), st.just(""), objects),
    st.tuples(st.just("lose"), st.just(""), objects),
    st.tuples(st.just("intercept"), client_types, objects),
    st.tuples(st.just("swallow"), upstream_types, objects),
)


def server_frame(event: Any) -> bytes:
    """An event of upstream, as it is written."""
    return build_frame(Opcode.TEXT, json.dumps(event).encode())


def feed(continuity: Continuity, action: str, kind: str, body: dict[str, Any], now: float) -> None:
    """Do one action."""
    if action == "client":
        continuity.keep_client(kind, client_frame({**body, "type": kind}), now)
    elif action == "upstream":
        continuity.keep_upstream(kind, server_frame({**body, "type": kind}), now)
    elif action == "audio":
        continuity.keep_audio(3, 2_000, now)
    elif action == "intercept":
        continuity.intercept(kind, client_frame({**body, "type": kind}), now)
    elif action == "swallow":
        continuity.swallow(kind, server_frame({**body, "type": kind}), now)
    else:
        lose(continuity, body, now)


def lose(continuity: Continuity, session: dict[str, Any], now: float) -> None:
    """Lose upstream, and go over to one with any session."""
    for payload in continuity.upstream_lost(now):
        assert isinstance(json.loads(payload)["type"], str)
    replay = continuity.start_replay(json.dumps({"session": session}).encode(), now, is_tolerant=True)
    NewUpstream(replay).run(session=session)
    continuity.begin_flush(replay, now)
    while continuity.next_flush(now) is not None:
        pass


@settings(max_examples=EXAMPLES)
@given(st.lists(events, max_size=15))
def test_any_events_are_read(actions: list[tuple[str, str, dict[str, Any]]]) -> None:
    """Values of any type under the keys that are read."""
    limits = ContinuityLimits(log_bytes=500, item_bytes=3_000, audio_bytes=3_000, journal_bytes=3_000)
    session = KeptSession(limits)
    continuity = session.continuity
    for number, (action, kind, body) in enumerate(actions):
        feed(continuity, action, kind, body, float(number))
        assert continuity.mirror.items.bytes <= 3_000 + 2_000
        assert continuity.journal.audio_bytes >= 0
        assert continuity.journal.event_bytes == sum(entry.size for entry in continuity.journal.events)
    continuity.boundary(100.0)
    lose(continuity, {}, 100.0)
    assert sum(item.size for item in continuity.mirror.items) == continuity.mirror.items.bytes


@settings(max_examples=EXAMPLES)
@given(st.lists(st.tuples(st.sampled_from(sorted(REPLAY_TYPES)), objects), max_size=10))
def test_any_events_of_a_new_upstream_are_read(answers: list[tuple[str, dict[str, Any]]]) -> None:
    """They never make a replay end before all is acknowledged."""
    session = KeptSession(instructions="be brief")
    session.item(user_text("a", "hello"))
    replay = session.replay().replay
    for kind, body in answers:
        replay.take(is_final=True)
        replay.received(kind, server_frame({**body, "type": kind}))
    assert not replay.is_done or replay.sent_items == 1


def test_deeply_nested_event_ends_continuity_and_not_the_session() -> None:
    """Python reads it, and cannot write it again."""
    session = KeptSession()
    for depth in range(100, 3_000, 100):
        body = '{"type":"session.update","session":{"tools":' + "[" * depth + "]" * depth + "}}"
        raw = build_frame(Opcode.TEXT, body.encode(), b"abcd")
        session.continuity.keep_client("session.update", raw, session.now)
        session.up("session.updated", session={"type": "realtime"})
        session.continuity.fold(session.now)
