"""A locked policy cannot be changed or read by its client, however the client writes its events."""

import json
from collections.abc import Mapping
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.realtime.frames import Opcode, build_frame
from service.realtime.policy import Policy, PolicyField, created_as_updated, update_event, without_instructions
from service.realtime.policy_review import review
from service.realtime.policy_scanner import ReviewedScanner
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import Chunk, Item, Message
from tests.support.messages import pop_payload

SECRET = "CANARY-instructions"
FIELDS: tuple[PolicyField, ...] = get_args(PolicyField)
LOCKED = Policy(name="p", instructions=SECRET, voice="marin", locked=frozenset(FIELDS))

# -- how a client may write an event ------------------------------------------------------------------------------------

NAMES = st.sampled_from(
    [*FIELDS, "max_response_output_tokens", "prompt", "session", "response", "audio", "input", "output", "type", "item",
     "role", "event_id", "metadata", "model", "Session", "INSTRUCTIONS", "turnDetection", "in\u017ftructions", "to\u006fls"]
)  # fmt: skip
TYPES = st.sampled_from(
    ["session.update", "response.create", "conversation.item.create", "input_audio_buffer.append", "response.cancel",
     "transcription_session.update", "x"]
)  # fmt: skip
SCALARS = (
    st.sampled_from([None, True, 0, 1.5, "realtime", "user", "system", "transcription", "A" * 200, "\"'\\"]) | TYPES
)


@st.composite
def written(draw: st.DrawFn, value: Any) -> str:
    """JSON text of a value, with escapes, spaces, and repeated keys. Objects are lists of pairs."""
    space = draw(st.sampled_from(["", " ", "\t\n"]))
    if isinstance(value, tuple):
        pairs = [f"{draw(string(name))}{space}:{space}{draw(written(inner))}" for name, inner in value]
        return f"{{{space}{','.join(pairs)}{space}}}"
    if isinstance(value, list):
        return f"[{','.join(draw(written(inner)) for inner in value)}{space}]"
    return draw(string(value)) if isinstance(value, str) else json.dumps(value)


@st.composite
def string(draw: st.DrawFn, text: str) -> str:
    """JSON text of a string, of which some letters may be written as escapes."""
    escaped = draw(st.sets(st.integers(0, min(len(text), 8)), max_size=2))
    letters = [
        f"\\u{ord(c):04x}" if i in escaped and ord(c) < 0xFFFF else json.dumps(c)[1:-1] for i, c in enumerate(text)
    ]
    return f'"{"".join(letters)}"'


def objects(names: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    """Objects as tuples of pairs, three levels deep."""
    level = st.recursive(
        SCALARS, lambda inner: st.lists(st.tuples(names, inner), max_size=3).map(tuple) | st.lists(inner, max_size=2),
        max_leaves=6,
    )  # fmt: skip
    return st.lists(st.tuples(names, level), max_size=4).map(tuple)


ATTACKS: list[Any] = [
    (("type", "session.update"), ("session", (("type", "realtime"), ("instructions", "x")))),
    (("type", "session.update"), ("session", (("audio", (("output", (("voice", "x"),)),)),))),
    (("type", "session.update"), ("session", (("audio", (("input", (("turn_detection", None),)),)),))),
    (("type", "session.update"), ("session", (("audio", (("input", None),)),))),
    (("type", "session.update"), ("session", (("audio", None),))),
    (("type", "session.update"), ("session", (("type", "transcription"),))),
    (("type", "session.update"), ("session", (("prompt", (("id", "x"),)),))),
    (("type", "session.update"), ("session", (("max_response_output_tokens", 9),))),
    (("type", "response.create"), ("response", (("tools", []), ("max_output_tokens", 9)))),
    (("type", "response.create"), ("response", (("input", [(("type", "message"), ("role", "system"))]),))),
    (("type", "conversation.item.create"), ("item", (("type", "message"), ("role", "developer")))),
    (("type", "response.cancel"), ("session", (("instructions", "x"),))),
    (("type", "input_audio_buffer.append"), ("audio", "A" * 200)),
]
SPELLINGS = st.sampled_from([str.upper, str.title, lambda name: name.replace("s", "\u017f"), lambda name: name + "\0"])


@st.composite
def disguised(draw: st.DrawFn, value: Any) -> Any:
    """A value with keys that are repeated with another value, spelled in other ways, in another order, and added."""
    if isinstance(value, list):
        return [draw(disguised(inner)) for inner in value]
    if not isinstance(value, tuple):
        return value
    pairs: list[tuple[str, Any]] = []
    for name, inner in value:
        spelled = draw(SPELLINGS)(name) if draw(st.integers(0, 9)) == 0 else name
        same = [(spelled, draw(disguised(inner)))]
        if draw(st.integers(0, 5)) == 0:
            same.insert(draw(st.integers(0, 1)), (name, draw(SCALARS | objects(NAMES))))
        pairs += same
    if draw(st.booleans()):
        pairs.insert(draw(st.integers(0, len(pairs))), (draw(NAMES), draw(SCALARS)))
    return tuple(draw(st.permutations(pairs))) if draw(st.booleans()) else tuple(pairs)


@st.composite
def events(draw: st.DrawFn) -> str:
    """JSON text of an event: an attack in disguise, or random at all levels; now and then no JSON."""
    text = draw(written(draw(st.sampled_from(ATTACKS).flatmap(disguised) | objects(NAMES))))
    return draw(st.sampled_from([text] * 8 + [text[:-1], text + " x", "\ufeff" + text, text.replace('"', "'")]))


# -- how a server may read it -------------------------------------------------------------------------------------------


def last_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """As most parsers do."""
    return dict(pairs)


def first_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """As some do."""
    return dict(reversed(pairs))


def without_case(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """As Go does, where the key that matches may be spelled in another case."""
    return {key.casefold(): value for key, value in pairs}


def without_underscores(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """As protobuf does, which takes `turnDetection` for `turn_detection`."""
    known = {name.replace("_", ""): name for name in (*FIELDS, "max_response_output_tokens")}
    return {known.get(key.replace("_", "").casefold(), key): value for key, value in pairs}


READERS = (last_wins, first_wins, without_case, without_underscores)


def changes_policy(event: Any) -> bool:
    """Whether a server that has parsed this event would let it change what is locked."""
    if not isinstance(event, Mapping):
        return False
    container = {"session.update": "session", "response.create": "response"}.get(str(event.get("type")))
    if container is not None and isinstance(found := event.get(container), Mapping):
        items = list_of(found.get("input")) if container == "response" else []
        return sets_locked(found, container) or any(is_instruction(item) for item in items)
    return event.get("type") == "conversation.item.create" and is_instruction(event.get("item"))


def sets_locked(found: Mapping[str, Any], container: str) -> bool:
    """Whether a session or response has a locked field, or null in place of the object that has it."""
    audio = found.get("audio", {})
    if not isinstance(audio, Mapping):
        return True
    parts = [audio.get("input", {}), audio.get("output", {})]
    names = {*FIELDS, "max_response_output_tokens", "prompt"}
    return (
        bool(names & found.keys())
        or not all(isinstance(part, Mapping) for part in parts)
        or "turn_detection" in parts[0]
        or "voice" in parts[1]
        or (container == "session" and found.get("type", "realtime") != "realtime")
    )


def list_of(value: Any) -> list[Any]:
    """The value if it is a list."""
    return value if isinstance(value, list) else []


def is_instruction(item: Any) -> bool:
    """Whether an item speaks as the system."""
    return isinstance(item, Mapping) and str(item.get("role")) in {"system", "developer"}


def read_by(reader: Any, payload: bytes) -> Any:
    """What a lenient server reads; None if nothing."""
    try:
        return json.loads(payload.decode("utf-8-sig", "replace"), object_pairs_hook=reader)
    except ValueError:
        return None


def passed(frames: bytes, cuts: list[int], policy: Policy = LOCKED) -> bytes:
    """The bytes that reach the provider, of a stream that arrives in pieces, through the fast paths."""
    scanner, out = ReviewedScanner(max_message_bytes=1 << 24), bytearray()
    points = sorted(cut % (len(frames) + 1) for cut in cuts)
    for start, end in zip([0, *points], [*points, len(frames)], strict=True):
        data = frames[start:end]
        if scanner.missing_bytes and data:
            if len(data) < scanner.missing_bytes:
                scanner.add_part(data)
                continue
            data = scanner.complete(data)
        if not data:
            continue
        if scanner.whole_event_type(data) is not None:
            out += data
            continue
        size = scanner.feed_events(data)
        out += data[:size]
        if size < len(data) and not scanner.missing_bytes:
            out += b"".join(allowed(item, policy) for item in scanner.feed(data[size:]))
    return bytes(out)


def allowed(item: Item, policy: Policy) -> bytes:
    """What of an item is forwarded."""
    if isinstance(item, Message):
        return item.raw if review(policy, item.payload) is None else b""
    return item.raw if isinstance(item, Chunk) else b""


def framed(text: str, key: bytes, opcode: Opcode, cut: int) -> bytes:
    """The text as one message, in two fragments if `cut` is within it."""
    payload = text.encode("utf-8", "surrogatepass")
    if not 0 < cut < len(payload):
        return build_frame(opcode, payload, key)
    first = build_frame(opcode, payload[:cut], key)
    return bytes((first[0] & 0x7F,)) + first[1:] + build_frame(Opcode.CONTINUATION, payload[cut:], key)


FRAMING = st.tuples(
    st.binary(min_size=4, max_size=4), st.sampled_from([Opcode.TEXT, Opcode.TEXT, Opcode.BINARY]), st.integers(0, 400)
)


@given(st.lists(st.tuples(events(), FRAMING), min_size=1, max_size=4), st.lists(st.integers(0, 3000), max_size=4))
def test_no_client_event_changes_a_locked_policy(
    sequence: list[tuple[str, tuple[bytes, Opcode, int]]], cuts: list[int]
) -> None:
    """Whatever a client sends, however it is cut: no server that reads what passes finds a locked field in it."""
    frames = b"".join(framed(text, *framing) for text, framing in sequence)

    run = bytearray(passed(frames, cuts))
    while run:
        payload = pop_payload(run, masked=True)
        for reader in READERS:
            assert not changes_policy(read_by(reader, payload)), payload


@pytest.mark.parametrize("size", [100, 70_000, 300_000, 3_000_000])
@pytest.mark.parametrize("fragment_bytes", [50, 40_000, 70_000, 4_000_000])
def test_large_event_is_read_to_its_end(size: int, fragment_bytes: int) -> None:
    """A locked field behind anything, in frames of any size: no byte of it passes."""
    padding, pieces = "A" * size, []
    text = f'{{"type":"session.update","session":{{"x":"{padding}","instructions":"x"}}}}'.encode()
    step = max(fragment_bytes, size // 100)
    for start in range(0, len(text), step):
        frame = build_frame(Opcode.CONTINUATION if start else Opcode.TEXT, text[start : start + step], b"abcd")
        is_last = start + step >= len(text)
        pieces.append(frame if is_last else bytes((frame[0] & 0x7F,)) + frame[1:])

    assert b"" == passed(b"".join(pieces), []) == passed(b"".join(pieces), [*range(0, size, max(1, size // 7))])


@given(st.sampled_from(FIELDS), FRAMING, st.data())
def test_each_lock_refuses_its_own_field_only(
    field: Any, framing: tuple[bytes, Opcode, int], data: st.DataObject
) -> None:
    """What the policy does not lock passes unchanged."""
    session: dict[str, dict[str, Any]] = {
        "instructions": {"instructions": "x"}, "voice": {"audio": {"output": {"voice": "ash"}}}, "tools": {"tools": []},
        "max_output_tokens": {"max_output_tokens": 5}, "turn_detection": {"audio": {"input": {"turn_detection": None}}},
    }  # fmt: skip
    policy = Policy(name="p", locked=frozenset({field}))
    chosen = data.draw(st.sampled_from(FIELDS))
    pairs = (("type", "session.update"), ("session", tuple_of({"type": "realtime", **session[chosen]})))
    frame = framed(data.draw(written(pairs)), *framing)

    assert (b"" if chosen == field else frame) == passed(frame, [], policy)


def tuple_of(value: Any) -> Any:
    """Objects as tuples of pairs."""
    return tuple((key, tuple_of(inner)) for key, inner in value.items()) if isinstance(value, dict) else value


AUDIO = '{"type":"input_audio_buffer.append","audio":"' + "A" * 300 + '"}'


@pytest.mark.parametrize(
    "text",
    [
        AUDIO,
        AUDIO.replace('"}', '","event_id":"e1"}'),
        '{"type":"input_audio_buffer.append","audio":"' + "A" * 90_000 + '"}',
        '{"type":"conversation.item.create","item":{"type":"message","role":"user","content":[]}}',
        '{"type":"conversation.item.create","item":{"type":"function_call_output","call_id":"c","output":"instructions"}}',
        '{"type":"session.update","session":{"type":"realtime","audio":{"output":{"speed":1.1},"input":{"format":null}}}}',
        '{"type":"response.create","response":{"conversation":"none","metadata":{"instructions":"x","prompt":"y"}}}',
        '{"type":"response.create","response":null}',
        '{"type":"response.create"}',
        '{"event_id":"e","type":"response.cancel"}',
    ],
)
def test_what_is_not_locked_passes_unchanged(text: str) -> None:
    """Audio in plain form, unread; everything else after its review."""
    frame = framed(text, b"abcd", Opcode.TEXT, 0)

    assert frame == passed(frame, []) == passed(frame, [5, 60, 100])


@pytest.mark.parametrize(
    ("event", "reason", "param"),
    [
        ({"type": "session.update", "session": {"instructions": ""}}, "instructions_locked", "session.instructions"),
        ({"type": "response.create", "response": {"instructions": ""}}, "instructions_locked", "response.instructions"),
        ({"type": "session.update", "session": {"prompt": {"id": "x"}}}, "instructions_locked", "session.prompt"),
        ({"type": "conversation.item.create", "item": {"role": "system"}}, "instructions_locked", "item.role"),
        ({"type": "response.create", "response": {"input": [{"role": "developer"}]}}, "instructions_locked",
         "response.input[0].role"),
        ({"type": "session.update", "session": {"audio": {"output": {"voice": "ash"}}}}, "field_locked",
         "session.audio.output.voice"),
        ({"type": "session.update", "session": {"voice": "ash"}}, "field_locked", "session.voice"),
        ({"type": "session.update", "session": {"audio": None}}, "field_locked", "session.audio"),
        ({"type": "session.update", "session": {"audio": {"input": None}}}, "field_locked", "session.audio.input"),
        ({"type": "session.update", "session": {"Tools": []}}, "field_locked", "session.tools"),
        ({"type": "response.create", "response": {"max_output_tokens": 9}}, "field_locked", "response.max_output_tokens"),
        ({"type": "session.update", "session": {"type": "transcription"}}, "field_locked", "session.type"),
        ({"type": "session.update", "session": []}, "bad_request", "session"),
        ({"type": "session.future", "session": {}}, "bad_request", "type"),
        ({"type": {}}, "bad_request", "type"),
        ({"type": "response.cancel", "Type": "session.update"}, "bad_request", "type"),
    ],
)  # fmt: skip
def test_refusal_names_lock_and_place(event: Mapping[str, Any], reason: str, param: str) -> None:
    """And the id of the client's event, if it has one."""
    refusal = review(LOCKED, json.dumps({**event, "event_id": "mine"}).encode())

    assert refusal is not None
    assert (reason, param, "mine") == (refusal.reason, refusal.param, refusal.event_id)


@pytest.mark.parametrize(
    "payload",
    [b"\xff{}", b"[1]", b"{", b'{"type":"response.cancel","type":"response.cancel"}', b'{"type":"response.cancel","x":NaN}',
     b"[" * 100_000, b'{"type":"response.create","response":{"metadata":{"a":1,"\\u0061":2}}}'],
)  # fmt: skip
def test_event_that_parsers_read_differently_is_refused(payload: bytes) -> None:
    """Even one without a locked field."""
    refusal = review(LOCKED, payload)

    assert refusal is not None
    assert ("bad_request", None) == (refusal.reason, refusal.event_id)


def test_nothing_is_reviewed_without_a_lock() -> None:
    """The policy is then a default."""
    assert None is review(
        Policy(name="p", instructions="x"), b'{"type":"session.update","session":{"instructions":""}}'
    )


# -- what the client reads ----------------------------------------------------------------------------------------------


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
