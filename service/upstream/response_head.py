"""The limits on what an upstream sends in place of a WebSocket: interim responses, all header lines together, and a body.

aiohttp limits each line, and queues every interim response (1xx) that it receives: a flood of them costs 170 MB within the
timeout of one dial. A body in chunks of a byte costs it 0.6 us for each of their bytes, 170 ms for one read of 256 KiB.
What this file relies on was read in aiohttp 3.14.5 (client_proto.py, base_protocol.py) and is checked by
`tests/upstream/test_response_heads.py`: every parsed response passes `feed_data`, and `_pause_reading_for_buffer` stops the
transport until `_resume_reading_for_buffer`.
"""

from typing import Any, Final

from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import BadHttpMessage

MAX_HEADS_BYTES: Final = 262_144
"""Of all heads up to that of the final response: four times the limit on one header."""
MAX_INTERIM_RESPONSES: Final = 16
HEADS_TOO_LARGE: Final = "over 256 kB of headers, or over 16 interim responses, before the response"
"""The message of the error."""
MAX_BODY_BYTES: Final = 131_072
"""Of the body of a refusal as it is sent, twice what `read_body` returns. The rest is not parsed."""
SLICE_BYTES: Final = 4096
"""What is parsed at once: up to two milliseconds."""
_SWITCHING_PROTOCOLS: Final = 101
_FIRST_FINAL: Final = 200


class LimitedResponseHandler(ResponseHandler):
    """aiohttp's protocol of one connection. Beyond the limits the request fails and the socket is closed."""

    _head_bytes = 0
    _interim_responses = 0
    _is_final = False
    _body_bytes = 0
    _rest = b""  # of the body, which is parsed in later turns of the event loop

    def data_received(self, data: bytes) -> None:
        """Parse in slices until the final response has begun, so that no flood is parsed at once."""
        rest = data
        while rest and not self._is_final and self._exception is None:
            part, rest = rest[:SLICE_BYTES], rest[SLICE_BYTES:]
            super().data_received(part)
            self._head_bytes += len(part)
            exceeded = self._head_bytes > MAX_HEADS_BYTES or self._interim_responses > MAX_INTERIM_RESPONSES
            if exceeded and not self._is_final and self._exception is None:
                self._fail()
        if rest and self._exception is None:
            if self._upgraded:
                super().data_received(rest)
            else:
                self._receive_body(rest)

    def _receive_body(self, data: bytes) -> None:
        is_scheduled = bool(self._rest)
        self._rest += data[: max(0, MAX_BODY_BYTES - self._body_bytes - len(self._rest))]
        if not self._rest:
            self._pause_reading_for_buffer()  # at the limit
        elif not is_scheduled:
            self._parse_rest()

    def _parse_rest(self) -> None:
        """Parse a slice of the body, and the next one in the next turn; read nothing meanwhile."""
        part, self._rest = self._rest[:SLICE_BYTES], self._rest[SLICE_BYTES:]
        if self.transport is None or self._exception is not None:
            return
        self._body_bytes += len(part)
        super().data_received(part)
        if self._rest:
            self._pause_reading_for_buffer()
            self._loop.call_soon(self._parse_rest)
        elif self._buffer_paused:
            self._resume_reading_for_buffer()

    def feed_data(self, data: Any, size: int = 0) -> None:  # noqa: ANN401 - aiohttp's queue item: a message and its body
        """Queue a response, unless there were too many interim ones."""
        code = data[0].code
        if code == _SWITCHING_PROTOCOLS or code >= _FIRST_FINAL:
            self._is_final = True
        else:
            self._interim_responses += 1
            if self._interim_responses > MAX_INTERIM_RESPONSES:
                return
        super().feed_data(data, size)

    def _fail(self) -> None:
        if self.transport is not None:
            self.transport.close()
        self.set_exception(BadHttpMessage(HEADS_TOO_LARGE))
