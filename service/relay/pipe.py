"""One direction of a session: scan, count, forward, hold back.

Data frames are forwarded unchanged; control frames belong to the leg on which they arrive. While the sink is full the source
is not read: a peer that reads nothing costs `WRITE_HIGH_BYTES` and one read.
"""

from collections.abc import Callable
from typing import Final

from service.realtime.audio_run import AUDIO_TYPES
from service.realtime.closing import parse_close
from service.realtime.frames import Opcode
from service.realtime.live_events import TYPES_OF_TRANSCRIPTS, Transcript
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import Chunk, ControlFrame, Item, Message, MessageEnd, Violation
from service.relay.held_source import HeldSource
from service.relay.latency import ResponseTimer
from service.relay.lookahead import find_close
from service.relay.pipe_owner import UNSEARCHED, PipeOwner, Rewritten, Verdict, is_unsearchable, replacement
from service.relay.watchdog import UNLIMITED
from service.telemetry.traffic import OTHER, Traffic
from service.wire.leg import Leg
from service.wire.turns import feed_some

SHORT_READ_BYTES: Final = 1024
"""A shorter read is more often one event that is read whole, such as a transcript, than several that are only forwarded."""
MESSAGES_PER_READ: Final = 8
"""How many messages of a read are looked for one by one; `wire.turns` bounds what is behind them."""
MAX_PONGS: Final = 16
"""Pings of one delivery that are each answered; of more, only the last."""


class Pipe(HeldSource):
    """Reads one leg and forwards to the other. A `Receiver` of its source.

    Ownership: the pipe owns neither leg. It takes over the `on_full` and `on_writable` hooks of its sink, and is the only one
    to forward data to it; the session adds the relay's own events at message boundaries.
    Order: bytes are forwarded in the order of their arrival, unchanged, before `receive` returns; nothing is queued here.
    Backpressure: the source is held while the sink is full, until `stop_backpressure`.
    Errors: `receive` never raises. What the peer does wrong, and an exception of the relay, goes to the owner, whose methods
    are called from within `receive` and may call `discard_data`: from then on only control frames are processed.
    Counting: events of audio and transcripts that `read` forwards are counted by `count_audio`, and the owner hears of the
    transcripts then.
    """

    __slots__ = (
        "_audio",
        "_bytes",
        "_dropped_last",
        "_former_fragments",
        "_latency",
        "_messages",
        "control_frames",
        "dropped_bytes",
        "dropped_messages",
        "on_processed",
        "rate",
    )

    def __init__(
        self, source: Leg, sink: Leg, scanner: Scanner, *, traffic: Traffic, latency: ResponseTimer, owner: PipeOwner
    ) -> None:
        super().__init__(source, sink, scanner, traffic, owner)
        self._audio = scanner.new_audio_run()
        self._latency = latency
        self._dropped_last = False  # the end of that message is not counted
        self.dropped_messages = self.dropped_bytes = 0
        self._messages = self._bytes = 0
        self.control_frames = self._former_fragments = 0
        self.on_processed: Callable[[], None] | None = None  # not called after a read that was one whole message
        self.rate = UNLIMITED  # of the source's frames

    @property
    def at_message_boundary(self) -> bool:
        """Whether an event of the relay's own may be written to the sink now."""
        return self._scanner.at_message_boundary and not self._scanner.mid_frame

    @property
    def messages(self) -> int:
        """The messages forwarded so far."""
        return self.count_audio()

    @property
    def forwarded_bytes(self) -> int:
        """The bytes forwarded so far."""
        self.count_audio()
        return self._bytes

    def totals(self) -> tuple[int, int, int]:
        """The messages forwarded so far, all frames of the source, and the bytes of all its messages, for the limits."""
        messages = self.count_audio()
        return messages, self._frames(), self._bytes + self.dropped_bytes

    def _frames(self) -> int:
        fragments = self._former_fragments + self._scanner.fragments
        return self._messages + self.dropped_messages + self.control_frames + fragments

    def replace_source(self, source: Leg, scanner: Scanner) -> None:
        """Read another leg from now on; the last message of the one before is whole. The caller starts this pipe on it."""
        self.count_audio()
        self._former_fragments += self._scanner.fragments
        if self.is_held_back:
            self._source.release("sink_full")
            source.hold("sink_full")
        self._source, self._scanner, self._audio = source, scanner, scanner.new_audio_run()
        self._count_kept()

    def read(self, data: bytes) -> None:
        """Called by the source's transport. Most messages are events of audio like the one before, and go no other way."""
        try:
            if self._audio.goes_on_with(data):
                write = self._sink.write_frames
                write(data)
            else:
                self._source.receive_read(data)
        except Exception:  # noqa: BLE001 - a bug of the relay: it ends this session and no other
            self._owner.fail()

    def receive(self, data: bytes) -> None:
        """Forward the next bytes of the source."""
        try:
            scanner, transcripts = self._scanner, self._audio.transcripts
            if transcripts is not None and transcripts.found:
                self.count_audio()  # in the order of the stream
            if scanner.missing_bytes:
                if len(data) < scanner.missing_bytes:
                    scanner.add_part(data)
                elif len(data) == scanner.missing_bytes:
                    self.receive(scanner.complete(data))
                else:
                    self._receive_events(scanner.complete(data))
                return
            if len(data) < SHORT_READ_BYTES and not self.discards_data and self._receive_message(data):
                return
            event_type = scanner.whole_event_type(data)
            if event_type is None:
                self._receive_events(data)
            elif not self.discards_data:
                self._forward_event(event_type, data)
                if event_type in AUDIO_TYPES:
                    self.count_audio()  # of another type
                    self._audio.starts_with(data, event_type)
        except Exception:  # noqa: BLE001 - a bug of the relay: it ends this session and no other
            self._owner.fail()

    def count_audio(self) -> int:
        """Count what `read` has forwarded, each second; returns the messages so far."""
        audio = self._audio
        if audio.events:
            messages, size = audio.take()
            self._messages += messages
            self._bytes += size
            self._traffic.add(audio.event_type, messages, size)
            self._source.note_life()
        transcripts = audio.transcripts
        if transcripts is not None and transcripts.found:
            self._count_transcripts(*transcripts.take())
        return self._messages

    def _count_transcripts(self, transcripts: list[Transcript], size: int) -> None:
        self._messages += len(transcripts)
        self._bytes += size
        self._traffic.bytes += size
        for speaker, _, _ in transcripts:
            self._traffic.count(TYPES_OF_TRANSCRIPTS[speaker])
        self._source.note_life()
        self._owner.transcripts_passed(transcripts)

    def _forward_event(self, event_type: str, data: bytes) -> None:
        """`_forward` and `_count` without the calls, for an event that is a read. A run of audio may go on behind it."""
        self._sink.write(data)
        size = len(data)
        self._bytes += size
        traffic = self._traffic
        traffic.bytes += size
        self._messages += 1
        counts = traffic.types
        counts[event_type if event_type in counts else OTHER] += 1
        latency = self._latency
        if event_type in (latency.watched_types if self._from_upstream else latency.client_types):
            self._event_passed(event_type)

    def discard_data(self) -> None:
        """Forward and count no data from now on."""
        self.count_audio()
        self._audio.stop()
        self.discards_data = True

    def _receive_events(self, data: bytes) -> None:
        """Forward whole events and messages, the events behind one another in one run; process the rest item by item.

        A run of audio goes on behind them if there is no rest.
        """
        scanner = self._scanner
        for _ in range(MESSAGES_PER_READ):
            if self.discards_data:
                break
            size = scanner.feed_events(data)
            if size:
                self._forward_run(data if size == len(data) else data[:size], scanner.event_types)
                data = data[size:]
            if scanner.missing_bytes:
                self._audio.stop()
                return
            if not data:
                return
            size = scanner.first_frame_bytes(data)
            if not (size and self._receive_message(data if size == len(data) else data[:size])):
                break
            data = data[size:]
            if not data:
                return
        self._audio.stop()  # an event may be incomplete from now on, or bytes wait for their turn
        self.process(feed_some(self._source, scanner, data))

    def _forward_run(self, data: bytes, event_types: list[str]) -> None:
        self._forward(data)
        counts, latency = self._traffic.types, self._latency
        self._messages += len(event_types)
        for event_type in event_types:
            counts[event_type if event_type in counts else OTHER] += 1
            if event_type in (latency.watched_types if self._from_upstream else latency.client_types):
                self._event_passed(event_type)

    def _event_passed(self, event_type: str) -> None:
        """Report an event that is watched, and end the run of audio if that is watched now: its next may begin an answer."""
        latency = self._latency
        latency.event_passed(event_type)
        if self._audio.event_type in (latency.watched_types if self._from_upstream else latency.client_types):
            self._audio.stop()

    def process(self, items: list[Item]) -> None:
        """Process what the scanner made of the source's bytes. Raises what the owner raises."""
        pings: list[bytes] = []
        for item in items:
            match item:
                case ControlFrame(Opcode.PING, payload):
                    self.control_frames += 1
                    pings.append(payload)
                case ControlFrame(opcode, payload):
                    self.control_frames += 1
                    if opcode is Opcode.CLOSE:
                        self._owner.peer_closed(self._direction, *parse_close(payload))
                case Violation() if not self.discards_data:
                    self._owner.peer_broke_protocol(self._direction, item)
                case Message(event_type, payload, _) if self.discards_data:
                    self._owner.event_discarded(event_type, payload)
                case _ if not self.discards_data:
                    self._process_data(item)
        if pings:
            self._answer(pings)
        self._count_kept()
        if self.on_processed is not None:
            self.on_processed()
        if self._frames() > self.rate.maximum:
            self._owner.rate_exceeded()

    def _receive_message(self, data: bytes) -> bool:
        """Process `data` if it is a whole message of a requested type, as `process` would; returns whether it is."""
        message = self._scanner.whole_message(data)
        if message is None:
            return False
        event_type = message.type
        verdict = self._owner.event_read(self._direction, message)
        if verdict is Verdict.FORWARD and event_type is not None and not self.discards_data:
            self._forward_event(event_type, data)
        else:
            self._forward_as(verdict, message.payload, data)
            if not self.discards_data:
                self._end_message(event_type)
        if self.on_processed is not None:
            self.on_processed()
        return True

    def _process_data(self, item: Item) -> None:
        match item:
            case Chunk(raw, mid_frame):
                self._forward(raw, mid_frame=mid_frame)
            case MessageEnd(event_type, _):
                self._end_message(event_type)
            case Message(_, payload, raw):
                self._forward_as(self._owner.event_read(self._direction, item), payload, raw)

    def _end_message(self, event_type: str | None) -> None:
        if not self._dropped_last:
            self._count(event_type)
        self._dropped_last = False

    def _answer(self, pings: list[bytes]) -> None:
        if len(pings) > MAX_PONGS:  # only the last one needs an answer (RFC 6455 section 5.5.3)
            pings = pings[-1:]
        for payload in pings:
            self._source.send_control(Opcode.PONG, payload)

    def peer_lost(self) -> None:
        """Report that the source disconnected."""
        try:
            self._owner.peer_lost(self._direction)
        except Exception:  # noqa: BLE001 - a bug of the relay: it ends this session and no other
            self._owner.fail()

    def scan_for_close(self) -> None:
        """Search the unread bytes of a held source for its close frame, and report it."""
        close = find_close(self._source, self._scanner)
        if close is not None:
            self._owner.peer_closed(self._direction, *close)

    def _forward(self, raw: bytes, *, mid_frame: bool = False) -> None:
        self._sink.write(raw, mid_frame=mid_frame)
        size = len(raw)
        self._bytes += size
        self._traffic.bytes += size

    def _count(self, event_type: str | None) -> None:
        self._messages += 1
        self._traffic.count(event_type)
        self.event_sent(event_type)

    def event_sent(self, event_type: str | None) -> None:
        """Report an event to the timer: one that was forwarded, or sent in the place of upstream."""
        watched = self._latency.watched_types if self._from_upstream else self._latency.client_types
        if event_type is not None and event_type in watched:
            self._latency.event_passed(event_type)

    def _forward_as(self, verdict: Verdict | Rewritten, payload: bytes, raw: bytes) -> None:
        """Forward an event unchanged, unless the owner has it dropped, rewritten, or redacted and it holds a key's part."""
        if is_unsearchable(verdict, payload):
            self._owner.peer_broke_protocol(self._direction, UNSEARCHED)
            return
        event = None if verdict is Verdict.FORWARD else replacement(verdict, payload, self._owner.redact)
        if event is not None:
            self._sink.send_event(event)
        elif verdict is Verdict.DROP:
            self._dropped_last = True
            self.dropped_messages += 1
            self.dropped_bytes += len(raw)
        else:
            self._forward(raw)
