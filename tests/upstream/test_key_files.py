"""A key file that cannot be read: named at every surface, at the start and while the relay runs."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from service.realtime.redaction import redact
from service.upstream import rotation
from service.upstream.secret_file import SecretFileError, printable_path, read_secret
from tests.support.doctor_chain import run_provider_chain
from tests.support.harness import Relay, eventually, open_raw, running_relay
from tests.upstream.test_rotation import NEW, OLD, key_of, notes, put, relay_with, rotations

REFUSED = "realtime_relay_key_file_refused"
TIMEOUT = aiohttp.ClientTimeout(total=60)
KEPT = "The previous key stays in use."


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a key that works. It is polled often."""
    monkeypatch.setattr(rotation, "POLL_SECONDS", 0.02)
    path = tmp_path / "key"
    path.write_text(OLD + "\n")
    return path


def make_folder(path: Path) -> None:
    """A folder in place of the file."""
    path.unlink(missing_ok=True)
    path.mkdir()


def remove(path: Path) -> None:
    """No file."""
    path.unlink(missing_ok=True)


def make_pipe(path: Path) -> None:
    """A named pipe without a writer: to open it would wait for ever."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def link_to(target: str) -> Callable[[Path], None]:
    """A link: to a file that is missing, as while a mount is replaced, or to itself, or to a device."""

    def link(path: Path) -> None:
        path.unlink(missing_ok=True)
        path.symlink_to(path.parent / target)

    return link


def write(data: bytes) -> Callable[[Path], object]:
    """A file with these bytes."""
    return lambda path: path.write_bytes(data)


# What becomes of the file, and a part of the cause that every surface names.
PROBLEMS = {
    "missing": (remove, "cannot be read (No such file or directory)"),
    "folder": (make_folder, "is a folder; docker makes one where a file is missing"),  # docker/compose#5377
    "dangling link": (link_to("nowhere"), "it is a link whose target is missing"),
    "link loop": (link_to("key"), "cannot be read ("),
    "empty": (write(b""), "is empty"),
    "blank": (write(b" \r\n\n"), "is empty"),
    "utf-16": (write(f"{NEW}\r\n".encode("utf-16")), "is UTF-16 text"),
    "utf-16 without a mark": (write(NEW.encode("utf-16-le")), "is UTF-16 text"),
    "latin-1": (write(b"sk-sim-good # schl\xfcssel"), "is not UTF-8 text"),
    "binary": (write(b"\x00\x01\x02"), "or binary"),
    "pipe": (make_pipe, "is a pipe, not a regular file"),
    "device": (link_to("/dev/null"), "is a device, not a regular file"),
    "too large": (write(b"a" * 70_000), "is larger than 64 KiB"),
}


def test_file_that_is_called_regular_and_has_nothing_to_read_yet_is_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As /proc/kmsg: without O_NONBLOCK the read would wait."""
    path = tmp_path / "key"
    make_pipe(path)
    writer = os.open(path, os.O_RDWR)
    monkeypatch.setattr("stat.S_ISREG", lambda _: True)
    try:
        with pytest.raises(SecretFileError, match="cannot be read"):
            read_secret(str(path))
    finally:
        os.close(writer)


@pytest.mark.parametrize("name", PROBLEMS)
async def test_running_relay_reports_an_unreadable_key_file_once(key_file: Path, name: str) -> None:
    """Log, detailed health and metric name path and cause; the key stays in use; a key put back ends the report."""
    spoil, cause = PROBLEMS[name]
    async with relay_with(key_file) as (relay, _):
        spoil(key_file)
        await eventually(lambda: relay.events("key.file_unreadable"))
        relay.app._check_files()  # further checks do not repeat the report
        await eventually(lambda: relay.events("key.file_checked"))
        (line,) = relay.events("key.file_unreadable")
        client = await open_raw(relay.app.public_port)
        await client.close()

        assert cause in line["message"]
        assert KEPT in line["message"]
        assert ("error", f"file {key_file}") == (line["log_level"], line["origin"])
        assert cause in str(await notes(relay))
        assert str(key_file) in str(await notes(relay))
        assert 1 == relay.metric(REFUSED)
        assert (101, OLD) == (client.answer.status, key_of(relay))

        restore(key_file)
        await eventually(lambda: relay.events("key.file_restored"))
        assert 0 == relay.metric(REFUSED)
        assert cause not in str(await notes(relay))
        assert "CANARY0" not in str(relay.logs)


def restore(path: Path, text: str = OLD) -> None:
    """A file with a text, in place of what is there."""
    if path.is_symlink() or path.is_fifo():
        path.unlink()
    elif path.is_dir():
        path.rmdir()
    put(path, text)


async def test_key_in_the_variable_for_its_file_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also not while the relay runs, whatever its shape."""
    monkeypatch.setattr(rotation, "POLL_SECONDS", 0.02)
    async with running_relay(OPENAI_API_KEY="", OPENAI_API_KEY_FILE="CANARY0tokenWithoutAnyShape") as relay:
        texts = await surfaces(relay, 424, "key_missing")
        relay.app._check_files()
        await eventually(lambda: relay.events("key.file_checked"))
        texts["notes"] = str(await notes(relay))

        assert "CANARY0" not in str(relay.logs) + str(texts)
        assert "hidden, as it may be the secret itself" in texts["body"]


async def test_secret_that_is_replaced_in_two_steps_is_not_reported(key_file: Path) -> None:
    """The first check that fails reports nothing."""
    async with relay_with(key_file) as (relay, _):
        watcher = relay.app._key_file
        assert watcher is not None
        await eventually(lambda: not watcher._failed_reads)
        remove(key_file)
        put(key_file, NEW)
        await eventually(lambda: rotations(relay, "taken") == 1)

        assert [] == relay.events("key.file_unreadable")


@pytest.mark.parametrize(
    ("change", "result", "words"),
    [
        (lambda _: None, "unchanged", "holds the key in use"),
        (lambda path: put(path, NEW), "used", "New connections use the new key."),
        (lambda path: put(path, "${OPENAI_API_KEY} x"), "rejected", "was rejected. The previous key stays in use."),
        (make_folder, "unreadable", "cannot be read. The previous key stays in use."),
    ],
)
async def test_sighup_answers_with_the_result(
    key_file: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], result: str, words: str
) -> None:
    """One log line states what the requested check found, at once."""
    monkeypatch.setattr(rotation, "POLL_SECONDS", 600.0)
    async with relay_with(key_file) as (relay, _):
        change(key_file)
        assert relay.app._check_files()
        await eventually(lambda: relay.events("key.file_checked"))
        (line,) = relay.events("key.file_checked")

        assert result == line["result"]
        assert words in line["message"]


@pytest.mark.parametrize("name", PROBLEMS)
async def test_start_with_an_unreadable_key_file_names_it_at_every_surface(key_file: Path, name: str) -> None:
    """The start is not stopped; HTTP body, event, log, health and doctor name path and cause."""
    spoil, cause = PROBLEMS[name]
    spoil(key_file)
    async with running_relay(OPENAI_API_KEY="", OPENAI_API_KEY_FILE=str(key_file)) as relay:
        texts = await surfaces(relay, 424, "key_missing")
    report = await run_provider_chain({"OPENAI_API_KEY_FILE": str(key_file)}, key_file.parent / "..")
    texts["doctor"] = f"{report['key'].reason} {report.text('key')}"

    for surface, text in texts.items():
        assert cause in text, surface
        assert redact(str(key_file)) in text, surface
    assert "Set OPENAI_API_KEY or" not in texts["body"] + texts["doctor"]


async def surfaces(relay: Relay, status: int, reason: str) -> dict[str, str]:
    """The text about a refused key at each surface of a relay."""
    await relay.app.monitor.wait_for_first_refresh(30)
    client = await open_raw(relay.app.public_port)
    await client.close()
    assert (status, reason) == (client.answer.status, client.answer.error["code"])
    browser = await open_raw(relay.app.public_port, headers={"Origin": "http://localhost:3000"})
    event = await browser.next_event()
    await browser.close()
    async with (
        aiohttp.ClientSession(timeout=TIMEOUT) as session,
        session.get(f"{relay.internal_url}/healthz?verbose") as reply,
    ):
        health = await reply.json(content_type=None)
    outputs = [health["checks"][f"upstream:{check}"][0]["output"] for check in ("key", "handshake")]
    return {
        "body": client.answer.error["remedy"],
        "event": event["error"]["remedy"],
        "log": relay.events("admission.refused")[0]["remedy"],
        "key health": outputs[0],
        "handshake health": outputs[1],
    }


async def test_file_that_becomes_readable_ends_the_refusal(key_file: Path) -> None:
    """A folder is replaced by a file with a key, without a restart."""
    make_folder(key_file)
    async with relay_with(key_file) as (relay, _):
        assert 1 == relay.metric(REFUSED)
        assert "new connections are refused" in str(await notes(relay))
        restore(key_file)
        await eventually(lambda: rotations(relay, "taken") == 1)
        client = await open_raw(relay.app.public_port)
        await client.close()

        assert (101, 0) == (client.answer.status, relay.metric(REFUSED))


async def test_file_that_becomes_readable_with_a_malformed_key_changes_the_reason(key_file: Path) -> None:
    """The relay no longer reports a missing key."""
    make_folder(key_file)
    async with relay_with(key_file) as (relay, _):
        restore(key_file, "op://vault/item key")
        await eventually(lambda: rotations(relay, "refused") == 1)
        client = await open_raw(relay.app.public_port)
        await client.close()

        assert "key_malformed" == client.answer.error["code"]
        assert "1Password" in client.answer.error["remedy"]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (
            errno.EACCES,
            f"cannot be read by user id {os.geteuid()} (Permission denied; its mode is 0600, its owner is user id",
        ),
        (errno.EIO, "cannot be read (Input/output error)"),
        (errno.ESTALE, "cannot be read (Stale file handle)"),
    ],
)
def test_error_of_the_system_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    """Permissions name this process's user, the mode and the owner (docker/compose#7436, containers/common#555)."""
    path = tmp_path / "key"
    path.write_text(OLD)
    path.chmod(0o600)

    def refuse(*_args: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(SecretFileError) as caught:
        read_secret(str(path))

    assert words in caught.value.cause


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("~/key", "'~' is not expanded here"),
        ('"/run/secrets/key"', "the quotation marks are a part of the path"),
        ("/run/nowhere/deep/key", "the folder '/run/nowhere' is missing"),
        ("/etc/passwd/key", "is no folder"),
        ("secrets/key", "the working directory is"),
        ("sk-proj-abcdefghijklmnop", "set it without _FILE"),
        ("/a\0b", "is not a path"),
    ],
)
def test_path_that_cannot_be_right_is_explained(path: str, words: str) -> None:
    """Mistakes in the variable itself."""
    with pytest.raises(SecretFileError) as caught:
        read_secret(path)

    assert words in caught.value.cause


@pytest.mark.parametrize(
    ("path", "is_shown"),
    [
        ("/run/secrets/key", True),
        ("./key", True),
        ("secrets/openai.txt", True),
        ("openai.key", True),
        ("CANARY1tokenabcdefgh", False),
        ("CANARY/1token+abcdefgh=", False),
    ],
)
def test_path_is_shown_only_if_it_looks_like_one(path: str, *, is_shown: bool) -> None:
    """A secret in the variable for its file stays hidden."""
    assert is_shown is (path in printable_path(path))
