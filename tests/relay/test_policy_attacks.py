"""Random events of a client with a locked policy, through a real relay: what the provider gets, and what the client reads."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from service.realtime.frames import Opcode, build_frame
from tests.clients_file.relays import TOKENS, connect, table, write
from tests.clients_file.secret_requests import created, use
from tests.support.harness import RawClient, Relay, payload_of, running_relay
from tests.support.policy_events import FRAMING, READERS, SECRET, changes_policy, events, framed, read_by, written
from tests.support.raw_websocket_server import CREATED, ServerConnection, raw_upstream

LOCKED = f"""
[policies.kiosk]
instructions = "{SECRET}"
voice = "marin"
locked = ["instructions", "voice", "tools", "max_output_tokens", "turn_detection"]
"""
PATH = "/v1/realtime?model=scripted"
MARKER = b'{"type":"input_audio_buffer.clear"}'
CLEARED = b'{"type":"input_audio_buffer.cleared"}'


class Provider:
    """A provider that keeps what it gets, and answers each marker with all that it shows of the session."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.shown: list[bytes] = []

    async def serve(self, connection: ServerConnection) -> None:
        """Accept the policy, then read until the client leaves."""
        connection.send(CREATED)
        update = await connection.next_message()
        assert SECRET in update.decode()
        connection.send(b'{"type":"session.updated","session":{"instructions":"%s"}}' % SECRET.encode())
        async for payload in connection.messages():
            self.received.append(payload)
            if payload == MARKER:
                connection.writer.write(b"".join(self.shown) + build_frame(Opcode.TEXT, CLEARED))


@asynccontextmanager
async def relay_with(provider: Provider, path: Path) -> AsyncIterator[Relay]:
    """A relay whose client kiosk has the locked policy."""
    write(path, table("kiosk", 'policy = "kiosk"\nmax_sessions = 1000') + LOCKED + table("web"))
    async with (
        raw_upstream(provider.serve) as upstream,
        running_relay(OPENAI_BASE_URL=upstream.url, RELAY_MODEL="probe", RELAY_CLIENTS_FILE=str(path)) as relay,
    ):
        yield relay


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def attacked(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Relay, Provider]]:
    """One relay for all examples, so that they are cheap."""
    provider = Provider()
    async with relay_with(provider, tmp_path_factory.mktemp("policy") / "clients.toml") as relay:
        yield relay, provider


PLACES = st.sampled_from(
    [("session.updated", "session"), ("session.created", "session"), ("response.created", "response"),
     ("response.done", "response"), ("session.extended", "session"), ("error", "session")]
)  # fmt: skip
QUOTING = [
    {"type": "error", "error": {"type": "invalid_request_error", "message": f"Invalid prompt: {SECRET}"}},
    {"type": "response.done", "response": {"status": "failed", "status_details": {"error": {"message": SECRET}}}},
    {"type": "conversation.item.input_audio_transcription.failed", "error": {"message": SECRET, "code": SECRET}},
]


@st.composite
def shown_events(draw: st.DrawFn) -> bytes:
    """A frame in which the provider shows the instructions, in any encoding; unmasked, in two fragments now and then."""
    if draw(st.integers(0, 3)) == 0:
        text = json.dumps(draw(st.sampled_from(QUOTING)))
    else:
        kind, place = draw(PLACES)
        content: tuple[Any, ...] = (("id", "x"), ("instructions", SECRET), ("tools", []))
        text = draw(written((("type", kind), (place, tuple(draw(st.permutations(content)))))))
    payload = text.encode()
    cut = draw(st.integers(0, 2 * len(payload)))
    if not 0 < cut < len(payload):
        return build_frame(Opcode.TEXT, payload)
    first = build_frame(Opcode.TEXT, payload[:cut])
    return bytes((first[0] & 0x7F,)) + first[1:] + build_frame(Opcode.CONTINUATION, payload[cut:])


async def read_until_cleared(client: RawClient) -> list[Any]:
    """What a client reads up to the answer to its marker."""
    read: list[Any] = []
    while not read or read[-1] != json.loads(CLEARED):
        item = await client.next_item()
        assert isinstance(item, bytes), "the session has ended"
        assert SECRET.encode() not in item
        read.append(json.loads(payload_of(item)))
    return read


@pytest.mark.asyncio(loop_scope="module")
@settings(
    max_examples=15,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # `test_policy_review.py` shrinks faster
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    st.lists(st.tuples(events(), FRAMING), min_size=10, max_size=20),
    st.lists(shown_events(), max_size=4),
    st.lists(st.integers(0, 10_000), max_size=4),
)
async def test_client_neither_changes_nor_reads_a_locked_policy(
    attacked: tuple[Relay, Provider],
    sequence: list[tuple[str, tuple[bytes, Opcode, int]]],
    shown: list[bytes],
    cuts: list[int],
) -> None:
    """Whatever it sends, in frames and writes of any size, and whatever the provider then shows of the session."""
    relay, provider = attacked
    provider.received, provider.shown = [], shown
    client = await connect(relay, path=PATH)
    stream = b"".join(framed(text, *framing) for text, framing in sequence) + build_frame(Opcode.TEXT, MARKER, b"abcd")
    points = sorted(cut % len(stream) for cut in cuts)
    for start, end in zip([0, *points], [*points, len(stream)], strict=True):
        client.writer.write(stream[start:end])
        await asyncio.sleep(0)
    read = await read_until_cleared(client)
    await client.close()

    assert provider.received[-1] == MARKER
    for payload in provider.received:
        for reader in READERS:
            assert not changes_policy(read_by(reader, payload)), payload
    assert SECRET not in json.dumps(read)
    assert SECRET not in str(relay.logs)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("first_byte", [0xC1, 0xC2, 0xA1, 0x91, 0x83])
async def test_frame_with_reserved_bits_reaches_no_provider(attacked: tuple[Relay, Provider], first_byte: int) -> None:
    """A compressed frame without the extension, or an unknown opcode: the session ends before a byte passes."""
    relay, provider = attacked
    provider.received = []
    client = await connect(relay, path=PATH)
    frame = build_frame(Opcode.TEXT, b'{"type":"session.update","session":{"instructions":"x"}}', b"abcd")
    client.writer.write(bytes((first_byte,)) + frame[1:])

    assert 1002 == (await client.until_close() or (None,))[0]
    assert [] == provider.received
    await client.answer_close()
    await client.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_event_with_too_many_values_ends_the_session(attacked: tuple[Relay, Provider]) -> None:
    """With the reason and close code of a message that is too large; other sessions go on."""
    relay, provider = attacked
    provider.received, provider.shown = [], []
    client, other = await connect(relay, path=PATH), await connect(relay, path=PATH)
    client.send_frame(Opcode.TEXT, b'{"type":"conversation.item.create","item":{"x":[' + b"{}," * 600_000 + b"0]}}")

    assert 1009 == (await client.until_close() or (None,))[0]
    other.send_frame(Opcode.TEXT, MARKER)
    await read_until_cleared(other)
    assert [MARKER] == provider.received
    await client.answer_close()
    await client.close()
    await other.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_instructions_of_a_client_secret_are_hidden_as_well(attacked: tuple[Relay, Provider]) -> None:
    """The server of an app locks them for its page; the provider shows them in each event that could."""
    relay, provider = attacked
    provider.received, provider.shown = [], [build_frame(Opcode.TEXT, json.dumps(event).encode()) for event in QUOTING]
    body = {"session": {"instructions": SECRET}, "locked": ["instructions"]}
    client = await use(relay, await created(relay, body, token=TOKENS["web"]), "model=scripted")
    client.send_frame(Opcode.TEXT, MARKER)
    read = await read_until_cleared(client)
    await client.close()

    assert ["session.created", "error", "response.done"] == [event["type"] for event in read[:3]]
