"""The command `doctor`: arguments, output and exit code. 0: no step failed, 1: a step failed, 2: invalid command line.

Each chain is imported only when it runs: `--help` and usage errors need neither.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

from yarl import URL

from service.access.origins import parse_origin
from service.doctor.output import NullReporter, Redaction, TextReporter, json_document
from service.doctor.relay_url import is_live_url
from service.doctor.steps import StepRunner
from service.realtime.keys import Secret
from service.realtime.live import DEFAULT_MODEL
from service.realtime.names import MODEL_NAME, credential_name
from service.settings import Settings
from service.settings.secrecy import credentials_in
from service.upstream.secret_file import SecretFileError, read_secret

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
_DEFAULTS: Final = Settings()
_MAX_TOKEN_BYTES: Final = 65_536


class Chain(Protocol):
    """The steps of one connection."""

    async def run(self, runner: StepRunner) -> None:
        """Run all steps."""

    def describe(self) -> dict[str, object]:
        """The object `target` of the JSON document."""

    def success(self) -> str:
        """The last line, if no step failed."""

    def caveat(self) -> str | None:
        """What the last line states before the result, because the result alone would mislead."""


class UsageError(Exception):
    """The command line is invalid. The message holds no value of an argument, since that may be a secret."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    parser.add_argument(
        "--turn",
        action="store_true",
        help="also request one short text response, which costs tokens; with --live: start a session of about two seconds",
    )
    parser.add_argument("--live", action="store_true", help="check GPT-Live in place of the Realtime API")
    parser.add_argument("--model", help=f"request this model (default: RELAY_MODEL; with --live: {DEFAULT_MODEL})")
    parser.add_argument(
        "--relay", metavar="URL", help="check the route from this machine to a running relay, as a client of it"
    )
    parser.add_argument("--origin", help="with --relay: connect as a web page of this origin does")
    parser.add_argument(
        "--token-env", metavar="NAME", help="with --relay: read the client token from this environment variable"
    )
    parser.add_argument("--token-file", metavar="PATH", help="with --relay: read the client token from this file")
    # Declared only to be refused: argparse would repeat the token in its own error message.
    parser.add_argument("--token", help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the chain, print the results and return the exit code."""
    environ: Mapping[str, str] = getattr(arguments, "environ", None) or dict(os.environ)
    try:
        _refuse_token(arguments)
        if arguments.relay is None:
            return _check_provider(arguments, environ)
        return _check_relay(arguments, environ)
    except UsageError as exc:
        sys.stderr.write(f"realtime-relay doctor: {exc}\n")
        return USAGE
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        return FAILED


def _check_provider(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    for option in ("origin", "token-env", "token-file"):
        if getattr(arguments, option.replace("-", "_")):
            raise UsageError(f"--{option} requires --relay")
    from service.doctor.local import LocalConfiguration  # noqa: PLC0415 - see above
    from service.doctor.provider import ProviderChain  # noqa: PLC0415 - see above

    local = LocalConfiguration(environ, Path.cwd())
    chain = ProviderChain(
        local, model=_parse_model(arguments.model), with_turn=arguments.turn, with_live=arguments.live
    )
    end = "GPT-Live" if arguments.live else "the provider's first event"
    return _run_chain(arguments, environ, chain, local.secrets, f"from the settings to {end}")


def _check_relay(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from service.doctor.relay import RelayChain  # noqa: PLC0415 - see above
    from service.doctor.relay_request import RelayOptions  # noqa: PLC0415 - see above

    token = _read_token(arguments, environ)
    url = _parse_relay(arguments.relay)
    with_live = arguments.live or is_live_url(url)
    default = "" if with_live else environ.get("RELAY_MODEL", "").strip()
    model = _parse_model(arguments.model or default) or (DEFAULT_MODEL if with_live else _DEFAULTS.model)
    origin = _parse_origin(arguments.origin)
    options = RelayOptions(url, model, token, origin, with_turn=arguments.turn, with_live=with_live)
    secrets = [*([token.reveal()] if token is not None else []), *credentials_in(model)]
    chain = RelayChain(options, environ)
    end = "GPT-Live through a relay" if with_live else "a relay's first event"
    return _run_chain(arguments, environ, chain, lambda: secrets, f"from this machine to {end}")


def _run_chain(
    arguments: argparse.Namespace,
    environ: Mapping[str, str],
    chain: Chain,
    secrets: Callable[[], list[str]],
    description: str,
) -> int:
    redaction = Redaction(secrets)
    text = TextReporter(sys.stdout, redaction, environ)
    runner = StepRunner(NullReporter() if arguments.json else text)
    if not arguments.json:
        text.title(description)
    asyncio.run(_run_without_loop_errors(chain, runner))
    if arguments.json:
        sys.stdout.write(json_document(runner.results, chain.describe(), redaction))
    else:
        text.summary(runner.results, chain.success(), chain.caveat())
    return FAILED if runner.failed is not None else OK


async def _run_without_loop_errors(chain: Chain, runner: StepRunner) -> None:
    # asyncio's default handler prints the errors of aborted sockets into the middle of the output.
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    await chain.run(runner)


# -- arguments --------------------------------------------------------------------------------------------------------


def _refuse_token(arguments: argparse.Namespace) -> None:
    if arguments.token is not None:
        raise UsageError(
            "--token is not accepted, because other users can read the command line; "
            "use --token-env or --token-file with --relay"
        )


def _parse_model(text: str | None) -> str | None:
    if text and not MODEL_NAME.fullmatch(text):
        raise UsageError(f"--model and RELAY_MODEL must be a model name such as {_DEFAULTS.model}")
    return text or None


def _parse_relay(text: str) -> URL:
    try:
        parts = urlsplit(text)
        url = URL(text)
        is_valid = parts.scheme in {"http", "https", "ws", "wss"} and bool(parts.hostname)
        port = parts.port
    except ValueError:
        is_valid = False
    if not is_valid:
        raise UsageError(
            f"--relay must be a URL such as http://127.0.0.1:{_DEFAULTS.port} or wss://relay.example.com/v1/realtime"
        )
    if port == 0:
        raise UsageError(
            "--relay names port 0, on which no relay listens; use the port that its log names in service.started"
        )
    if url.user or url.password:
        raise UsageError("--relay must not contain credentials; use --token-env or --token-file")
    if any(map(credential_name, url.query)):
        raise UsageError("--relay must not contain a token, because URLs are logged; use --token-env or --token-file")
    return url


def _parse_origin(text: str | None) -> str | None:
    if text is None:
        return None
    if parse_origin(text) is None:
        raise UsageError(
            "--origin must be scheme, host and port only, such as https://app.example.com, or file://, or null"
        )
    return text


def _read_token(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Secret | None:
    if arguments.token_env is not None and arguments.token_file is not None:
        raise UsageError("--token-env and --token-file exclude each other; give one of them")
    if arguments.token_env is not None:
        source = "the environment variable of --token-env"
        value = environ.get(arguments.token_env, "")
    elif arguments.token_file is not None:
        source = "the file of --token-file"
        try:
            value = read_secret(arguments.token_file, _MAX_TOKEN_BYTES).removeprefix("\ufeff")
        except SecretFileError as exc:
            raise UsageError(f"{source} {exc.cause}") from None
    else:
        return None
    value = value.strip()
    if not value:
        raise UsageError(f"{source} is unset or empty")
    if not value.isascii() or not value.isprintable() or " " in value:
        raise UsageError(f"{source} holds spaces or characters that an HTTP header cannot carry")
    return Secret(value)
