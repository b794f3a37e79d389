"""The rules between settings. A rule is skipped where one of its settings is not accepted by itself."""

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from importlib.util import find_spec
from typing import Final
from urllib.parse import urlsplit

from service.realtime.names import is_loopback
from service.settings.declared import Settings, declaration_of
from service.settings.problems import Problem
from service.settings.secrecy import HIDDEN, printable_value
from service.upstream.proxy import HttpProxy, InvalidProxy, choose_proxy

Rule = Callable[[Settings], Problem | None]


def broken_rules(settings: Settings, rejected: AbstractSet[str]) -> Iterator[Problem]:
    """The rules that `settings` breaks. `rejected` holds the variables whose own value is not accepted."""
    for variables, rule in _RULES:
        problem = None if variables & rejected else rule(settings)
        if problem is not None:
            yield problem


def _open_access_needs_consent(settings: Settings) -> Problem | None:
    if (
        settings.access != "open"
        or settings.clients_file is not None
        or is_loopback(settings.host)
        or settings.open_anywhere
    ):
        return None
    accepts = f"tokens while RELAY_HOST is {printable_value(settings.host)}, or RELAY_OPEN_ANYWHERE=true"
    return Problem("RELAY_ACCESS", "'open'", accepts, declaration_of("RELAY_ACCESS").example)


def _token_access_needs_tokens(settings: Settings) -> Problem | None:
    if settings.access != "tokens" or settings.client_tokens or settings.clients_file is not None:
        return None
    accepts = "at least one token, because RELAY_ACCESS is tokens (the default off loopback), or RELAY_CLIENTS_FILE"
    return Problem("RELAY_CLIENT_TOKENS", "(unset)", accepts, declaration_of("RELAY_CLIENT_TOKENS").example)


def _operator_token_is_no_clients(settings: Settings) -> Problem | None:
    if settings.operator_token not in {token.secret for token in settings.client_tokens}:
        return None
    accepts = "a token that RELAY_CLIENT_TOKENS does not list: its client could end every session"
    return Problem("RELAY_OPERATOR_TOKEN", HIDDEN, accepts, declaration_of("RELAY_OPERATOR_TOKEN").example)


def _clients_file_needs_tokens(settings: Settings) -> Problem | None:
    if settings.access != "open" or settings.clients_file is None:
        return None
    accepts = (
        "tokens or no value while RELAY_CLIENTS_FILE is set: with open access its clients and limits have no effect"
    )
    return Problem("RELAY_ACCESS", "'open'", accepts, declaration_of("RELAY_ACCESS").example)


def _ports_differ(settings: Settings) -> Problem | None:
    if settings.port != settings.internal_port or settings.port == 0:
        return None
    changed, other = "RELAY_INTERNAL_PORT", "RELAY_PORT"
    if str(settings.port) == declaration_of(changed).default:  # its example would be the port in question
        changed, other = other, changed
    return Problem(changed, repr(str(settings.port)), f"a port other than {other}", declaration_of(changed).example)


def _store_has_its_library(settings: Settings) -> Problem | None:
    if settings.store_url is None or find_spec("redis") is not None:
        return None
    accepts = (
        "memory:, because the package redis is not installed; install it with: pip install 'realtime-relay[redis]'"
    )
    return Problem("RELAY_STORE_URL", HIDDEN, accepts, declaration_of("RELAY_STORE_URL").default or "")


_RULES: Final[tuple[tuple[AbstractSet[str], Rule], ...]] = (
    ({"RELAY_ACCESS", "RELAY_HOST", "RELAY_OPEN_ANYWHERE"}, _open_access_needs_consent),
    ({"RELAY_ACCESS", "RELAY_HOST", "RELAY_CLIENT_TOKENS", "RELAY_CLIENTS_FILE"}, _token_access_needs_tokens),
    ({"RELAY_OPERATOR_TOKEN", "RELAY_CLIENT_TOKENS"}, _operator_token_is_no_clients),
    ({"RELAY_ACCESS", "RELAY_CLIENTS_FILE"}, _clients_file_needs_tokens),
    ({"RELAY_PORT", "RELAY_INTERNAL_PORT"}, _ports_differ),
    ({"RELAY_STORE_URL"}, _store_has_its_library),
)


def proxy_for(settings: Settings, environ: Mapping[str, str]) -> HttpProxy | Problem | None:
    """The proxy for the provider's host; None for an upstream on this machine or without a proxy."""
    host = urlsplit(settings.openai_base_url).hostname or ""
    if settings.upstream_proxy is None or is_loopback(host):
        return None
    try:
        return choose_proxy(settings.upstream_proxy.reveal(), host, environ)
    except InvalidProxy as exc:
        cause = f" ({exc.cause})" if exc.cause else ""
        accepts = f"the URL of an HTTP proxy, because RELAY_UPSTREAM_PROXY is auto{cause}"
        return Problem(exc.variable, HIDDEN, accepts, declaration_of("RELAY_UPSTREAM_PROXY").example)
