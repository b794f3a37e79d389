"""How a session closes one of its sides, and what it reads from upstream before that."""

import asyncio
from collections.abc import Callable
from typing import Final

from service.relay.ending import CloseInstruction
from service.relay.live_call import settle
from service.relay.ticker import TICK_SECONDS
from service.upstream.dial import UpstreamConnection
from service.wire.closing import close_leg
from service.wire.leg import Leg
from service.wire.receiver import InputDiscarder

UPSTREAM_CLOSE_SECONDS: Final = 1.25
"""Upper bound on flushing and closing upstream. An open upstream socket costs money: it is closed within two seconds of the
client's disconnect, also while it is held (see `ticker.TICK_SECONDS`)."""
CLIENT_CLOSE_SECONDS: Final = 5.0
"""Upper bound on flushing and closing the client."""
LOST_CLIENT_CLOSE_SECONDS: Final = TICK_SECONDS + UPSTREAM_CLOSE_SECONDS
"""Upper bound on noticing that a deadline has passed and ending the session of a lost client, which gets no handshake."""

RESPONSE_CANCEL: Final = b'{"type":"response.cancel"}'
RESPONSE_SETTLE_SECONDS: Final = 1.0
"""How long a session with a budget waits for the tokens of the response that its end cuts off."""


async def settle_response(
    connected: UpstreamConnection, on_event: Callable[[str | None, bytes], None], *, is_running: Callable[[], bool]
) -> None:
    """Cancel the response and read what those that run cost: a client that leaves before their end must pay for them."""
    await settle(
        connected,
        asyncio.get_running_loop().time() + RESPONSE_SETTLE_SECONDS,
        lambda message: on_event(message.type, message.payload),
        request=RESPONSE_CANCEL,
        is_last=lambda _: not is_running(),
    )


async def close_side(leg: Leg, close: CloseInstruction, deadline: float) -> bool:
    """Close a side by its instruction, before `deadline` (loop time); returns what `close_leg` returns."""
    if close.abort:
        leg.abort()
    elif close.close_received:
        leg.send_close(close.code, close.text)
        leg.close()
    elif close.unreadable and leg.send_close(close.code, close.text):
        leg.start(InputDiscarder(leg))
        leg.write_eof()
    return await close_leg(leg, close.code, close.text, deadline=deadline)
