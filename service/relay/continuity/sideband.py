"""Continuity of a sideband: the call is the provider's, with all of its state, so another connection joins it as it is."""

from service.realtime.continuity.continuity import Boundary, Continuity
from service.realtime.continuity.interception import Interception
from service.realtime.continuity.journal_entries import OVERHEAD_BYTES
from service.realtime.continuity.kept import SESSION_CREATED
from service.realtime.continuity.mirror import Mirror
from service.realtime.continuity.replay import Replay

MAX_BYTES = 262_144
"""Of what the client sends while there is no connection."""


class SidebandContinuity(Continuity):
    """Keeps only what the client sends while there is no connection. A sideband is never renewed."""

    is_renewed = False

    def __init__(self) -> None:
        super().__init__()
        self._frames: list[bytes] = []
        self._bytes = 0
        self._has_upstream = True
        self._has_rejoined = False

    def keep_client(self, event_type: str, raw: bytes, now: float) -> None:  # noqa: ARG002 - of the class
        """Keep it while there is no connection."""
        if not self._has_upstream and not self._is_off:
            self._frames.append(raw)
            self._bytes += len(raw) + OVERHEAD_BYTES

    def keep_appends(self, frames: list[bytes], since: float, now: float, *, is_alike: bool = False) -> None:  # noqa: ARG002 - of the class
        """Keep them while there is no connection."""
        if not self._has_upstream and not self._is_off:
            self._frames += frames
            self._bytes += sum(map(len, frames))

    def keep_upstream(self, event_type: str, raw: bytes, now: float) -> None:
        """Nothing: no connection needs it again."""

    def unkeepable(self, *, is_intricate: bool = False) -> None:
        """Note it while there is no connection: what has passed is not needed. An intricate event is kept unread."""
        if not self._has_upstream and not is_intricate:
            super().unkeepable()

    def give_up(self, reason: str) -> None:
        """Free everything: no other connection joins the call."""
        super().give_up(reason)
        self._frames, self._bytes = [], 0

    def keep_audio(self, events: int, size: int, now: float, item_id: str = "") -> None:
        """Nothing."""

    @property
    def kept_bytes(self) -> int:
        """All bytes that are kept."""
        return self._bytes

    @property
    def not_renewable(self) -> str | None:
        """Why no other connection can join, or None."""
        return self._reason

    @property
    def is_full(self) -> bool:
        """Whether the client must be held back."""
        return self._bytes > MAX_BYTES

    def boundary(self, now: float) -> Boundary:  # noqa: ARG002 - of the class
        """None: it is not renewed."""
        return Boundary.NONE

    def start_replay(self, created: bytes, now: float, *, is_tolerant: bool = False) -> Replay:  # noqa: ARG002
        """Nothing is replayed: the call is about to be joined."""
        self._has_rejoined = True
        return _NoReplay(self.mirror, created)

    def upstream_lost(self, now: float) -> list[bytes]:  # noqa: ARG002 - of the class
        """The answers of the call go on: nothing ends."""
        self._has_upstream = False
        return []

    def begin_flush(self, replay: Replay, now: float) -> None:
        """Nothing: what the client has sent meanwhile follows."""

    def next_flush(self, now: float, max_bytes: int = 0) -> Interception | None:  # noqa: ARG002 - of the class
        """Return everything, once."""
        self._has_upstream = True
        frames, self._frames, self._bytes = self._frames, [], 0
        return Interception(frames) if frames else None

    @property
    def swallows(self) -> bool:
        """Whether another connection has joined the call."""
        return self._has_rejoined

    def swallow(self, event_type: str, raw: bytes, now: float) -> bool:  # noqa: ARG002 - of the class
        """Whether an event begins the session once more: some servers send that first, and SDKs would configure it anew."""
        return event_type == SESSION_CREATED


class _NoReplay(Replay):
    def __init__(self, mirror: Mirror, created: bytes) -> None:
        super().__init__(mirror, created, is_tolerant=True)

    def take(self, *, is_final: bool, max_bytes: int = 0) -> list[bytes]:  # noqa: ARG002 - of the class
        return []

    @property
    def is_ready(self) -> bool:
        return True

    @property
    def is_done(self) -> bool:
        return True
