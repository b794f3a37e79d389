"""Limits what aiohttp's parser of requests receives, and refuses what it should not accept."""

from typing import Any, Final

from aiohttp import HttpVersion10, HttpVersion11
from aiohttp.http_exceptions import BadHttpMessage, HttpProcessingError, LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import _ErrInfo

from service.web import unserved

MAX_HEAD_BYTES: Final = 65_536
"""Of a request's line and headers together. aiohttp limits only each of them, at 8 kB by default."""
MAX_BEHIND_HEAD_BYTES: Final = 4096
"""What is read after the head of a request until it is answered, a body or pipelined requests; up to twice as much if it
arrives with the head. A byte of a chunked body can cost sixty. An upgrade is not limited. A route that takes a body may have
that in addition, if its length is known."""
MAX_PATH_BYTES: Final = 1024
"""aiohttp's router compares each beginning of a path that ends with a slash: 60,000 slashes take it four seconds."""


class HeadLimiter:
    """Takes the place of aiohttp's request parser: limits what it parses, and keeps the first bytes of the connection.

    `feed_data` raises nothing. aiohttp would keep an exception, whose frames hold the received data, in a reference cycle: a
    quarter of a megabyte for each read until the garbage collector runs. So an error is returned as aiohttp queues it.
    """

    def __init__(self, parser: Any) -> None:  # noqa: ANN401 - aiohttp's parser is a C extension without types
        self._parser = parser
        self._head_bytes = 0
        self._behind_bytes = 0
        self._body_bytes = 0  # that the route of the request takes
        self._body = EMPTY_PAYLOAD  # of the last request
        self.head_complete = False  # a request waits for its answer
        self.first_bytes = b""
        self.failed = False

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - the other methods of aiohttp's parser
        return getattr(self._parser, name)

    def request_answered(self) -> None:
        """Begin to count the bytes of the next request."""
        self._head_bytes = self._behind_bytes = self._body_bytes = 0
        self.head_complete = False

    def end_body(self) -> None:
        """End the body of a request whose client sends nothing more, so that its handler does not wait for the rest."""
        if not self._body.is_eof():
            self._body.feed_eof()

    @property
    def is_incomplete(self) -> bool:
        """Whether a head has begun and not ended."""
        return bool(self._head_bytes) and not self.head_complete and not self.failed

    def fail(self, exc: HttpProcessingError) -> tuple[_ErrInfo, StreamReader]:
        """Parse nothing from now on; return the error as aiohttp queues it, without a traceback, which refers to frames."""
        self.failed = True
        exc.__traceback__ = exc.__context__ = None
        return _ErrInfo(status=400, exc=exc, message=exc.message), EMPTY_PAYLOAD

    def feed_data(self, data: bytes) -> tuple[Any, bool, bytes]:
        """Parse received bytes; returns what aiohttp's parser returns: messages, whether one upgrades, and unparsed bytes."""
        if self.failed:
            return [], False, b""
        messages: list[Any] = []
        try:
            upgraded, tail = self._feed_limited(data, messages)
        except HttpProcessingError as exc:
            return [*messages, self.fail(exc)], False, b""
        return messages, upgraded, tail

    def _feed_limited(self, data: bytes, messages: list[Any]) -> tuple[bool, bytes]:
        if len(self.first_bytes) < unserved.FIRST_BYTES:
            self.first_bytes += bytes(data[: unserved.FIRST_BYTES - len(self.first_bytes)])
            if unserved.foreign_protocol(self.first_bytes) is not None:
                raise BadHttpMessage("another protocol")
        for start in range(0, max(len(data), 1), MAX_BEHIND_HEAD_BYTES):
            part = data[start : start + MAX_BEHIND_HEAD_BYTES]
            upgraded, tail = self._feed(part, messages)
            if upgraded:
                return True, tail + data[start + len(part) :]
            self._count(len(part))
        return False, tail

    def _count(self, size: int) -> None:
        if self.head_complete:
            self._behind_bytes += size
            if self._behind_bytes > 2 * MAX_BEHIND_HEAD_BYTES + self._body_bytes:
                raise PayloadTooLarge
        else:
            self._head_bytes += size
            if self._head_bytes >= MAX_HEAD_BYTES:
                raise LineTooLong(b"", MAX_HEAD_BYTES)

    def _feed(self, data: bytes, messages: list[Any]) -> tuple[bool, bytes]:
        try:
            parsed, upgraded, tail = self._parser.feed_data(data)
        except HttpProcessingError:
            raise
        except Exception as exc:  # noqa: BLE001 - whatever a parser raises for foreign bytes is a malformed request
            raise BadHttpMessage(type(exc).__name__) from None
        for message, _ in parsed:
            if not message.path:  # the parser lets a CONNECT pass without one
                raise BadHttpMessage("no target in the request line")
            if message.version not in {HttpVersion10, HttpVersion11}:  # aiohttp's parser accepts 0.9 and 2.0
                raise UnsupportedVersion(message.version.major)
            if len(message.path.partition("?")[0]) > MAX_PATH_BYTES:
                raise PathTooLong
        if len(parsed) == 1 and not self.head_complete:
            self._body_bytes = unserved.max_body_bytes(parsed[0][0])
        if parsed:
            self._body = parsed[-1][1]
        messages += parsed
        self.head_complete = self.head_complete or bool(parsed)
        return upgraded, tail


class UnsupportedVersion(BadHttpMessage):
    """A request line that names another version than 1.0 and 1.1, in which it would be answered."""

    def __init__(self, major: int) -> None:
        super().__init__(f"HTTP/{major} in the request line")


class PathTooLong(BadHttpMessage):
    """A path that is longer than any that the relay serves."""

    def __init__(self) -> None:
        super().__init__("path too long")


class PayloadTooLarge(BadHttpMessage):
    """More bytes after a request than are read before its answer."""

    def __init__(self) -> None:
        super().__init__("too many bytes after a request")


class IncompleteHead(BadHttpMessage):
    """A request whose head was not complete in time."""

    def __init__(self) -> None:
        super().__init__("incomplete head")
