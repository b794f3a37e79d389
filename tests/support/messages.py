"""Splits the runs of bytes that a scanner forwards into messages."""

from service.realtime.frames import Header, read_header, unmask


def pop_message(run: bytearray, *, masked: bool) -> bytes:
    """Remove the first message from `run`, which contains all of it, and return its frames."""
    data, end = bytes(run), 0
    while True:
        header = read_header(data, end, masked=masked)
        assert isinstance(header, Header)
        end += header.size + header.length
        if header.fin:
            del run[:end]
            return data[:end]


def pop_payload(run: bytearray, *, masked: bool) -> bytes:
    """Remove the first message from `run`, and return the payload of its frames."""
    frames, at, payload = pop_message(run, masked=masked), 0, b""
    while at < len(frames):
        header = read_header(frames, at, masked=masked)
        assert isinstance(header, Header)
        start = at + header.size
        at = start + header.length
        payload += unmask(frames[start:at], header.key)
    return payload
