"""Takes single messages out of the runs of bytes in which a scanner lets them go on."""

from service.realtime.frames import Header, read_header, unmask


def pop_message(run: bytearray, *, masked: bool) -> bytes:
    """The frames of the first message in `run`, which is there whole; it is taken out."""
    data, end = bytes(run), 0
    while True:
        header = read_header(data, end, masked=masked)
        assert isinstance(header, Header)
        end += header.size + header.length
        if header.fin:
            del run[:end]
            return data[:end]


def pop_payload(run: bytearray, *, masked: bool) -> bytes:
    """The payload of the first message in `run`, of one frame or of several; it is taken out."""
    frames, at, payload = pop_message(run, masked=masked), 0, b""
    while at < len(frames):
        header = read_header(frames, at, masked=masked)
        assert isinstance(header, Header)
        start = at + header.size
        at = start + header.length
        payload += unmask(frames[start:at], header.key)
    return payload
