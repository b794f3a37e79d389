"""How the simulator behaves on one dial: a scenario, times, and the points at which the connection ends.

Tests give a list of behaviours, one for each successive dial (`Simulator.set_dials`). Pure data.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar, Self

from service.simulator.events import JSONObject
from service.simulator.scenarios import parse_scenario

_MIN_CLOSE_CODE, _MAX_CLOSE_CODE = 1000, 4999
EXPIRIES = ("true", "absent", "null", "past", "far", "text")


class Moment(Enum):
    """When a fault happens, relative to an event of the connection."""

    BEFORE_SENT = "before-sent"  # the server has generated the event, and does not send it
    MID_FRAME = "mid-frame"  # behind the first half of the frame's bytes
    AFTER_SENT = "after-sent"
    RECEIVED = "received"  # the client's event is not processed
    PROCESSED = "processed"  # what the client's event causes at once has been sent
    EITHER = "either"  # after an event of the server, or instead of processing one of the client
    TIME = "time"  # after the 101


class EndKind(Enum):
    """How a connection ends; `ERROR` does not end it."""

    RESET = "reset"
    FIN = "fin"  # without a close frame
    SILENCE = "silence"  # no event, pong or close frame any more
    EXPIRE = "expire"  # session_expired, close 1001
    QUOTA = "quota"  # credit_balance_exhausted, close 1013
    CLOSE = "close"
    ERROR = "error"  # an `error` event instead of processing the client's


_MID_FRAME_KINDS = (EndKind.RESET, EndKind.FIN, EndKind.SILENCE)


@dataclass(frozen=True, slots=True)
class End:
    """One way to end a connection. Text form: ``reset``, ``close:1013:reason``, ``error:code``."""

    kind: EndKind
    code: int = 1000  # of the close frame
    text: str = ""  # the close reason, or the code of the error
    RESET: ClassVar["End"]
    FIN: ClassVar["End"]
    SILENCE: ClassVar["End"]
    EXPIRE: ClassVar["End"]
    QUOTA: ClassVar["End"]

    def __post_init__(self) -> None:
        if not _MIN_CLOSE_CODE <= self.code <= _MAX_CLOSE_CODE:
            raise ValueError(f"close code {self.code}: expected {_MIN_CLOSE_CODE} to {_MAX_CLOSE_CODE}")

    @classmethod
    def close(cls, code: int, reason: str = "") -> Self:
        """Return the end by a close frame."""
        return cls(EndKind.CLOSE, code, reason)

    @classmethod
    def error(cls, code: str) -> Self:
        """Return the refusal of a client's event, which ends nothing."""
        return cls(EndKind.ERROR, text=code)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the text form. Raises ValueError."""
        name, _, rest = text.partition(":")
        kinds = [kind.value for kind in EndKind]
        if name not in kinds:
            raise ValueError(f"end is {name!r}; expected one of {', '.join(kinds)}")
        kind = EndKind(name)
        if kind is EndKind.CLOSE:
            code, _, reason = rest.partition(":")
            return cls.close(int(code), reason)
        return cls(kind, text=rest)

    def __str__(self) -> str:
        parts = [self.kind.value, *([str(self.code)] if self.kind is EndKind.CLOSE else []), self.text]
        return ":".join(part for part in parts if part)


End.RESET, End.FIN, End.SILENCE = End(EndKind.RESET), End(EndKind.FIN), End(EndKind.SILENCE)
End.EXPIRE, End.QUOTA = End(EndKind.EXPIRE), End(EndKind.QUOTA)


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens at the `count`-th event of a type (None: of any type) whose JSON contains a text. Raises ValueError."""

    moment: Moment
    end: End
    event: str | None = None
    count: int = 1
    contains: str | None = None
    every: bool = False  # at each event from the `count`-th on
    seconds: float = 0.0  # of `Moment.TIME`

    def __post_init__(self) -> None:
        if self.moment is Moment.MID_FRAME and self.end.kind not in _MID_FRAME_KINDS:
            raise ValueError(f"{self.end} in the middle of a frame: only reset, fin and silence are possible")
        if self.end.kind is EndKind.ERROR and self.moment is not Moment.RECEIVED:
            raise ValueError("an error is an answer to an event that was received")
        if self.count < 1:
            raise ValueError(f"count is {self.count}; events are counted from 1")

    def __str__(self) -> str:
        if self.moment is Moment.TIME:
            return f"after {self.seconds:g} s: {self.end}"
        return f"{self.moment.value} {self.event or 'any event'} {self.count}: {self.end}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """One dial. Without a value, the simulator's option or what the request selects applies. Raises ValueError."""

    scenario: str | None = None
    session_seconds: float | None = None
    expires_at: str | float = "true"  # what the session object says: of `EXPIRIES`, or seconds from now
    round_trip_ms: float = 0.0  # half of it each way, and a whole one before the 101
    vad_lag_ms: float = 0.0  # speech events follow this much more audio
    text_drift: bool = False  # answers in text after a conversation whose answers were created as text
    answer_seconds: float | None = None  # of audio in each answer; else as long as what the user said
    session_patch: JSONObject = field(default_factory=dict)  # merged into the session, whatever the client asks for
    pace: float | None = None  # speed of the answers' audio relative to real time; 0: none
    transcription_seconds: float = 0.0  # between the commit and the transcript
    transcription_fails: bool = False
    context_tokens: int | None = None  # of input; what `truncation` drops beyond it is as old as possible
    refuses_other_model: bool = False  # a `session.update` with another `model`, which is ignored otherwise
    mcp_call_type: str = "mcp_call"  # of the items; some clients also expect `mcp_tool_call`
    mcp_seconds: float | None = 0.0  # that an MCP server takes for its list of tools, or a call; None: for ever
    creates_on_sideband: bool = False  # `session.created`, which the provider does not send there
    transcribes_created_audio: bool = False  # also `input_audio` of items that the client creates
    faults: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        parse_scenario(self.scenario)
        if isinstance(self.expires_at, str) and self.expires_at not in EXPIRIES:
            raise ValueError(f"expires_at is {self.expires_at!r}; expected a number or one of {', '.join(EXPIRIES)}")
        if min(self.round_trip_ms, self.vad_lag_ms) < 0:
            raise ValueError("round_trip_ms and vad_lag_ms must be 0 or more")
        if self.session_seconds is not None and self.session_seconds <= 0:
            raise ValueError(f"session_seconds is {self.session_seconds}; it must be greater than 0")


class FaultWatch:
    """Counts the events of one connection and finds the faults that they cause."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        self._faults = faults
        self._counts = [0] * len(faults)

    def check(self, event_type: str, text: str, *moments: Moment) -> Fault | None:
        """Count an event at these moments; return the fault that it causes."""
        found = None
        for number, fault in enumerate(self._faults):
            is_event = fault.event in (None, event_type) and (fault.contains is None or fault.contains in text)
            if fault.moment in moments and is_event:
                self._counts[number] += 1
                reached = self._counts[number]
                if found is None and (reached == fault.count or (fault.every and reached > fault.count)):
                    found = fault
        return found

    @property
    def timed(self) -> list[Fault]:
        """The faults at a time."""
        return [fault for fault in self._faults if fault.moment is Moment.TIME]


class DialPlan:
    """The behaviours of the next dials, in a list for each lane: the dials with the same ``simulate_lane`` in the query."""

    def __init__(self, default: Behaviour) -> None:
        self._default = default
        self._lanes: dict[str | None, list[Behaviour]] = {}

    def set(self, behaviours: tuple[Behaviour, ...], lane: str | None) -> None:
        """Replace what is left of a lane's list."""
        self._lanes[lane] = list(behaviours)

    def left(self, lane: str | None) -> int:
        """Return the number of behaviours that no dial has used yet."""
        return len(self._lanes.get(lane, ()))

    def next(self, lane: str | None) -> Behaviour:
        """Return the behaviour of a new dial."""
        behaviours = self._lanes.get(lane)
        return behaviours.pop(0) if behaviours else self._default
