"""Reads of secret files outside the event loop."""

import threading

import pytest

from service.upstream import file_reader
from service.upstream.file_reader import FileReader
from service.upstream.secret_file import SecretFileError


async def test_next_read_does_not_wait_for_the_end_of_the_last_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal may ask for a check as soon as another one has its result; that is no mount that hangs."""
    may_end = threading.Event()

    class LingeringThread(threading.Thread):
        def run(self) -> None:
            super().run()
            may_end.wait(10)

    monkeypatch.setattr(threading, "Thread", LingeringThread)
    reader = FileReader()
    try:
        assert ["first", "second"] == [
            await reader.read_in_thread(lambda: "first"),
            await reader.read_in_thread(lambda: "second"),
        ]
    finally:
        may_end.set()


async def test_no_read_starts_while_one_is_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the deadline each call fails without another thread, until the blocked read returns."""
    monkeypatch.setattr(file_reader, "READ_SECONDS", 0.01)
    may_return, returned, reads = threading.Event(), threading.Event(), []

    def blocked() -> str:
        reads.append(1)
        may_return.wait(10)
        returned.set()
        return "late"

    reader = FileReader()
    try:
        for _ in range(3):
            with pytest.raises(SecretFileError, match="did not return"):
                await reader.read_in_thread(blocked)
        assert 1 == len(reads)
    finally:
        may_return.set()
    assert returned.wait(10)
