"""service/telemetry/console.py, as the relay configures it."""

import io
import logging
import re
from collections.abc import Iterator

import pytest
import structlog

from service.realtime.keys import Secret
from service.telemetry import logs
from service.telemetry.redact import Redactor

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
FORGED = "x\r\n2026-11-26T19:40:30.542Z info     forged\u2028y\x0bz\x1b[31m\u202e\udc80"


class Stream(io.StringIO):
    """Standard error, a terminal or not; keeps each write."""

    def __init__(self, *, terminal: bool = False) -> None:
        super().__init__()
        self._terminal = terminal
        self.writes: list[str] = []

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._terminal

    def write(self, text: str) -> int:
        """Keep a write."""
        self.writes.append(text)
        return super().write(text)


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Restore the logging of the process afterwards."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    yield
    structlog.reset_defaults()
    root.handlers[:], root.level = before
    for name in ("aiohttp.access", "aiohttp.websocket"):
        logging.getLogger(name).disabled = False


def configured(*, terminal: bool = False) -> Stream:
    """A stream that receives the log in the console format."""
    stream = Stream(terminal=terminal)
    logs.configure("auto" if terminal else "console", "info", Redactor([Secret("CANARY-secret")]), stream)
    return stream


def test_message_comes_first_and_remedy_has_a_line_of_its_own() -> None:
    """Time, level, message, event name, facts; then remedy and runbook. None and empty values are left out, zero is not."""
    stream = configured()
    structlog.get_logger().warning(
        "admission.refused", remedy="Send a 'Bearer <token>'.", message="No token was sent.", runbook="docs/a.md#b",
        client=None, detail="", origins=[], settings={}, sessions=0, hurried=False, address="192.0.2.7", agent="a b",
        url="ws://[::1]:8080/?model=m", many=["a", 1], read={"RELAY_PORT": "8080", "x y": "b c"},
    )  # fmt: skip
    first, *rest = stream.getvalue().splitlines()

    facts = (
        "sessions=0 hurried=False address=192.0.2.7 agent='a b' url=ws://[::1]:8080/?model=m many=[a, 1] "
        "read={RELAY_PORT=8080, 'x y'='b c'}"
    )
    assert re.fullmatch(TIME + re.escape(f" warning  No token was sent. (admission.refused) {facts}"), first), first
    assert ["    remedy: Send a 'Bearer <token>'.", "    runbook: docs/a.md#b"] == rest


def test_event_without_message_shows_its_name() -> None:
    """The name takes the place of the message and is not repeated."""
    stream = configured()
    structlog.get_logger().info("drain.started", sessions=2)

    assert re.fullmatch(TIME + r" info     drain\.started sessions=2\n", stream.getvalue())


def test_record_of_another_library_is_rendered_alike() -> None:
    """Its text is the message, its logger a fact."""
    stream = configured()
    logging.getLogger("some.library").warning("slow %s", "callback")

    assert re.fullmatch(TIME + r" warning  slow callback \(library\.logged\) logger=some\.library\n", stream.getvalue())


def test_traceback_is_indented_below_its_event() -> None:
    """A traceback keeps its lines, each of them indented, also where the exception's message has line breaks."""
    stream = configured()
    try:
        raise ValueError(FORGED)  # noqa: TRY301 - the traceback is what is tested
    except ValueError:
        structlog.get_logger().exception("task.crashed", task="health")
    first, *rest = stream.getvalue().splitlines()

    assert re.fullmatch(TIME + r" error    task\.crashed task=health", first)
    assert "    Traceback (most recent call last):" == rest[0]
    assert any(line.startswith("    ValueError: x") for line in rest)
    assert all(line.startswith("    ") for line in rest)
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("field", ["message", "remedy", "runbook", "agent", "event"])
def test_value_cannot_forge_a_line(field: str) -> None:
    """Line breaks, terminal codes and bidirectional marks in any value are escaped, at the top level and below."""
    stream = configured()
    values = {"event": "a.b", field: FORGED}
    structlog.get_logger().info(**values, nested={FORGED: [FORGED]})

    text = stream.getvalue()
    assert 1 + (field in {"remedy", "runbook"}) == len(text.splitlines())
    assert text.removesuffix("\n").replace("\n", "").isprintable()


@pytest.mark.parametrize("terminal", [True, False])
def test_event_is_one_write(terminal: bool) -> None:
    """The log writer drops whole events, so an event of several lines is one write; the standard library's records too."""
    stream = configured(terminal=terminal)
    structlog.get_logger().error("a.b", message="m", remedy="r", runbook="d")
    logging.getLogger("some.library").warning("m\nn")

    assert 2 == len([text for text in stream.writes if text])
    assert all(text.endswith("\n") for text in stream.writes if text)


def test_colours_appear_on_a_terminal_only() -> None:
    """The text of both outputs is the same."""
    plain = configured()
    structlog.get_logger().error("a.b", message="m", remedy="r", n=1)
    coloured = configured(terminal=True)
    structlog.get_logger().error("a.b", message="m", remedy="r", n=1)

    assert "\x1b" not in plain.getvalue()
    assert "\x1b[31merror   \x1b[0m" in coloured.getvalue()
    stripped = re.sub(r"\x1b\[[0-9;]*m", "", coloured.getvalue())
    assert re.sub(TIME, "", plain.getvalue()) == re.sub(TIME, "", stripped)


def test_secrets_are_redacted() -> None:
    """The console format passes the same redaction as JSON."""
    stream = configured()
    structlog.get_logger().info("a.b", message="m CANARY-secret", remedy="r CANARY-secret", fact="CANARY-secret")

    assert "CANARY" not in stream.getvalue()
    assert 3 == stream.getvalue().count("[redacted]")
