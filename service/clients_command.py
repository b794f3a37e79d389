"""`python -m service token` and `python -m service clients`."""

import argparse
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Final

from service.access.clients import Client, ClientLimits, digest_of
from service.clients_file.mistakes import ClientsRejected
from service.configuration import clients_file
from service.settings import Settings

OK, MISTAKES, USAGE = 0, 1, 2
_TOKEN_BYTES: Final = 32
_MICRO: Final = 1_000_000


def print_token(_arguments: argparse.Namespace) -> int:
    """Print a new token, and its hash for the clients file."""
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    sys.stdout.write(
        f"Token, for the client; it is shown only here:\n  {token}\n"
        f'SHA-256, for the clients file:\n  token_sha256 = ["{digest_of(token)}"]\n'
    )
    return OK


def check(load_settings: Callable[[Mapping[str, str]], Settings | None], arguments: argparse.Namespace) -> int:
    """Print the clients of a file, without secrets, or its mistakes. Exit codes: 0, 1 with mistakes, 2 without a file."""
    settings = load_settings(arguments.environ)
    if settings is None:
        return USAGE
    if arguments.file is not None:
        settings = replace(settings, clients_file=Path(arguments.file))
    reader = clients_file(settings)
    if reader is None:
        sys.stderr.write("RELAY_CLIENTS_FILE is not set. Set it, or name a file: python -m service clients FILE\n")
        return USAGE
    try:
        loaded = reader.load()
    except ClientsRejected as rejected:
        sys.stderr.write("".join(f"{mistake}\n" for mistake in rejected.mistakes))
        count = len(rejected.mistakes)
        sys.stderr.write(f"{count} mistake{'s' if count > 1 else ''}: a relay does not use this file.\n")
        return MISTAKES
    for client in loaded.clients.clients:
        sys.stdout.write("\n".join(describe(client)) + "\n")
    for issuer in loaded.clients.issuers:
        sys.stdout.write(
            f"[jwt.{issuer.name}]: tokens of {issuer.issuer} for {' or '.join(issuer.audiences)} belong to {issuer.client}\n"
        )
    sys.stdout.write(f"{len(loaded.clients.clients)} client(s); a relay uses this file.\n")
    return OK


def describe(client: Client) -> Iterator[str]:
    """The lines about a client: what holds, also where the file leaves it to the settings."""
    yield f"{client.name}{'' if client.is_enabled else ' (disabled)'}"
    yield f"  credentials: {len(client.credentials)}"
    yield f"  models: {', '.join(client.models) or 'every model'}"
    yield f"  origins: {', '.join(client.origins) or 'loopback'}"
    yield f"  apis: {', '.join(sorted(client.apis))}"
    if client.policy is not None:
        yield f"  policy: {client.policy.name}"
    yield f"  open sessions end when a credential is removed: {'yes' if client.end_sessions else 'no'}"
    yield f"  limits: {_limits(client.limits) or 'none'}"
    if per_user := _limits(client.per_user):
        yield f"  limits of each user: {per_user}"


def _limits(limits: ClientLimits) -> str:
    values = ((item.name, getattr(limits, item.name)) for item in fields(limits))
    return ", ".join(
        f"{name.replace('microusd', 'usd')} {_number(value / _MICRO if name.startswith('microusd') else value)}"
        for name, value in values
        if value is not None
    )


def _number(value: float) -> str:
    """A number as it is written in the file: whole, or with at most six decimals."""
    return f"{value:.6f}".rstrip("0").rstrip(".")
