"""Parses the text of a clients file: its clients, or all of its mistakes. Pure but for `read_tokens`, which it is given.

Values are resolved here: those of the client's table precede those of `[defaults]`, which precede the settings of the relay.
"""

import importlib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from typing import Any, Final, get_args

from service.access.budgets import budgets_of, rates_of
from service.access.clients import OPEN_ACCESS_CLIENT, ApiName, Client, ClientSet, JwtIssuer, digest_of
from service.clients_file import values
from service.clients_file.lines import KeyLines, Path
from service.clients_file.mistakes import ClientsRejected, Mistake, NotAccepted, shown
from service.clients_file.policies import read_issuer, read_policy
from service.clients_file.tables import Mistakes, Table
from service.realtime.policy import Policy

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,40}")
_NAME_REMEDY: Final = "Use up to 40 letters, digits, dots, underscores and hyphens"
_RESERVED: Final = frozenset({OPEN_ACCESS_CLIENT, "unknown"})
_NO_POLICY: Final = "none"
"""In `policy`: no policy, also where `[defaults]` names one."""
_PLACE: Final = re.compile(r"^(.*?) ?\(at (?:line ([0-9]+), column [0-9]+|end of document)\)$", re.DOTALL)
_PART: Final = r"""(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')"""
_TOO_LONG_KEY: Final = re.compile(rf"(?<![A-Za-z0-9_-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{32}}")
"""More parts than any key of the format has. `tomllib` and `KeyLines` need time and memory by the square of their number."""
_TOML_REMEDY: Final = (
    "Correct the line: KEY = VALUE, each key once, text in straight double quotes, true and false in lower case, comments "
    "after #"
)
_MILLION: Final = 1_000_000
_LIMITS: Final[Mapping[str, tuple[str, values.Parser[int | None]]]] = {
    "max_sessions": ("max_sessions", values.limit(_MILLION)),
    "max_session_seconds": ("max_session_seconds", values.limit(86_400)),
    "starts_per_minute": ("starts_per_minute", values.limit(100_000)),
    "minutes_per_day": ("minutes_per_day", values.limit(100 * _MILLION)),
    "minutes_per_month": ("minutes_per_month", values.limit(100 * _MILLION)),
    "tokens_per_session": ("tokens_per_session", values.limit(10**15)),
    "tokens_per_day": ("tokens_per_day", values.limit(10**15)),
    "tokens_per_month": ("tokens_per_month", values.limit(10**15)),
    "usd_per_session": ("microusd_per_session", values.usd),
    "usd_per_day": ("microusd_per_day", values.usd),
    "usd_per_month": ("microusd_per_month", values.usd),
}
"""By key of the file, the field of `ClientLimits` and its parser."""
_UNPRICED: Final = {
    "unpriced_usd_per_million_tokens": "unpriced_microusd_per_million_tokens",
    "unpriced_usd_per_minute": "unpriced_microusd_per_minute",
}
"""By key of the file, the field of `Client`."""

ReadTokens = Callable[[str], Sequence[str]]
"""Reads the tokens in a `token_file`; raises NotAccepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a clients file is read with: its name for messages, and values of the relay's settings.

    `base` has what a client gets for which the file sets nothing. `names` are those in RELAY_CLIENT_TOKENS,
    and `owned` the hashes of tokens in settings, each with its setting.
    """

    file: str
    base: Client
    names: frozenset[str] = frozenset()
    owned: Mapping[str, str] = field(default_factory=dict)


def parse_clients(text: str, surroundings: Surroundings, read_tokens: ReadTokens) -> ClientSet:
    """The clients that a file declares; raises ClientsRejected with all mistakes."""
    document = _parse_toml(text, surroundings.file)
    mistakes = Mistakes(surroundings.file, KeyLines(text))
    parsed = _Parser(document, surroundings, mistakes, read_tokens).parse()
    if found := mistakes.in_order():
        raise ClientsRejected(found)
    return parsed


def _parse_toml(text: str, file: str) -> dict[str, Any]:
    for number, written in enumerate(text.split("\n"), 1):
        if _TOO_LONG_KEY.search(written):
            raise ClientsRejected(
                [Mistake(file, number, "the file has a key of more than 32 parts", "Correct the line")]
            )
    try:
        return tomllib.loads(text, parse_float=_decimal)
    except tomllib.TOMLDecodeError as exc:
        found = _PLACE.match(str(exc))
        cause, line = (found[1], found[2]) if found else (str(exc), None)
        number = int(line) if line else text.count("\n") + 1
        raise ClientsRejected([Mistake(file, number, f"the file is not TOML: {shown(cause)}", _TOML_REMEDY)]) from None
    except (ValueError, RecursionError) as exc:  # a number with thousands of digits; an array in an array in ...
        cause = "it is nested too deep" if isinstance(exc, RecursionError) else "it has a number that is too long"
        raise ClientsRejected([Mistake(file, None, f"the file cannot be used: {cause}", "Correct it")]) from None


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent that Decimal does not have
        return Decimal("NaN")


class _Parser:
    def __init__(
        self, document: dict[str, Any], surroundings: Surroundings, mistakes: Mistakes, read_tokens: ReadTokens
    ) -> None:
        self._top = Table(document, (), mistakes)
        self._mistakes = mistakes
        self._names = surroundings.names
        self._settings = frozenset(surroundings.owned.values())
        self._base = replace(surroundings.base, is_from_file=True)
        self._read_tokens = read_tokens
        self._policies: dict[str, Policy] = {}
        self._owners: dict[str, str] = dict(surroundings.owned)
        self._prices: list[tuple[Path, str]] = []  # the tables that set a key of `_UNPRICED`
        self._has_token: set[str] = set()  # clients with a credential, whether or not it is accepted

    def parse(self) -> ClientSet:
        defaults, clients, policies, issuers = map(self._top.table, ("defaults", "clients", "policies", "jwt"))
        self._top.close(home="clients")
        for name, table in _tables(policies):
            self._check_name(name, table)
            if name == _NO_POLICY:
                self._mistakes.add(table.path, "is what a client without a policy names", "Rename it")
            self._policies[name] = read_policy(name, table)
        base = self._base
        if defaults is not None:
            base = replace(base, **self._shared(defaults, base))
            defaults.close()
        found = tuple(self._client(name, table, base) for name, table in _tables(clients))
        if not found:
            self._mistakes.add(("clients",), "has no table: the file declares no client", "Add a table [clients.NAME]")
        self._check_prices({("clients", client.name): client for client in found})
        issued = self._issuers(_tables(issuers), {client.name for client in found})
        for client in found:
            if client.name not in self._has_token | {issuer.client for issuer in issued}:
                self._mistakes.add(
                    ("clients", client.name),
                    "has no credential",
                    "Add token_sha256; 'python -m service token' makes a token and prints its hash",
                )
        return ClientSet(found, tuple(self._policies.values()), issued)

    def _check_name(self, name: str, table: Table) -> None:
        if not _NAME.fullmatch(name):
            self._mistakes.add(table.path, "is not a name that logs can show", _NAME_REMEDY)

    def _client(self, name: str, table: Table, base: Client) -> Client:
        self._check_name(name, table)
        if name in _RESERVED:
            self._mistakes.add(table.path, "has a name that the relay gives clients without a token", "Rename it")
        if name in self._names:
            self._mistakes.add(
                table.path,
                "is also a name in RELAY_CLIENT_TOKENS",
                "Rename the client, or remove it from one of the two",
            )
        if "token_sha256" in table or "token_file" in table:
            self._has_token.add(name)
        hashes = table.take("token_sha256", values.each(values.token_hash, example='["<64 hex digits>"]'))
        read = table.take("token_file", self._token_file)
        for index, digest in enumerate(hashes or ()):
            self._own(digest, name, (*table.path, "token_sha256", index))
        for digest in read or ():
            self._own(digest, name, (*table.path, "token_file"))
        enabled = table.take("enabled", values.boolean)
        shared = self._shared(table, base)
        table.close()
        return replace(
            base,
            name=name,
            credentials=frozenset((*(hashes or ()), *(read or ()))),
            is_enabled=enabled is not False,
            **shared,
        )

    def _check_prices(self, clients: Mapping[Path, Client]) -> None:
        """Report prices of `_UNPRICED` that count for no client: those of [defaults] may count for one client only."""
        for path, key in self._prices:
            concerned = [client for place, client in clients.items() if path in {place, ("defaults",)}]
            other = next(name for name in _UNPRICED if name != key)
            if not any(budgets_of(client, "").count_money for client in concerned):
                self._mistakes.add(
                    (*path, key),
                    "has no effect: it is a price for a budget in USD, and there is none",
                    "Add a budget such as usd_per_day, or remove the price",
                )
            elif all(rates_of(client) is None for client in concerned):
                self._mistakes.add((*path, key), f"has no effect without {other}", f"Set {other} as well")

    def _token_file(self, value: object) -> tuple[str, ...]:
        path = values.text(4096, example='"/run/secrets/kiosk"')(value)
        return tuple(map(digest_of, self._read_tokens(path)))

    def _own(self, digest: str, client: str, path: Path) -> None:
        """Report a token that belongs to two clients."""
        owner = self._owners.setdefault(digest, client)
        if owner != client:
            owner = owner if owner in self._settings else f"client {shown(owner)}"
            self._mistakes.add(path, f"is a token that {owner} has as well", "Give each client tokens of its own")

    def _shared(self, table: Table, base: Client) -> dict[str, Any]:
        """The fields of `Client` that a table sets, of those that `[defaults]` and a client can both set."""
        found: dict[str, Any] = {}
        table.take_into(found, "models", values.each(values.model, example='["gpt-realtime"]'), "models")
        if values.EVERY in found.get("models", ()):
            found["models"] = ()
        table.take_into(found, "origins", values.each(values.origin, example='["https://app.example.com"]'), "origins")
        apis = table.take("apis", values.each(values.one_of(get_args(ApiName)), example='["realtime"]'))
        if apis is not None:
            found["apis"] = frozenset(apis)
        for key, field_name in _UNPRICED.items():
            if key in table:
                self._prices.append((table.path, key))
            table.take_into(found, key, values.usd, field_name)
        table.take_into(found, "policy", self._policy, "policy")
        table.take_into(found, "end_sessions", values.boolean, "end_sessions")
        limits = self._limits(table)
        found["limits"] = replace(base.limits, **limits)
        found["has_default_duration"] = base.has_default_duration and "max_session_seconds" not in limits
        if (per_user := table.table("per_user")) is not None:
            found["per_user"] = replace(base.per_user, **self._limits(per_user))
            per_user.close()
        return found

    @staticmethod
    def _limits(table: Table) -> dict[str, int | None]:
        found: dict[str, int | None] = {}
        for key, (name, parser) in _LIMITS.items():
            table.take_into(found, key, parser, name)
        return found

    def _policy(self, value: object) -> Policy | None:
        name = values.reference(value)
        if name == _NO_POLICY:
            return None
        if name not in self._policies:
            raise NotAccepted(
                f'is "{shown(name)}", which no table [policies.NAME] declares', "Add it, or correct the name"
            )
        return self._policies[name]

    def _issuers(self, tables: Iterable[tuple[str, Table]], clients: set[str]) -> tuple[JwtIssuer, ...]:
        issued: list[JwtIssuer] = []
        tables = list(tables)
        if tables and not _has_jwt_library():
            install = "Install it with: pip install 'realtime-relay[jwt]'"
            self._mistakes.add(("jwt",), "needs the package joserfc, which is not installed", install)
        for name, table in tables:
            self._check_name(name, table)
            issuer = read_issuer(name, table)
            if issuer is None:
                continue
            if issuer.client not in clients:
                self._mistakes.add(
                    (*table.path, "client"),
                    f'is "{shown(issuer.client)}", which no table [clients.NAME] declares',
                    "Add it, or correct the name",
                )
            if any(issuer.issuer == other.issuer and {*issuer.audiences} & {*other.audiences} for other in issued):
                self._mistakes.add(
                    table.path, "has issuer and audience of another table", "Give each pair of the two one table"
                )
            if any(issuer.client == other.client and issuer.issuer != other.issuer for other in issued):
                self._mistakes.add(
                    (*table.path, "client"),
                    "is the client of another issuer, too: a sub of the one can be that of another user at the other",
                    "Give each issuer a client of its own",
                )
            issued.append(issuer)
        return tuple(issued)


def _has_jwt_library() -> bool:
    """Import the library: here, in the thread that reads the file, it does not hold up sessions."""
    try:
        importlib.import_module("joserfc.jws")
    except ImportError:
        return False
    return True


def _tables(table: Table | None) -> Iterable[tuple[str, Table]]:
    return table.tables() if table is not None else ()
