"""A leg is freed with its last reference: what it refers to, a whole session, need not wait for the garbage collector."""

import asyncio
import gc
import weakref

import pytest

from service.wire.leg import Leg
from tests.support.recording_transport import RecordingReceiver


@pytest.mark.parametrize("is_lost_first", [True, False])
async def test_leg_is_freed_whenever_its_connection_is_lost(is_lost_first: bool) -> None:
    """Before its receiver starts as well: the transport, which has dropped it, gets no new reference."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    async with server:
        transport, _ = await loop.create_connection(asyncio.Protocol, *server.sockets[0].getsockname())
        leg = Leg(transport, asyncio.Protocol(), b"", masks=True)
        transport.set_protocol(leg)
        receiver = RecordingReceiver()
        gc.disable()
        try:
            if not is_lost_first:
                leg.start(receiver, receiver.receive)
            leg.abort()
            await leg.closed
            if is_lost_first:
                leg.start(receiver, receiver.receive)
            await asyncio.sleep(0)
            freed = weakref.ref(leg)
            del leg, transport
            assert freed() is None
        finally:
            gc.enable()
    assert receiver.lost
