"""service/telemetry/records.py and RELAY_RECORDS: what a session leaves behind, and that a full disk harms no call."""

import base64
import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from service.startup import explain_records_error
from service.telemetry.records import RecordWriter, check_writable
from tests.support.harness import KEY_CANARY, TOKEN_CANARY, eventually, open_raw, simulated_relay
from tests.support.simulator_client import speech

REALTIME = "/v1/realtime?model=gpt-realtime"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the records are."""
    return tmp_path / "records.jsonl"


def read(path: Path) -> list[Any]:
    """The records in a file."""
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def text_of(path: Path) -> str:
    """The file, or nothing."""
    return path.read_text() if path.exists() else ""


def rename(path: Path) -> None:
    """As `logrotate` does."""
    path.rename(path.with_suffix(".1"))


def replace(path: Path, kind: str) -> None:
    """Put something else in the place of the file, or nothing."""
    if path.is_dir():
        path.rmdir()
    elif path.exists() or path.is_symlink():
        path.unlink()
    match kind:
        case "directory":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "full":
            path.symlink_to("/dev/full")
        case "half":
            path.write_text('{"number": 9')


class Written:
    """A writer, and what it reported."""

    def __init__(self, path: Path, max_queued: int = 100) -> None:
        self.results: list[bool] = []
        self.errors: list[OSError | None] = []
        self.writer = RecordWriter(
            path, on_result=self.results.append, on_change=self.errors.append, max_queued=max_queued
        )

    async def write(self, number: int) -> None:
        """Write a record, and wait for its result."""
        self.writer.write({"number": number})
        await eventually(lambda: len(self.results) > number)


@pytest.fixture
async def written(path: Path) -> AsyncIterator[Written]:
    """A writer to the file, which it has opened."""
    found = Written(path)
    await eventually(path.exists)
    yield found
    found.writer.close()


async def test_file_that_is_renamed_or_removed_is_opened_again(path: Path, written: Written) -> None:
    """`logrotate` renames; nothing is lost and nothing is written to the old file."""
    await written.write(0)
    rename(path)
    await written.write(1)
    replace(path, "nothing")
    await written.write(2)

    assert ([{"number": 0}], [{"number": 2}]) == (read(path.with_suffix(".1")), read(path))
    assert [True] * 3 == written.results


async def test_failure_is_reported_once_and_so_is_its_end(path: Path, written: Written) -> None:
    """A directory, then a pipe in the place of the file."""
    replace(path, "directory")
    await written.write(0)
    replace(path, "pipe")
    await written.write(1)
    replace(path, "nothing")
    await written.write(2)

    assert [False, False, True] == written.results
    assert (2, None) == (len(written.errors), written.errors[-1])
    assert [{"number": 2}] == read(path)


async def test_disk_that_is_full_within_a_record_tears_no_other(path: Path, written: Written) -> None:
    """The half that was written stays; the next record begins on a line of its own once there is space."""
    await written.write(0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(text_of(path)) + 5, before[1]))
    try:
        await written.write(1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    await written.write(2)

    assert '{"number":0}\n{"num\n{"number":2}\n' == text_of(path)
    assert [True, False, True] == written.results


def unusable(path: Path, kind: str) -> Path:
    """A path that cannot be written."""
    match kind:
        case "missing folder":
            return path.parent / "missing" / path.name
        case "folder that is a file":
            path.write_text("")
            return path / path.name
        case "broken link":
            path.symlink_to(path.parent / "missing" / path.name)
        case "read-only":
            return Path("/proc/version")  # it can be opened; root may write everywhere else
        case _:
            replace(path, kind)
    return path


UNUSABLE = {
    "directory": "it is not a regular file",
    "pipe": "it is not a regular file",
    "full": "it is not a regular file",
    "missing folder": "its folder is missing",
    "folder that is a file": "its folder is missing",
    "broken link": "its folder is missing",
}


@pytest.mark.parametrize(("kind", "cause"), UNUSABLE.items())
async def test_path_that_cannot_be_written_is_reported_at_the_start(kind: str, cause: str, path: Path) -> None:
    """With path, cause and remedy, once, in the log and in detailed health; the doctor says the same, and creates nothing."""
    target = unusable(path, kind)
    with pytest.raises(OSError) as caught:  # noqa: PT011 - its number differs
        check_writable(target)
    sentence, remedy = explain_records_error(target, caught.value)
    assert cause in sentence
    assert not list(path.parent.glob("missing"))
    async with simulated_relay(None, RELAY_RECORDS=str(target)) as relay:
        await eventually(lambda: relay.events("records.lost"))
        [line] = relay.events("records.lost")
        assert (str(target), remedy) == (line["path"], line["remedy"])
        assert line["message"].startswith(sentence)
        async with ClientSession() as session, session.get(f"{relay.internal_url}/healthz?verbose") as response:
            assert f"RELAY_RECORDS: {sentence} {remedy}" in (await response.json())["notes"]


async def test_path_that_can_be_written_is_no_problem(path: Path) -> None:
    """It is missing, a link to a file that is missing, or exists; the doctor does not create it, the relay does at once."""
    link = path.with_suffix(".link")
    link.symlink_to(path)
    for name in (path, link):
        check_writable(name)
        assert not path.exists()  # noqa: ASYNC240 - a file of the test
    writer = RecordWriter(link)
    await eventually(path.exists)
    check_writable(link)
    writer.close()
    assert writer.error is None


@pytest.mark.parametrize(
    ("number", "cause", "remedy"),
    [
        (errno.EACCES, "Permission denied", f"Let user id {os.geteuid()} write to the file"),
        (errno.EROFS, "Read-only file system", "Mount a volume"),
        (errno.ENOSPC, "No space left on device", "Free space"),
        (errno.EIO, "Input/output error", "Check the file of RELAY_RECORDS and its file system."),
    ],
)
def test_error_has_cause_and_remedy(number: int, cause: str, remedy: str) -> None:
    """Those that a test cannot cause as root."""
    sentence, advice = explain_records_error(Path("records.jsonl"), OSError(number, ""))
    assert sentence == f"Records of sessions cannot be written: {cause}."
    assert advice.startswith(remedy)


def test_folder_of_another_user_cannot_be_written() -> None:
    """The file is missing, and the user of the image could not create it."""
    code = (
        "import os; from pathlib import Path; from service.telemetry.records import check_writable\n"
        "os.getuid() or os.setuid(65534)\n"
        "try: check_writable(Path('/realtime-relay-records.jsonl'))\n"
        "except OSError as exc: print(exc.errno)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
    assert int(done.stdout) in {errno.EACCES, errno.EROFS}


@pytest.mark.parametrize("kind", [*UNUSABLE, "read-only"])
async def test_path_that_cannot_be_written_harms_no_call(kind: str, path: Path) -> None:
    """From the start, or under way: calls go on, the log has the path and the cause once, and each record counts as lost."""
    target = unusable(path, kind)
    async with simulated_relay(None, RELAY_RECORDS=str(target)) as relay:
        for number in range(1, 3):
            client = await open_raw(relay.app.public_port, REALTIME)
            assert "session.created" == (await client.next_event())["type"]
            await client.close()
            await eventually(lambda: relay.metric("realtime_relay_records_total", result="lost") == number)  # noqa: B023
        [line] = relay.events("records.lost")
        assert str(target) in str(line)
        assert relay.metric("realtime_relay_sessions_ended_total", reason="client_lost") == 2


async def test_half_a_line_of_another_writer_spoils_no_record(path: Path) -> None:
    """The process was killed within a line, or the disk was full."""
    replace(path, "half")
    written = Written(path)
    await written.write(0)
    written.writer.close()

    assert '{"number": 9\n{"number":0}\n' == text_of(path)


async def test_record_holds_numbers_and_no_words(path: Path) -> None:
    """Who, when, how much; the same tokens as the provider's event."""
    async with simulated_relay(None, RELAY_RECORDS=str(path)) as relay:
        client = await open_raw(relay.app.public_port, REALTIME)
        client.send_event(
            type="response.create", response={"instructions": "Say CANARY9words.", "output_modalities": ["audio"]}
        )
        while (event := await client.next_event())["type"] != "response.done":
            pass
        await client.close()
        await eventually(lambda: text_of(path).endswith("\n"))

    (record,) = read(path)
    usage = event["response"]["usage"]
    assert ("client_lost", "gpt-realtime", "realtime") == (record["reason"], record["model"], record["api"])
    assert usage["total_tokens"] == record["tokens"]["total"]
    assert usage["total_tokens"] == sum(
        sum(kinds.values()) for name, kinds in record["tokens"].items() if name != "total"
    )
    assert 0 < record["usd"] < 1
    assert record["usd_is_complete"] is True
    assert record["output_audio_seconds"] == pytest.approx(
        usage["output_token_details"]["audio_tokens"] * 0.05, abs=0.001
    )
    assert 0.0 == record["input_audio_seconds"]
    assert record["started_at"] < record["ended_at"]
    assert "CANARY9" not in text_of(path)


async def test_record_of_a_conversation_has_the_seconds_of_speech_and_no_secret(path: Path) -> None:
    """Two seconds are said. Neither the key, the client's token, its address nor what was said is in the record."""
    settings = {"RELAY_ACCESS": "tokens", "RELAY_CLIENT_TOKENS": f"ann:{TOKEN_CANARY}"}
    async with simulated_relay(None, RELAY_RECORDS=str(path), **settings) as relay:
        client = await open_raw(relay.app.public_port, REALTIME, {"Authorization": f"Bearer {TOKEN_CANARY}"})
        audio = {"input": {"turn_detection": None, "transcription": {"model": "gpt-4o-transcribe"}}}
        client.send_event(type="session.update", session={"type": "realtime", "audio": audio})
        client.send_event(type="input_audio_buffer.append", audio=base64.b64encode(speech(2000)).decode())
        client.send_event(type="input_audio_buffer.commit")
        client.send_event(type="response.create")
        while (await client.next_event())["type"] != "response.done":
            pass
        await client.close()
        await eventually(lambda: text_of(path).endswith("\n"))

    (record,) = read(path)
    assert ("ann", 2.0) == (record["client"], record["input_audio_seconds"])
    assert record["output_audio_seconds"] > 0
    found = [secret for secret in (TOKEN_CANARY, KEY_CANARY, "127.0.0.1", "You said") if secret in text_of(path)]
    assert [] == found


def test_stdout_is_a_target(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is on standard error."""
    with path.open("w") as stream:
        monkeypatch.setattr("sys.stdout", stream)
        writer = RecordWriter("stdout")
        writer.write({"number": 0})
        writer.close()

    assert [{"number": 0}] == read(path)


async def test_records_for_a_closed_stdout_are_counted_as_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was started without standard output has none in Python."""
    results: list[bool] = []
    errors: list[OSError | None] = []
    monkeypatch.setattr("sys.stdout", None)
    writer = RecordWriter("stdout", on_result=results.append, on_change=errors.append)
    for number in range(2):
        writer.write({"number": number})
    writer.close()
    assert [False, False] == results
    assert ["standard output is closed"] == [error.strerror for error in errors if error is not None]
