"""The command line: arguments, exit codes, text, JSON, terminals and redaction."""

import io
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from service import cli
from service.doctor.output import NullReporter, Redaction, TextReporter
from service.doctor.steps import StepResult, StepRunner
from service.failures import CATALOGUE
from tests.support.command import Command
from tests.support.doctor_chain import (
    KEY_CANARY,
    NO_RUNNING_RELAY,
    PASSWORD_CANARY,
    TOKEN_CANARY,
    run_provider_chain,
    run_relay_chain,
)
from tests.support.relay_process import ROOT, environment


def run_command(tmp_path: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, in an empty directory."""
    return subprocess.run(
        [sys.executable, "-m", "service", "doctor", *arguments],
        env=environment(**(NO_RUNNING_RELAY | settings)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_json_prints_one_document_and_nothing_else(tmp_path: Path) -> None:
    """These keys are the published format. stderr is empty."""
    result = run_command(tmp_path, "--json", "--turn", RELAY_UPSTREAM="auto")

    document = json.loads(result.stdout)
    assert (0, "") == (result.returncode, result.stderr)
    assert {"version", "ok", "target", "rungs"} == document.keys()
    assert document["ok"] is True
    assert "simulator" == document["target"]["upstream"]
    assert ["turn"] == [step["name"] for step in document["rungs"]][-1:]
    assert all(
        {"name", "status", "seconds", "finding", "notes", "reason", "remedy", "anchor"} == step.keys()
        for step in document["rungs"]
    )


def test_failed_step_exits_with_1_and_prints_no_secret(tmp_path: Path) -> None:
    """Neither key, token nor password of the proxy is in the output, which has no escape sequences."""
    result = run_command(
        tmp_path,
        OPENAI_API_KEY=KEY_CANARY,
        OPENAI_BASE_URL="https://provider.invalid/v1",
        HTTPS_PROXY=f"http://me:{PASSWORD_CANARY}@proxy.invalid:3128",
        RELAY_CLIENT_TOKENS=f"web:{TOKEN_CANARY}",
        RELAY_ACCESS="tokens",
    )

    assert 1 == result.returncode
    assert f"FAIL  dns          dns_failed: {CATALOGUE['dns_failed'].sentence}" in result.stdout
    assert "see docs/failures.md#dns_failed" in result.stdout
    assert result.stdout.endswith("Failed at dns; 6 later steps not run.\n")
    assert "\x1b" not in result.stdout
    assert "CANARY" not in result.stdout + result.stderr


@dataclass
class Doctor:
    """The command in this process."""

    command: Command

    def __call__(self, *arguments: str, **settings: str) -> tuple[int, str, str]:
        """Run it; returns exit code, stdout and stderr."""
        return self.command("doctor", *arguments, **(NO_RUNNING_RELAY | settings))


@pytest.fixture
def doctor(command: Command) -> Doctor:
    """The command, in an empty directory."""
    return Doctor(command)


RELAY = ["--relay", "http://127.0.0.1:1"]


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (["--token", "CANARY-in-argv"], {}, "--token is not accepted"),
        ([*RELAY, "--token", "CANARY-in-argv"], {}, "use --token-env or --token-file"),
        (["--relay", "127.0.0.1:8080"], {}, "--relay must be a URL"),
        (["--relay", "ftp://127.0.0.1"], {}, "--relay must be a URL"),
        (["--relay", "http://127.0.0.1:99999"], {}, "--relay must be a URL"),
        (["--relay", "http://127.0.0.1:0"], {}, "--relay names port 0"),
        (["--relay", "http://me:CANARY@127.0.0.1"], {}, "--relay must not contain credentials"),
        (["--relay", "http://127.0.0.1/v1/realtime?token=CANARY"], {}, "--relay must not contain a token"),
        (["--relay", "http://127.0.0.1/v1/realtime?clientSecret=CANARY"], {}, "--relay must not contain a token"),
        ([*RELAY, "--origin", "app.example.com"], {}, "--origin must be scheme, host and port only"),
        ([*RELAY, "--token-env", "T"], {}, "is unset or empty"),
        ([*RELAY, "--token-env", "T"], {"T": "CANARY with blanks"}, "characters that an HTTP header cannot carry"),
        ([*RELAY, "--token-file", "nothing"], {}, "the file of --token-file cannot be read (No such file"),
        ([*RELAY, "--token-env", "T", "--token-file", "t"], {}, "exclude each other"),
        (["--model", "../admin"], {}, "must be a model name"),
        (["--origin", "https://app.example.com"], {}, "--origin requires --relay"),
        (["--token-env", "T"], {}, "--token-env requires --relay"),
    ],
)
def test_invalid_command_line_exits_with_2(
    doctor: Doctor, arguments: list[str], settings: Mapping[str, str], message: str
) -> None:
    """One sentence without a secret goes to stderr, nothing to stdout."""
    code, out, err = doctor(*arguments, **settings)

    assert (2, "") == (code, out)
    assert message in err
    assert "CANARY" not in err


def test_live_is_checked_without_a_session(doctor: Doctor) -> None:
    """The last line does not claim a session that was not started. RELAY_MODEL is for the Realtime API."""
    code, out, _ = doctor(
        "--live", RELAY_UPSTREAM="simulator", OPENAI_API_KEY="sk-sim-good", RELAY_MODEL="gpt-realtime"
    )

    assert 0 == code
    assert "doctor: from the settings to GPT-Live\n" in out
    assert "model gpt-live-1; set:" in out
    assert out.endswith("GPT-Live knows the key. No session was started; --turn starts one, which is billed.\n")


@pytest.mark.parametrize("arguments", [[*RELAY, "--live"], ["--relay", "ws://127.0.0.1:1/v1/live/sessions"]])
def test_live_through_a_relay_is_chosen_by_option_or_url(doctor: Doctor, arguments: list[str]) -> None:
    """A URL of GPT-Live cannot mean anything else."""
    code, out, _ = doctor(*arguments, "--json", RELAY_MODEL="gpt-realtime")

    target = json.loads(out)["target"]
    assert 1 == code
    assert {"relay": "http://127.0.0.1:1/v1/live/sessions", "origin": None, "model": "gpt-live-1"} == target


def test_unknown_option_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    """As argparse does."""
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["doctor", "--nonsense"])

    assert 2 == exit_info.value.code


def test_token_file_may_have_byte_order_mark_and_line_end(doctor: Doctor) -> None:
    """Both are removed; the run fails at the closed port."""
    Path("token").write_text(f"\ufeff{TOKEN_CANARY}\r\n", encoding="utf-8")

    code, out, err = doctor(*RELAY, "--token-file", "token", "--json")

    assert 1 == code
    assert "http://127.0.0.1:1/v1/realtime" == json.loads(out)["target"]["relay"]
    assert "CANARY" not in out + err


def test_turn_announces_its_cost_before_it_runs(doctor: Doctor) -> None:
    """If an earlier step fails, the cost is not announced."""
    code, passed, _ = doctor("--turn", RELAY_UPSTREAM="simulator", OPENAI_API_KEY="sk-sim-good")
    failed_code, failed, _ = doctor("--turn", RELAY_UPSTREAM="simulator", OPENAI_API_KEY="sk-sim-http-403")

    assert (0, 1) == (code, failed_code)
    assert 0 < passed.index("The step 'turn' costs about 120 input tokens") < passed.index("turn  ")
    assert passed.endswith("All steps passed: connected, session ready.\n")
    assert "costs about" not in failed
    assert "turn         not run" in failed


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        """Return True."""
        return True


PASSED = StepResult("dns", "ok", "found", 0.0123, ("a note",))
FAILED = StepResult("key", "fail", "It is wrong.", 1.5, (), "key_rejected", "Make another.")


def print_results(stream: io.StringIO, environ: Mapping[str, str]) -> str:
    """Report two steps on a stream; returns what it holds."""
    reporter = TextReporter(stream, Redaction(lambda: ["CANARY-secret"]), environ)
    for result in (PASSED, FAILED):
        reporter.step_started(result.name)
        reporter.step_finished(result)
    return stream.getvalue()


def test_terminal_shows_the_running_step_and_colours() -> None:
    """NO_COLOR removes the colours only."""
    coloured, plain = print_results(Terminal(), {}), print_results(Terminal(), {"NO_COLOR": "1"})

    assert "\r\x1b[K  ...   dns\r\x1b[K" in coloured
    assert "\x1b[1;31mFAIL \x1b[0m key" in coloured
    assert "\x1b[1;31m" not in plain
    assert "\r\x1b[K  ...   dns\r\x1b[K" in plain


def test_pipe_and_dumb_terminal_get_plain_text() -> None:
    """A result has its finding, time, notes, remedy and anchor."""
    expected = (
        "  ok    dns          found  (12 ms)\n"
        "                     a note\n"
        "  FAIL  key          key_rejected: It is wrong.  (1.50 s)\n"
        "                     -> Make another.\n"
        "                     see docs/failures.md#key_rejected\n"
    )

    assert expected == print_results(io.StringIO(), {})
    assert expected == print_results(Terminal(), {"TERM": "dumb"})


def test_redaction_removes_secrets_and_control_characters() -> None:
    """Known secrets, anything of the shape of a key, and escape sequences."""
    redaction = Redaction(lambda: ["CANARY-secret-of-mine"])

    assert "a [redacted] b [redacted] c?[2J" == redaction.text("a CANARY-secret-of-mine b sk-proj-CANARY12345 c\x1b[2J")
    assert {"x": ["[redacted]", 1, None]} == redaction.tree({"x": ("CANARY-secret-of-mine", 1, None)})


async def test_unexpected_exception_fails_its_step_as_internal_error() -> None:
    """The finding has the type of the exception, never its text."""

    async def fail() -> None:
        raise RuntimeError("CANARY")

    runner = StepRunner(NullReporter())
    await runner.run_step("dns", fail)  # type: ignore[arg-type]

    assert runner.failed is not None
    assert "internal_error" == runner.failed.reason
    assert "The doctor failed because of an internal error: RuntimeError." == runner.failed.finding


async def test_documentation_names_every_step_and_option(tmp_path: Path) -> None:
    """docs/doctor.md covers both chains."""
    page = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")
    provider = await run_provider_chain({"RELAY_PORT": "x"}, tmp_path, turn=True)
    relay = await run_relay_chain("http://127.0.0.1:1")

    for result in (*provider.results, *relay.results):
        assert result.name in page
    for option in ("--json", "--turn", "--model", "--relay", "--origin", "--token-env", "--token-file"):
        assert option in page
