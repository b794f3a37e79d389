"""The limit on what an upstream sends before its final response: interim responses and all header lines together.

aiohttp limits each line, and queues every interim response (1xx) that it receives: a flood of them costs 170 MB within the
timeout of one dial. What this file relies on was read in aiohttp 3.14.5 (client_proto.py) and is checked by
`tests/upstream/test_response_heads.py`: every parsed response passes `feed_data`.
"""

from typing import Any, Final

from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import BadHttpMessage

MAX_HEADS_BYTES: Final = 262_144
"""Of all heads up to that of the final response: four times the limit on one header."""
MAX_INTERIM_RESPONSES: Final = 16
HEADS_TOO_LARGE: Final = "over 256 kB of headers, or over 16 interim responses, before the response"
"""The message of the error."""
_SLICE_BYTES: Final = 16_384
_SWITCHING_PROTOCOLS: Final = 101
_FIRST_FINAL: Final = 200


class LimitedResponseHandler(ResponseHandler):
    """aiohttp's protocol of one connection. Beyond the limits the request fails and the socket is closed."""

    _head_bytes = 0
    _interim_responses = 0
    _is_final = False

    def data_received(self, data: bytes) -> None:
        """Parse in slices until the final response has begun, so that no flood is parsed at once."""
        rest = data
        while rest and not self._is_final and self._exception is None:
            part, rest = rest[:_SLICE_BYTES], rest[_SLICE_BYTES:]
            super().data_received(part)
            self._head_bytes += len(part)
            exceeded = self._head_bytes > MAX_HEADS_BYTES or self._interim_responses > MAX_INTERIM_RESPONSES
            if exceeded and not self._is_final and self._exception is None:
                self._fail()
        if rest and self._exception is None:
            super().data_received(rest)

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
