"""The pipes of a session that may go on with another upstream: they report what the session keeps. Forwarding is the same."""

from collections.abc import Iterator
from struct import Struct
from typing import Final, Protocol

from service.realtime.continuity.audio_length import item_of_delta
from service.realtime.continuity.kept import APPEND, BODILESS, KEEP_FROM_UPSTREAM, MAX_KEPT_BYTES
from service.realtime.frames import Header, Opcode, read_header
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import Chunk, ControlFrame, Item, MessageEnd
from service.relay.latency import AUDIO_DELTA, ResponseTimer
from service.relay.pipe import Pipe
from service.relay.pipe_owner import PipeOwner
from service.telemetry.traffic import Traffic
from service.wire.leg import Leg

MAX_APPENDS: Final = 48
_APPENDS_BYTES: Final = 65_536
"""Of appends that are not taken yet, about a second of speech; at most `MAX_APPENDS`, of `MAX_APPEND_BYTES`."""
MAX_APPEND_BYTES: Final = 8192
"""A larger append, of more than 120 ms of speech, is taken at once."""
_HEADER_BYTES: Final = 4
"""Of a frame of upstream, if its length has two bytes, as that of nearly every event of audio."""
_CLIENT_HEADER_BYTES: Final = 8  # of such a frame of the client
_PONG_HEADER_BYTES: Final = 2
_FIN: Final = 0x80
_unpack_length = Struct(">H").unpack_from


class Keeper(Protocol):
    """What a session keeps of its two streams, beside the messages that `PipeOwner.event_read` shows."""

    appends: list[bytes]
    """Whole messages of audio of the client that were forwarded and are not taken yet. It is always the same list."""
    awaited_pong: bytes
    """The frame with which upstream answers the last ping, empty if it has."""

    def take_appends(self, *, are_alike: bool = False) -> None:
        """Take `appends`. `are_alike`: they have one size."""

    def keep_unread(self) -> None:
        """A message, or a part of one, was forwarded that is too large to be kept."""

    def keep_bodiless(self, event_type: str) -> None:
        """An event of a type in `BODILESS` was forwarded, that was too large to be read."""

    def keep_audio(self, events: int, size: int, item_id: str = "") -> None:
        """Events of audio of upstream were forwarded; `item_id`: their item, if it was read."""

    def pong_received(self, payload: bytes) -> None:
        """Upstream answered the ping with this payload."""


class KeptClientPipe(Pipe):
    """Forwards what the client sends. Its scanner is a `KeptScanner` or a `ReviewedScanner`, whose chunks are audio."""

    __slots__ = ("_appends", "_is_unread", "_keeper", "_most_appends", "_size_mark")

    def __init__(
        self,
        source: Leg,
        sink: Leg,
        scanner: Scanner,
        *,
        traffic: Traffic,
        latency: ResponseTimer,
        owner: PipeOwner,
        keeper: Keeper,
    ) -> None:
        super().__init__(source, sink, scanner, traffic=traffic, latency=latency, owner=owner)
        self._audio = scanner.new_audio_run(MAX_APPEND_BYTES)
        self._keeper = keeper
        self._appends = keeper.appends  # here, because a cold session's keeper is in no cache of the processor
        self._most_appends = MAX_APPENDS  # fewer of larger ones
        self._size_mark: object = (
            None  # of the run of audio when a full list was taken; None if others came behind that
        )
        self._is_unread = False  # within a message that is too large

    def read(self, data: bytes) -> None:
        """Called by the source's transport."""
        try:
            if self._audio.goes_on_with(data):
                write = self._sink.write_frames
                write(data)
                appends = self._appends
                appends.append(data)
                if len(appends) >= self._most_appends:
                    self._take_run()
            else:
                self._source.receive_read(data)
        except Exception:  # noqa: BLE001 - a bug of the relay: it ends this session and no other
            self._owner.fail()

    def _take_run(self) -> None:
        """Have a full list taken. If all of it is of a run in which no size has changed, nothing of it need be looked at."""
        mark = self._audio.size_mark
        self._keeper.take_appends(are_alike=mark is self._size_mark)
        self._size_mark = mark

    def _keep_append(self, raw: bytes) -> None:
        appends = self._appends
        appends.append(raw)
        self._most_appends, self._size_mark = min(MAX_APPENDS, _APPENDS_BYTES // len(raw)), None
        if len(raw) > MAX_APPEND_BYTES or len(appends) >= self._most_appends:
            self._keeper.take_appends()

    def _forward_event(self, event_type: str, data: bytes) -> None:
        super()._forward_event(event_type, data)
        if event_type == APPEND:
            self._keep_append(data)

    def _forward_run(self, data: bytes, event_types: list[str]) -> None:
        super()._forward_run(data, event_types)
        for event_type, raw in zip(event_types, _events(data, _CLIENT_HEADER_BYTES), strict=True):
            if event_type == APPEND:
                self._keep_append(raw)

    def _process_data(self, item: Item) -> None:
        super()._process_data(item)
        if isinstance(item, Chunk):
            self._keep_chunk(item)
        elif isinstance(item, MessageEnd):
            self._is_unread = False

    def _keep_chunk(self, chunk: Chunk) -> None:
        """Whole messages of audio, or a part of a message that is too large to be kept."""
        message: list[bytes] = []
        for raw in () if self._is_unread or chunk.mid_frame else _frames(chunk.raw):
            message.append(raw)
            if raw[0] & _FIN:
                self._keep_append(raw if len(message) == 1 else b"".join(message))
                message.clear()
        if message or chunk.mid_frame:
            self._is_unread = True
            self._keeper.keep_unread()


class KeptUpstreamPipe(Pipe):
    """Forwards what upstream sends, and reports how much audio there was."""

    __slots__ = ("_is_audio_read", "_keeper")

    def __init__(
        self,
        source: Leg,
        sink: Leg,
        scanner: Scanner,
        *,
        traffic: Traffic,
        latency: ResponseTimer,
        owner: PipeOwner,
        keeper: Keeper,
    ) -> None:
        super().__init__(source, sink, scanner, traffic=traffic, latency=latency, owner=owner)
        self._keeper = keeper
        self._is_audio_read = False

    def replace_source(self, source: Leg, scanner: Scanner) -> None:
        """See `Pipe`. No answer of it has begun."""
        super().replace_source(source, scanner)
        self._is_audio_read = False

    def read_audio(self, *, is_needed: bool) -> None:
        """Read the item of each event of audio from now on, because several answers come at once; or no longer."""
        if is_needed != self._is_audio_read:
            self.count_audio()
            self._is_audio_read = is_needed
            self._audio = self._scanner.new_audio_run(0) if is_needed else self._scanner.new_audio_run()

    def read(self, data: bytes) -> None:
        """Called by the source's transport. The answers to pings are recognised as they are expected."""
        try:
            if self._audio.goes_on_with(data):
                write = self._sink.write_frames
                write(data)
            elif data == self._keeper.awaited_pong and not (
                self._scanner.missing_bytes or self._scanner.mid_frame or self.on_processed
            ):
                self._source.note_life()
                self.control_frames += 1
                self._keeper.pong_received(self._keeper.awaited_pong[_PONG_HEADER_BYTES:])
            else:
                self._source.receive_read(data)
        except Exception:  # noqa: BLE001 - a bug of the relay: it ends this session and no other
            self._owner.fail()

    def count_audio(self) -> int:
        """Report the events of audio that `read` has forwarded, and count them."""
        messages, size = self._messages, self._bytes
        counted = super().count_audio()
        if counted != messages:
            self._keeper.keep_audio(counted - messages, self._bytes - size)
        return counted

    def _forward_event(self, event_type: str, data: bytes) -> None:
        super()._forward_event(event_type, data)
        if event_type == AUDIO_DELTA:
            self._keeper.keep_audio(1, len(data), item_of_delta(data) if self._is_audio_read else "")

    def _forward_run(self, data: bytes, event_types: list[str]) -> None:
        super()._forward_run(data, event_types)
        events = event_types.count(AUDIO_DELTA)
        if self._is_audio_read:
            for event_type, raw in zip(event_types, _events(data, _HEADER_BYTES), strict=True):
                if event_type == AUDIO_DELTA:
                    self._keeper.keep_audio(1, len(raw), item_of_delta(raw))
        elif events == len(event_types):
            self._keeper.keep_audio(events, len(data))
        elif events:
            sizes = map(len, _events(data, _HEADER_BYTES))
            self._keeper.keep_audio(
                events, sum(size for size, kind in zip(sizes, event_types, strict=True) if kind == AUDIO_DELTA)
            )

    def process(self, items: list[Item]) -> None:
        """Report answers to pings."""
        super().process(items)
        for item in items:
            if isinstance(item, ControlFrame) and item.opcode is Opcode.PONG:
                self._keeper.pong_received(item.payload)

    def _process_data(self, item: Item) -> None:
        super()._process_data(item)
        if isinstance(item, MessageEnd):
            if item.type == AUDIO_DELTA:
                self._keeper.keep_audio(1, item.size + _HEADER_BYTES)
            elif item.size > MAX_KEPT_BYTES and item.type in BODILESS:
                self._keeper.keep_bodiless(item.type)
            elif item.size > MAX_KEPT_BYTES and item.type in KEEP_FROM_UPSTREAM:
                self._keeper.keep_unread()


def _events(data: bytes, header_bytes: int) -> Iterator[bytes]:
    """The events of a run, each one frame with a length of two bytes."""
    offset, end = 0, len(data)
    while offset < end:
        next_offset = offset + header_bytes + _unpack_length(data, offset + 2)[0]
        yield data[offset:next_offset]
        offset = next_offset


def _frames(data: bytes) -> list[bytes]:
    """The whole frames of which `data` consists."""
    frames, offset, is_masked = [], 0, bool(data[1] & 0x80)
    while offset < len(data):
        header = read_header(data, offset, masked=is_masked)
        if not isinstance(header, Header):
            break
        frames.append(data[offset : offset + header.size + header.length])
        offset += header.size + header.length
    return frames
