"""`python -m service serve | doctor | simulate | settings | probe | token | clients`.

Exit codes: 0 success, 1 failure, 2 wrong usage or settings that cannot be used. `serve` exits with 3 if sessions were
aborted without a close frame, and with 0 if every session ended by itself or was closed with 1001.
"""

import argparse
import gc
import http.client
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

from service.realtime.names import reached_locally
from service.realtime.redaction import redact
from service.settings import Settings, SettingsRejected, load_settings, reference
from service.upstream.secret_file import problem_of_certificate_file
from service.version import __version__

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
ABORTED_SESSIONS: Final = 3
_PROBE_SECONDS: Final = 3.0
_MAX_PROBE_BYTES: Final = 65_536
_PROBE_PAUSE_SECONDS: Final = 0.5


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    _open_standard_streams()
    environ = dict(os.environ)
    # aiohttp makes a TLS context when it is imported, and this variable makes every context write its secrets to a file.
    os.environ.pop("SSLKEYLOGFILE", None)
    if (problem := problem_of_certificate_file(environ)) is not None:  # aiohttp's import would block
        _print_error(f"{problem}.")
        return USAGE
    command_line = sys.argv[1:] if argv is None else list(argv)
    arguments = _build_parser(command_line).parse_args(command_line)
    arguments.environ = environ
    result: int = arguments.run(arguments)
    return result


def _build_parser(command_line: Sequence[str]) -> argparse.ArgumentParser:
    """The parser for all commands, with the arguments of those that the command line names."""
    parser = _Parser(
        prog="realtime-relay",
        description="Relays OpenAI's voice APIs, Realtime and GPT-Live, for clients that must not hold the provider's key.",
    )
    parser.add_argument("--version", action="version", version=f"realtime-relay {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="run the relay").set_defaults(run=_serve)
    doctor = commands.add_parser("doctor", help="find out why the relay does not connect, step by step")
    simulator = commands.add_parser("simulate", help="run a local stand-in for OpenAI's Realtime and GPT-Live APIs")
    commands.add_parser("settings", help="print every setting").set_defaults(run=_print_settings)
    token = commands.add_parser("token", help="make a client token, and print it with its hash for the clients file")
    clients = commands.add_parser("clients", help="check a clients file, and print its clients without secrets")
    probe = commands.add_parser("probe", help="query a running relay on this machine; exit with 0 if it answers 200")
    probe.add_argument("path", choices=("livez", "readyz", "healthz"))
    probe.add_argument(
        "--wait",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="ask again for this long while the answer may change by itself, as after a connection error",
    )
    probe.set_defaults(run=_probe)
    # Each command imports only its own modules: a container is probed every few seconds, and all of them take 0.2 s.
    if "doctor" in command_line:
        from service.doctor import command  # noqa: PLC0415 - see above

        command.add_arguments(doctor)
    if "simulate" in command_line:
        from service.simulator import command as simulate  # noqa: PLC0415 - see above

        simulate.add_arguments(simulator)
        simulator.set_defaults(run=simulate.run)
    if {"token", "clients"} & {*command_line}:
        from service import clients_command  # noqa: PLC0415 - see above

        token.set_defaults(run=clients_command.print_token)
        clients.add_argument("file", nargs="?", metavar="FILE", help="the file; without it that of RELAY_CLIENTS_FILE")
        clients.set_defaults(run=partial(clients_command.check, _settings))
    return parser


class _Parser(argparse.ArgumentParser):
    """Reports mistakes without repeating values: the error for `--tokn SECRET` must not contain the secret."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and exit with 2."""
        known, _, rest = message.partition("unrecognized arguments: ")
        if rest:
            message = (
                known + "unrecognized arguments: " + " ".join(word for word in rest.split() if word.startswith("-"))
            )
        super().error(redact(re.sub(r"=\S+", "=...", message)))


def _settings(environ: Mapping[str, str]) -> Settings | None:
    """The settings of this process; None after all mistakes have been printed."""
    try:
        return load_settings(environ, Path.cwd())
    except SettingsRejected as rejected:
        _print_error(f"{len(rejected.problems)} setting(s) cannot be used; nothing was started:")
        for problem in rejected.problems:
            _print_error(f"  {problem}")
        if rejected.warnings:
            _print_error("Also:")
        for warning in rejected.warnings:
            _print_error(f"  {warning.variable} {warning.sentence}")
        return None


def _serve(arguments: argparse.Namespace) -> int:
    gc.disable()  # until all is loaded (`loop.freeze_garbage_collector`): it takes a tenth of the start
    from service import loop  # noqa: PLC0415 - see _build_parser
    from service.app import CannotListen  # noqa: PLC0415 - see _build_parser
    from service.clients_file.mistakes import ClientsRejected  # noqa: PLC0415 - see _build_parser
    from service.process import serve  # noqa: PLC0415 - see _build_parser

    settings = _settings(arguments.environ)
    if settings is None:
        return USAGE
    try:
        result = loop.run(serve(settings, _unread_keys(arguments.environ, settings)))
    except CannotListen as exc:
        _print_error(str(exc))
        return FAILED
    except ClientsRejected as rejected:
        _print_error("RELAY_CLIENTS_FILE cannot be used; nothing was started:")
        for mistake in rejected.mistakes:
            _print_error(f"  {mistake}")
        return USAGE
    except KeyboardInterrupt:  # before the signal handlers are installed
        return OK
    return ABORTED_SESSIONS if result.aborted else OK


def _unread_keys(environ: Mapping[str, str], settings: Settings) -> list[str]:
    """Where a key is set but not read, if the simulator is used for want of a key."""
    from service.configuration import simulator_replaces_openai  # noqa: PLC0415 - see _build_parser
    from service.doctor.local import LocalConfiguration  # noqa: PLC0415 - see _build_parser

    if not simulator_replaces_openai(settings):
        return []
    local = LocalConfiguration(environ, Path.cwd())
    local.settings = settings
    return local.unread_keys()


def _print_settings(_arguments: argparse.Namespace) -> int:
    sys.stdout.write(reference.render_text())
    return OK


def _probe(arguments: argparse.Namespace) -> int:
    """GET a probe of the internal port; the image has no curl."""
    settings = _settings(arguments.environ)
    if settings is None:
        return USAGE
    deadline = time.monotonic() + arguments.wait
    while True:
        is_ok, text = _query_probe(settings, arguments.path)
        text = redact(text, (secret.reveal() for secret in settings.misplaced_secrets))
        if is_ok or time.monotonic() >= deadline or _is_final(text):
            break
        time.sleep(_PROBE_PAUSE_SECONDS)
    sys.stdout.write(text + "\n")
    return OK if is_ok else FAILED


def _query_probe(settings: Settings, path: str) -> tuple[bool, str]:
    """Whether the relay answers a probe with 200, and its answer."""
    host = reached_locally(settings.internal_host)
    connection = http.client.HTTPConnection(host, settings.internal_port, timeout=_PROBE_SECONDS)
    try:
        connection.request("GET", f"/{path}?verbose")
        response = connection.getresponse()
        text = response.read(_MAX_PROBE_BYTES).decode("utf-8", "replace").rstrip()
    except (OSError, http.client.HTTPException) as exc:
        return False, f"no answer from {host} port {settings.internal_port}: {type(exc).__name__}"
    finally:
        connection.close()
    return response.status == http.HTTPStatus.OK, text


def _is_final(text: str) -> bool:
    """Whether /readyz reports a failure that waiting does not change: a drain, or a definite reason."""
    from service.failures import CATALOGUE  # noqa: PLC0415 - see _build_parser

    causes = re.findall(r"^\[-\]\S+ failed: ([a-z_]+)", text, re.MULTILINE)
    return any(cause == "draining" or (cause in CATALOGUE and CATALOGUE[cause].is_definite) for cause in causes)


def _open_standard_streams() -> None:
    """Open those that the caller has closed: a socket could get their descriptors, and be written to as the log."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            # For the life of the process.
            setattr(sys, name, Path(os.devnull).open("r+", encoding="utf-8"))  # noqa: SIM115


def _print_error(text: str) -> None:
    sys.stderr.write(text + "\n")
