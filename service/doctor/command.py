"""`python -m service doctor`: the arguments, the climb, the exit code. 0 all well, 1 a rung failed, 2 usage.

The chains are imported only when they are climbed: every command declares the doctor's arguments, and a container's probes
start this program every few seconds.
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

from service.doctor.output import NullReporter, Redaction, TextReporter, json_document
from service.doctor.steps import StepRunner
from service.realtime.keys import Secret
from service.realtime.names import MODEL_NAME
from service.settings import Settings

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
_DEFAULTS: Final = Settings()
_CREDENTIALS: Final = frozenset({"api-key", "api_key", "apikey", "token", "access_token", "key"})
_MAX_TOKEN_BYTES: Final = 65_536


class Chain(Protocol):
    """What can be climbed."""

    async def run(self, runner: StepRunner) -> None:
        """Try every rung."""

    def describe(self) -> dict[str, object]:
        """What is examined."""


class UsageError(Exception):
    """The command line cannot be used; the message holds nothing secret."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the command line takes."""
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    parser.add_argument("--turn", action="store_true", help="ask for one minimal text response, too; costs a little")
    parser.add_argument("--model", help="the model to ask for; by default RELAY_MODEL")
    parser.add_argument(
        "--relay", metavar="URL", help="examine the way to a running relay instead, as its clients go it"
    )
    parser.add_argument("--origin", help="with --relay: connect as a web page of this origin does")
    parser.add_argument("--token-env", metavar="NAME", help="with --relay: the variable that holds the client token")
    parser.add_argument("--token-file", metavar="PATH", help="with --relay: the file that holds the client token")
    # Declared only to be refused in words that do not repeat it: processes' arguments can be read by everybody.
    parser.add_argument("--token", help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Examine the chain and print what was found; returns the exit code."""
    environ: Mapping[str, str] = getattr(arguments, "environ", None) or dict(os.environ)
    try:
        if arguments.relay is None:
            return _to_provider(arguments, environ)
        return _to_relay(arguments, environ)
    except UsageError as exc:
        sys.stderr.write(f"realtime-relay doctor: {exc}\n")
        return USAGE
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped\n")
        return FAILED


def _to_provider(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    given = [
        f"--{name}" for name in ("origin", "token-env", "token-file") if getattr(arguments, name.replace("-", "_"))
    ]
    if arguments.token is not None:
        raise UsageError("a token is not taken from the command line, where others can read it")
    if given:
        raise UsageError(f"{given[0]} is of use with --relay only")
    from service.doctor.local import LocalConfiguration  # noqa: PLC0415 - see above
    from service.doctor.provider import ProviderChain  # noqa: PLC0415 - see above

    local = LocalConfiguration(environ, Path.cwd())
    chain = ProviderChain(local, model=_parse_model(arguments.model), with_turn=arguments.turn)
    return _climb(arguments, environ, chain, local.secrets, "from the settings to the provider's first event")


def _to_relay(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    from service.doctor.relay import RelayChain, RelayOptions  # noqa: PLC0415 - see above

    token = _read_token(arguments, environ)
    model = _parse_model(arguments.model or environ.get("RELAY_MODEL", "").strip()) or _DEFAULTS.model
    options = RelayOptions(
        _parse_relay(arguments.relay), model, token, _parse_origin(arguments.origin), with_turn=arguments.turn
    )
    secrets = [token.reveal()] if token is not None else []
    chain = RelayChain(options, environ)
    return _climb(arguments, environ, chain, lambda: secrets, "from here to a running relay's first event")


def _climb(
    arguments: argparse.Namespace,
    environ: Mapping[str, str],
    chain: Chain,
    secrets: Callable[[], list[str]],
    what: str,
) -> int:
    redaction = Redaction(secrets)
    text = TextReporter(sys.stdout, redaction, environ)
    runner = StepRunner(NullReporter() if arguments.json else text)
    if not arguments.json:
        text.head(what)
    asyncio.run(_quietly(chain, runner))
    if arguments.json:
        sys.stdout.write(json_document(runner.results, chain.describe(), redaction))
    else:
        text.verdict(runner.results, "All well: connected, session ready.")
    return FAILED if runner.failed is not None else OK


async def _quietly(chain: Chain, runner: StepRunner) -> None:
    # asyncio's default prints reprs of what a dying socket left behind, into the middle of the report.
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    await chain.run(runner)


# -- arguments --------------------------------------------------------------------------------------------------------


def _parse_model(text: str | None) -> str | None:
    if text and not MODEL_NAME.fullmatch(text):
        raise UsageError(f"--model and RELAY_MODEL want a model's name, such as {_DEFAULTS.model}")
    return text or None


def _parse_relay(text: str) -> URL:
    try:
        parts = urlsplit(text)
        url = URL(text)
        usable = parts.scheme in {"http", "https", "ws", "wss"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise UsageError(
            f"--relay wants a URL such as http://127.0.0.1:{_DEFAULTS.port} or wss://relay.example.com/v1/realtime"
        )
    if url.user or url.password:
        raise UsageError(
            "--relay takes no credentials in its URL; name the client token with --token-env or --token-file"
        )
    if _CREDENTIALS & {name.lower() for name in url.query}:
        raise UsageError(
            "a credential in the URL is not taken, because URLs are logged; use --token-env or --token-file"
        )
    return url


def _parse_origin(text: str | None) -> str | None:
    if text is None:
        return None
    parts = urlsplit(text)
    if not parts.scheme or not parts.netloc or parts.path or parts.query or parts.fragment or not text.isprintable():
        raise UsageError("--origin wants scheme, host and port only, as in https://app.example.com")
    return text


def _read_token(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Secret | None:
    if arguments.token is not None:
        raise UsageError(
            "a token is not taken from the command line, where others can read it; use --token-env or --token-file"
        )
    if arguments.token_env is not None and arguments.token_file is not None:
        raise UsageError("give --token-env or --token-file, not both")
    if arguments.token_env is not None:
        value = environ.get(arguments.token_env, "")
        where = "the variable that --token-env names"
    elif arguments.token_file is not None:
        where = "the file that --token-file names"
        try:
            with Path(arguments.token_file).open("rb") as file:
                value = file.read(_MAX_TOKEN_BYTES).decode("utf-8-sig", "replace")
        except OSError as exc:
            raise UsageError(f"{where} cannot be read: {exc.strerror}") from None
    else:
        return None
    value = value.strip()
    if not value:
        raise UsageError(f"{where} is unset or empty")
    if not value.isascii() or not value.isprintable() or " " in value:
        raise UsageError(f"{where} holds what no token is: blanks or characters that cannot travel in a header")
    return Secret(value)
