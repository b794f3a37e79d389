"""The command as people and machines use it: arguments, exit codes, text, JSON, terminals, secrets."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from service import cli
from service.doctor.output import Redaction, TextReporter
from service.doctor.steps import StepResult, StepRunner
from tests.support.doctor_chain import (
    KEY_CANARY,
    PASSWORD_CANARY,
    QUIET,
    TOKEN_CANARY,
    run_provider_chain,
    run_relay_chain,
)
from tests.support.relay_process import ROOT, environment


def doctor(tmp_path: Path, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the real command in an empty folder."""
    return subprocess.run(
        [sys.executable, "-m", "service", "doctor", *words],
        env=environment(**(QUIET | settings)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_json_is_one_document_and_nothing_else(tmp_path: Path) -> None:
    """`--json` prints one document on stdout and nothing on stderr; exit code 0 when all is well."""
    result = doctor(tmp_path, "--json", "--turn", RELAY_UPSTREAM="auto")

    body = json.loads(result.stdout)
    assert (0, "") == (result.returncode, result.stderr)
    assert {"version", "ok", "target", "rungs"} == body.keys()
    assert body["ok"] is True
    assert "simulator" == body["target"]["upstream"]
    assert ["turn"] == [rung["name"] for rung in body["rungs"]][-1:]
    assert all(
        {"name", "status", "seconds", "finding", "notes", "reason", "remedy", "anchor"} == rung.keys()
        for rung in body["rungs"]
    )


def test_a_broken_rung_is_exit_code_1_and_no_secret_is_told(tmp_path: Path) -> None:
    """A failed climb exits with 1; key, tokens and the proxy's password are nowhere in what it printed."""
    result = doctor(
        tmp_path,
        OPENAI_API_KEY=KEY_CANARY,
        OPENAI_BASE_URL="https://provider.invalid/v1",
        HTTPS_PROXY=f"http://me:{PASSWORD_CANARY}@proxy.invalid:3128",
        RELAY_CLIENT_TOKENS=f"web:{TOKEN_CANARY}",
        RELAY_ACCESS="tokens",
    )

    assert 1 == result.returncode
    assert "FAIL  dns          dns_failed: The provider's host name could not be resolved." in result.stdout
    assert "see docs/failures.md#dns_failed" in result.stdout
    assert result.stdout.endswith("Broken at dns; 6 behind it not tried.\n")
    assert "\x1b" not in result.stdout
    assert "CANARY" not in result.stdout + result.stderr


@dataclass
class Here:
    """The command inside this process."""

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *words: str, **settings: str) -> tuple[int, str, str]:
        """Run it: exit code, stdout, stderr."""
        for name in os.environ.keys() - environment().keys():
            self.monkeypatch.delenv(name)
        for name, value in (QUIET | settings).items():
            self.monkeypatch.setenv(name, value)
        code = cli.main(["doctor", *words])
        printed = self.capsys.readouterr()
        return code, printed.out, printed.err


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Here:
    """The command, started in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Here(monkeypatch, capsys)


@pytest.mark.parametrize(
    ("words", "settings", "message"),
    [
        (["--token", "CANARY-in-argv"], {}, "a token is not taken from the command line"),
        (["--relay", "http://127.0.0.1:1", "--token", "CANARY-in-argv"], {}, "use --token-env or --token-file"),
        (["--relay", "127.0.0.1:8080"], {}, "--relay wants a URL"),
        (["--relay", "ftp://127.0.0.1"], {}, "--relay wants a URL"),
        (["--relay", "http://127.0.0.1:99999"], {}, "--relay wants a URL"),
        (["--relay", "http://me:CANARY@127.0.0.1"], {}, "takes no credentials in its URL"),
        (["--relay", "http://127.0.0.1/v1/realtime?token=CANARY"], {}, "a credential in the URL is not taken"),
        (["--relay", "http://127.0.0.1:1", "--origin", "app.example.com"], {}, "--origin wants scheme, host and port"),
        (["--relay", "http://127.0.0.1:1", "--token-env", "T"], {}, "is unset or empty"),
        (["--relay", "http://127.0.0.1:1", "--token-env", "T"], {"T": "CANARY with blanks"}, "holds what no token is"),
        (["--relay", "http://127.0.0.1:1", "--token-file", "nothing"], {}, "cannot be read: No such file"),
        (["--relay", "http://127.0.0.1:1", "--token-env", "T", "--token-file", "t"], {}, "not both"),
        (["--model", "../admin"], {}, "want a model's name"),
        (["--origin", "https://app.example.com"], {}, "--origin is of use with --relay only"),
        (["--token-env", "T"], {}, "--token-env is of use with --relay only"),
    ],
)
def test_misuse_is_exit_code_2(here: Here, words: list[str], settings: Mapping[str, str], message: str) -> None:
    """A command line that cannot be used exits with 2 and one sentence on stderr that repeats no secret."""
    code, out, err = here(*words, **settings)

    assert (2, "") == (code, out)
    assert message in err
    assert "CANARY" not in err


def test_an_unknown_option_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    """What argparse itself refuses is misuse, too."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor", "--nonsense"])

    assert 2 == ended.value.code


def test_a_token_from_a_file(here: Here) -> None:
    """A token is read from a file, its line end and byte order mark taken off; the way to the relay is then examined."""
    Path("token").write_text(f"\ufeff{TOKEN_CANARY}\r\n", encoding="utf-8")

    code, out, err = here("--relay", "http://127.0.0.1:1", "--token-file", "token", "--json")

    assert 1 == code
    assert "http://127.0.0.1:1/v1/realtime" == json.loads(out)["target"]["relay"]
    assert "CANARY" not in out + err


def test_the_price_of_a_turn_is_told_before_it(here: Here) -> None:
    """With `--turn` the cost stands above the rung, and only where that rung is reached."""
    code, good, _ = here("--turn", RELAY_UPSTREAM="simulator", OPENAI_API_KEY="sk-sim-good")
    broken_code, bad, _ = here("--turn", RELAY_UPSTREAM="simulator", OPENAI_API_KEY="sk-sim-http-403")

    assert (0, 1) == (code, broken_code)
    assert 0 < good.index("Costs about 120 tokens") < good.index("turn  ")
    assert good.endswith("All well: connected, session ready.\n")
    assert "Costs about" not in bad
    assert "turn         not tried" in bad


class Terminal(io.StringIO):
    """A stream that calls itself a terminal."""

    def isatty(self) -> bool:
        """Yes."""
        return True


PASSED = StepResult("dns", "ok", "found", 0.0123, ("a note",))
FAILED = StepResult("key", "fail", "It is wrong.", 1.5, (), "key_rejected", "Make another.")


def shown(stream: io.StringIO, environ: Mapping[str, str]) -> str:
    """Two rungs on a stream."""
    text = TextReporter(stream, Redaction(lambda: ["CANARY-secret"]), environ)
    for rung in (PASSED, FAILED):
        text.step_started(rung.name)
        text.step_finished(rung)
    return stream.getvalue()


def test_on_a_terminal_the_line_is_live_and_coloured() -> None:
    """The rung that is tried is shown and replaced; NO_COLOR takes the colour and leaves the rest."""
    live, plain = shown(Terminal(), {}), shown(Terminal(), {"NO_COLOR": "1"})

    assert "\r\x1b[K  ...   dns\r\x1b[K" in live
    assert "\x1b[1;31mFAIL \x1b[0m key" in live
    assert "\x1b[1;31m" not in plain
    assert "\r\x1b[K  ...   dns\r\x1b[K" in plain


def test_elsewhere_it_is_plain_text() -> None:
    """In a pipe or on a dumb terminal there is neither colour nor movement; findings carry reason, remedy and anchor."""
    expected = (
        "  ok    dns          found  (12 ms)\n"
        "                     a note\n"
        "  FAIL  key          key_rejected: It is wrong.  (1.50 s)\n"
        "                     -> Make another.\n"
        "                     see docs/failures.md#key_rejected\n"
    )

    assert expected == shown(io.StringIO(), {})
    assert expected == shown(Terminal(), {"TERM": "dumb"})


def test_the_last_line_of_defence() -> None:
    """Known secrets, whatever is shaped like a key, and bytes that move a cursor never reach the output."""
    redaction = Redaction(lambda: ["CANARY-secret-of-mine"])

    assert "a [redacted] b [redacted] c?[2J" == redaction.text("a CANARY-secret-of-mine b sk-proj-CANARY12345 c\x1b[2J")
    assert {"x": ["[redacted]", 1, None]} == redaction.tree({"x": ("CANARY-secret-of-mine", 1, None)})


async def test_a_fault_of_the_doctor_is_told_as_its_own() -> None:
    """An exception that nobody foresaw breaks its rung as internal_error, with its kind and without its text."""

    class Reporter:
        def step_started(self, name: str) -> None: ...
        def step_finished(self, rung: StepResult) -> None: ...
        def announce(self, sentence: str) -> None: ...

    async def fail() -> None:
        raise RuntimeError("CANARY")

    runner = StepRunner(Reporter())
    await runner.run_step("dns", fail)  # type: ignore[arg-type]

    assert runner.failed is not None
    assert ("internal_error", ("The doctor itself failed: RuntimeError.",)) == (
        runner.failed.reason,
        runner.failed.notes,
    )


async def test_the_page_names_every_rung_and_option(tmp_path: Path) -> None:
    """docs/doctor.md knows each rung of both ladders, and each option."""
    page = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")
    to_provider = await run_provider_chain({"RELAY_PORT": "x"}, tmp_path, turn=True)
    to_relay = await run_relay_chain("http://127.0.0.1:1")

    for rung in (*to_provider.results, *to_relay.results):
        assert rung.name in page
    for option in ("--json", "--turn", "--model", "--relay", "--origin", "--token-env", "--token-file"):
        assert option in page
