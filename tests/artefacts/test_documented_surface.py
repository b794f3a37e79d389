"""What operators and clients meet is in a document: log events, headers, paths, commands, exit codes. Quotes are current.

Settings, reasons and metrics are not checked here: their documents are generated from the code.
"""

import argparse
import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from service import cli
from service.failures import CATALOGUE
from service.web.unserved import CLIENT_SECRET_PATHS, WEBSOCKET_PATHS

ROOT: Final = Path(__file__).resolve().parents[2]
DOCUMENTS: Final = {path: path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]}
SERVICE: Final = ROOT / "service"
LOG_CALLS: Final = frozenset({"debug", "info", "warning", "error", "exception", "log", "report", "_log_failure"})
EVENT: Final = re.compile(r"[a-z]+\.[a-z_]+")
"""The shape of a log event's name."""
OWN_HEADER: Final = re.compile(r"(Relay-[A-Z]|X-Health-|X-Simulator-)[A-Za-z-]+")


@cache
def parsed() -> dict[Path, ast.Module]:
    """The modules of the service."""
    return {path: ast.parse(path.read_text()) for path in SERVICE.rglob("*.py")}


def modules(*, simulator: bool) -> list[ast.Module]:
    """The modules of the service, with or without the simulator: it logs as a library does, as `library.logged`."""
    return [module for path, module in parsed().items() if simulator or "simulator" not in path.parts]


def documented(text: str) -> bool:
    """Whether a document has this text."""
    return any(text in document for document in DOCUMENTS.values())


def strings_in(*nodes: ast.AST) -> Iterator[str]:
    """Every string constant below these nodes."""
    for node in nodes:
        for found in ast.walk(node):
            if isinstance(found, ast.Constant) and isinstance(found.value, str):
                yield found.value


def log_events() -> set[str]:
    """The names of all log events: the first string of a call that logs, or the key `event` of a structlog processor."""
    names = {"library.logged"}  # assigned in `service/telemetry/logs.py`
    for module in modules(simulator=False):
        for call in ast.walk(module):
            if not isinstance(call, ast.Call):
                continue
            called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", None)
            if called in LOG_CALLS or isinstance(call.func, ast.IfExp):
                names.update(name for name in strings_in(*call.args[:2]) if EVENT.fullmatch(name))
    return names


WITHOUT_REMEDY: Final = {
    "console.refused": "a wrong token: the caller gets the remedy",
    "loop.exception_caught": "the text is that of asyncio",
    "session.incident_seen": "the session goes on; what ends it has a runbook",
    "session.not_recovered": "session.ended has the runbook of the loss",
    "setting.odd": "the message is what to correct",
    "simulator.stands_in": "the message names the setting",
}
"""Warnings and errors without a remedy, with the reason."""


def test_every_warning_and_error_has_a_message_and_a_remedy() -> None:
    """They are for an operator, who has to act."""
    without: set[str] = set()
    for call in [
        node for module in modules(simulator=False) for node in ast.walk(module) if isinstance(node, ast.Call)
    ]:
        if isinstance(call.func, ast.Attribute) and call.func.attr in {"warning", "error"} and call.args:
            names = [name for name in strings_in(call.args[0]) if EVENT.fullmatch(name)]
            keywords = {keyword.arg for keyword in call.keywords}
            assert not names or "message" in keywords, names
            without.update(names if "remedy" not in keywords else ())

    assert sorted(without) == sorted(WITHOUT_REMEDY)


def test_every_log_event_is_listed_once() -> None:
    """The table of `docs/monitoring.md` has each name that the code logs, and no other."""
    section = DOCUMENTS[ROOT / "docs/monitoring.md"].partition("\n## Log events\n")[2].partition("\n## ")[0]
    listed = [
        name for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for name in re.findall(r"`(.+?)`", row)
    ]

    assert sorted(listed) == sorted(log_events())


def test_every_header_of_the_relay_is_documented() -> None:
    """Those that it alone sends or reads."""
    headers = {text for module in modules(simulator=True) for text in strings_in(module) if OWN_HEADER.fullmatch(text)}

    assert {"Relay-Continuity", "X-Health-Status"} <= headers
    assert [] == sorted(header for header in headers if not documented(header))


def test_every_path_is_documented() -> None:
    """Of both ports, with the aliases."""
    routes = {
        text
        for module in modules(simulator=True)
        for text in strings_in(module)
        if re.fullmatch(r"/api/[a-z]+.*", text)
    }
    paths = {*WEBSOCKET_PATHS, *CLIENT_SECRET_PATHS, "/livez", "/readyz", "/healthz", "/metrics", "/version"}

    assert "/api/overview" in routes
    assert [] == sorted(path for path in {*paths, *routes} if not documented(path.partition("{")[0]))


def test_commands_and_their_options_are_documented() -> None:
    """The simulator's are in its own help, to which the documents refer."""
    parser = cli._build_parser(["doctor"])
    [commands] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    image = DOCUMENTS[ROOT / "docs/deployment.md"].partition("## The image")[2]

    assert [] == [name for name in commands.choices if f"`{name}`" not in image]
    for name, document in (("doctor", DOCUMENTS[ROOT / "docs/doctor.md"]), ("probe", image)):
        options = {option for action in commands.choices[name]._actions for option in action.option_strings}
        assert [] == [option for option in options - {"-h", "--help"} if option not in document]


def test_exit_codes_are_documented() -> None:
    """Where the document describes the end of a process."""
    text = DOCUMENTS[ROOT / "docs/deployment.md"].partition("The exit code")[2].partition("\n\n")[0]

    assert {cli.OK, cli.FAILED, cli.USAGE, cli.ABORTED_SESSIONS} == {int(code) for code in re.findall(r"\b\d\b", text)}


def test_quoted_output_of_the_doctor_is_that_of_the_catalogue() -> None:
    """The sentence and the remedy of each failed step in an example."""
    document = DOCUMENTS[ROOT / "docs/doctor.md"]
    quoted = re.findall(r"FAIL +\w+ +(\w+): (.+?)  \(.*?-> (.+?)\n", document, re.DOTALL)

    assert quoted
    for reason, sentence, remedy in quoted:
        row = CATALOGUE[reason]
        assert sentence == row.sentence
        assert row.remedy.startswith(remedy)  # the doctor leaves out the advice to run it
