"""Client events that try to change a locked policy, as random JSON text, and what servers may read in them."""

import json
from collections.abc import Mapping
from typing import Any, get_args

from hypothesis import strategies as st

from service.realtime.frames import Opcode, build_frame
from service.realtime.policy import Policy, PolicyField

SECRET = "CANARY-instructions"
FIELDS: tuple[PolicyField, ...] = get_args(PolicyField)
LOCKED = Policy(name="p", instructions=SECRET, voice="marin", locked=frozenset(FIELDS))
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


_LEVEL: st.SearchStrategy[Any] = st.recursive(
    SCALARS, lambda inner: st.lists(st.tuples(NAMES, inner), max_size=3).map(tuple) | st.lists(inner, max_size=2),
    max_leaves=6,
)  # fmt: skip
OBJECTS: st.SearchStrategy[Any] = st.lists(st.tuples(NAMES, _LEVEL), max_size=4).map(tuple)
"""Objects as tuples of pairs, three levels deep. Hypothesis validates a strategy once, which takes longer than a draw."""
SCALARS_OR_OBJECTS = SCALARS | OBJECTS


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
            same.insert(draw(st.integers(0, 1)), (name, draw(SCALARS_OR_OBJECTS)))
        pairs += same
    if draw(st.booleans()):
        pairs.insert(draw(st.integers(0, len(pairs))), (draw(NAMES), draw(SCALARS)))
    return tuple(draw(st.permutations(pairs))) if draw(st.booleans()) else tuple(pairs)


VALUES = ["[" * 400 + "]" * 400, "[" * 3000 + "]" * 3000, "1e999", "-0", "1E-400", "9" * 5000, "NaN", "01", "'x'"]
"""What parsers read in different ways, or not at all, in front of an attack."""


BODIES: st.SearchStrategy[Any] = st.sampled_from(ATTACKS).flatmap(disguised) | OBJECTS


@st.composite
def events(draw: st.DrawFn) -> str:
    """JSON text of an event: an attack in disguise, or random at all levels; now and then no JSON."""
    text = draw(written(draw(BODIES)))
    variants = [text[:-1], text + " x", "\ufeff" + text, text.replace('"', "'"), f"[{text}]"]
    variants += [text.replace("{", f'{{"x":{value},', 1) for value in VALUES if text.startswith("{") and text != "{}"]
    return draw(st.sampled_from([text] * 10 + variants))


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


def tuple_of(value: Any) -> Any:
    """Objects as tuples of pairs."""
    return tuple((key, tuple_of(inner)) for key, inner in value.items()) if isinstance(value, dict) else value
