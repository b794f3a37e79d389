"""The pipes of a session that may go on with another upstream: they report what the session keeps. Forwarding is the same."""

from typing import Final, Protocol

from service.realtime.frames import Header, Opcode, read_header
from service.realtime.kept import KEEP_FROM_UPSTREAM, MAX_KEPT_BYTES
from service.realtime.kept_scanner import APPEND
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import Chunk, ControlFrame, Item, MessageEnd
from service.relay.latency import AUDIO_DELTA, ResponseTimer
from service.relay.pipe import Pipe
from service.relay.pipe_owner import PipeOwner
from service.telemetry.traffic import Traffic
from service.wire.leg import Leg

_HEADER_BYTES: Final = 4
"""Of a frame of upstream, if its length has two bytes, as that of nearly every event of audio."""
_FIN: Final = 0x80


class Keeper(Protocol):
    """What a session keeps of its two streams, beside the messages that `PipeOwner.event_read` shows."""

    def keep_append(self, raw: bytes) -> None:
        """One whole message of audio of the client was forwarded."""

    def keep_unread(self) -> None:
        """A message, or a part of one, was forwarded that is too large to be kept."""

    def keep_audio(self, events: int, size: int) -> None:
        """Events of audio of upstream were forwarded."""

    def pong_received(self, payload: bytes) -> None:
        """Upstream answered the ping with this payload."""


class KeptClientPipe(Pipe):
    """Forwards what the client sends. Its scanner is a `KeptScanner` or a `ReviewedScanner`, whose chunks are audio."""

    __slots__ = ("_is_unread", "_keeper")

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
        self._is_unread = False  # within a message that is too large

    def read(self, data: bytes) -> None:
        """Called by the source's transport."""
        try:
            if self._audio.goes_on_with(data):
                write = self._sink.write_frames
                write(data)
                self._keeper.keep_append(data)
            else:
                self._source.receive_read(data)
        except Exception:  # noqa: BLE001 - a bug of the relay: it ends this session and no other
            self._owner.fail()

    def _forward_event(self, event_type: str, data: bytes) -> None:
        super()._forward_event(event_type, data)
        if event_type == APPEND:
            self._keeper.keep_append(data)

    def _forward_run(self, data: bytes, event_types: list[str]) -> None:
        super()._forward_run(data, event_types)
        for event_type, raw in zip(event_types, _frames(data), strict=False):
            if event_type == APPEND:
                self._keeper.keep_append(raw)

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
                self._keeper.keep_append(raw if len(message) == 1 else b"".join(message))
                message.clear()
        if message or chunk.mid_frame:
            self._is_unread = True
            self._keeper.keep_unread()


class KeptUpstreamPipe(Pipe):
    """Forwards what upstream sends, and reports how much audio there was."""

    __slots__ = ("_keeper",)

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
            self._keeper.keep_audio(1, len(data))

    def _forward_run(self, data: bytes, event_types: list[str]) -> None:
        super()._forward_run(data, event_types)
        for event_type, raw in zip(event_types, _frames(data), strict=False):
            if event_type == AUDIO_DELTA:
                self._keeper.keep_audio(1, len(raw))

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
            elif item.size > MAX_KEPT_BYTES and item.type in KEEP_FROM_UPSTREAM:
                self._keeper.keep_unread()


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
