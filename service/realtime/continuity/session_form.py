"""The configuration of a session, and how it is set on another upstream. Pure.

The provider shows the whole effective session in each of its session events. What differs from a new session is sent in one
`session.update`, so that read-only keys and defaults are not. If upstream refuses that, or shows another session
afterwards, the client's own accepted words are sent instead.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from service.realtime.continuity.kept import SESSION_UPDATE, dumps, text
from service.realtime.events import parse_object
from service.realtime.values import child, finite_number

_SETTABLE: Final = frozenset(
    {
        "audio",
        "include",
        "instructions",
        "max_output_tokens",
        "output_modalities",
        "parallel_tool_calls",
        "prompt",
        "reasoning",
        "tool_choice",
        "tools",
        "tracing",
        "truncation",
    }
)
"""The keys of `session.update` in the API reference. A client may know later ones; the others belong to one session."""
_FIXED: Final = frozenset({"model", "type"})
_TYPES: Final = frozenset({"realtime", "transcription"})
_NESTED: Final = ("input", "output")


class SessionForm:
    """The effective session, as upstream showed it last, and what the client asked for."""

    def __init__(self) -> None:
        self._payload = b""
        self._own = b""  # all accepted updates of the client, merged, as JSON
        self.type = ""
        self.answers_turns = False  # upstream answers each turn that it detects by itself
        self.transcribes = False
        self.mcp_servers: Sequence[str] = ()  # whose tools upstream lists
        self.is_spoken = False  # answers are speech unless a request wants text
        self.keeps_all = False  # the server drops nothing of the conversation, so nothing may be lost here
        self.expires_at: float | None = None
        self.is_supported = False
        self.revision = 0

    def set(self, payload: bytes, session: Mapping[str, Any]) -> None:
        """Take over a session event."""
        self._payload = payload
        self.revision += 1
        self.type = text(session.get("type")) or "realtime"
        self.is_supported = self.type in _TYPES and isinstance(session.get("audio"), Mapping)
        source = child(child(session, "audio"), "input")
        turns = source.get("turn_detection")
        self.answers_turns = isinstance(turns, Mapping) and bool(turns.get("create_response", True))
        self.transcribes = isinstance(source.get("transcription"), Mapping)
        self.mcp_servers = tuple(text(tool.get("server_label")) for tool in _mcp_tools(session.get("tools")))
        modalities = session.get("output_modalities")
        self.is_spoken = isinstance(modalities, list) and "audio" in modalities
        self.keeps_all = session.get("truncation") == "disabled"
        self.expires_at = finite_number(session.get("expires_at")) or self.expires_at

    def moved(self, created: bytes) -> None:
        """Take over the times of another upstream, which has this session from now on."""
        self.expires_at = finite_number(child(parse_object(created), "session").get("expires_at"))

    def accepted(self, update: bytes) -> None:
        """Add an update of the client that upstream has accepted."""
        session = child(parse_object(update), "session")
        self._own = dumps(_merged(parse_object(self._own), session))

    @property
    def size(self) -> int:
        """The bytes that it keeps."""
        return len(self._payload) + len(self._own)

    @property
    def session(self) -> Mapping[str, Any]:
        """The session object."""
        return child(parse_object(self._payload), "session")

    @property
    def own(self) -> Mapping[str, Any]:
        """The session object of the client's accepted updates."""
        return parse_object(self._own)

    @property
    def wanted(self) -> dict[str, Any]:
        """What another session must show as well: what a client can set, or has set."""
        known = (_SETTABLE | self.own.keys()) - _FIXED
        return {key: value for key, value in self.session.items() if key in known}

    def update(self, current: Mapping[str, Any], event_id: str) -> bytes:
        """The `session.update` that makes `current` this session; empty if there is no difference."""
        wanted = self.wanted
        tools = self.own.get("tools")
        if isinstance(tools, list) and not all(map(_is_function, tools)):
            # What upstream shows of them may lack their credentials.
            current = {**current, "tools": None}
            wanted["tools"] = tools
        changes = difference(wanted, current)
        return update_event(changes | {"type": self.type}, event_id) if changes else b""

    def own_update(self, event_id: str) -> bytes:
        """The client's own updates as one; empty if there is none."""
        own = {key: value for key, value in self.own.items() if key not in _FIXED}
        return update_event(own | {"type": self.type}, event_id) if own else b""


def _mcp_tools(tools: object) -> Iterator[Mapping[str, Any]]:
    for tool in tools if isinstance(tools, list) else ():
        if isinstance(tool, Mapping) and tool.get("type") == "mcp":
            yield tool


def _is_function(tool: object) -> bool:
    return isinstance(tool, Mapping) and tool.get("type") == "function"


def update_event(session: Mapping[str, Any], event_id: str) -> bytes:
    """Return the payload of a `session.update`."""
    return dumps({"type": SESSION_UPDATE, "event_id": event_id, "session": session})


def difference(wanted: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be set so that `current` becomes `wanted`. A key is set as a whole, those of audio one by one."""
    changes: dict[str, Any] = {}
    for key, value in wanted.items():
        if value == current.get(key):
            continue
        if key == "audio" and isinstance(value, Mapping):
            audio = _audio_difference(value, child(current, "audio"))
            if audio:
                changes[key] = audio
        else:
            changes[key] = _without_nulls(value)
    return changes


def _audio_difference(wanted: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, Any]:
    changes = {}
    for side in _NESTED:
        sets, has = child(wanted, side), child(current, side)
        differing = {name: _without_nulls(value) for name, value in sets.items() if value != has.get(name)}
        if differing:
            changes[side] = differing
    return changes


def _without_nulls(value: object) -> object:
    """A null within an object is what upstream shows for a key that was not set."""
    if isinstance(value, Mapping):
        return {name: _without_nulls(part) for name, part in value.items() if part is not None}
    return value


def differing_keys(wanted: Mapping[str, Any], current: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys of a session that another one does not show alike, for a log: those of audio with their path.

    Another one may show more: a server that is newer has defaults that the one before did not have.
    """
    names = []
    for key in sorted(wanted):
        mine, other = wanted[key], current.get(key)
        if key == "audio" and isinstance(mine, Mapping) and isinstance(other, Mapping):
            for side in sorted(mine):
                one, two = child(mine, side), child(other, side)
                names += [f"audio.{side}.{name}" for name in sorted(one) if not _is_shown(one[name], two.get(name))]
        elif not _is_shown(mine, other):
            names.append(key)
    return tuple(names)


def _is_shown(wanted: object, current: object) -> bool:
    """Whether a value has at least the keys of another; a null is no key."""
    if isinstance(wanted, Mapping) and isinstance(current, Mapping):
        return all(_is_shown(value, current.get(name)) for name, value in wanted.items())
    if isinstance(wanted, list) and isinstance(current, list) and len(wanted) == len(current):
        return all(map(_is_shown, wanted, current))
    return wanted == current


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Merge an update into those before: keys of audio one by one, others as a whole."""
    merged = {**old, **new}
    if isinstance(old.get("audio"), Mapping) and isinstance(new.get("audio"), Mapping):
        audio = {**old["audio"], **new["audio"]}
        for side in _NESTED:
            if side in audio:
                audio[side] = {**child(old["audio"], side), **child(new["audio"], side)}
        merged["audio"] = audio
    return merged
