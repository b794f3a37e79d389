"""The store in Redis or Valkey, by one script for each operation. Needs the extra `redis`."""

import hashlib
import secrets
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar, get_args

from redis.asyncio import BlockingConnectionPool, Connection, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    NoScriptError,
    RedisError,
    ResponseError,
)
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)

from service.store import periods
from service.store.calls import MAX_CONCURRENT
from service.store.interface import (
    LEASE_SECONDS,
    SECRET_MEMORY_SECONDS,
    Amounts,
    Ceiling,
    Held,
    Limits,
    Member,
    Refused,
    Registration,
    Scope,
    SecretState,
    Spending,
    StoreError,
    Totals,
)
from service.store.scripts import NOW, scripts
from service.store.state import FINAL_RECORD_MS, LIMIT_NAMES, OPEN_RECORD_MS, SPENT_MS
from service.store.url import StoreUrl

_CONNECTIONS: Final = MAX_CONCURRENT + 2  # a heartbeat and a trial do not wait
_SOCKET_SECONDS: Final = 5.0
"""Above the limit of a call, which decides."""
_NONE: Final = -1
_ERRORS: Final = (RedisError, OSError)
_UNEXPECTED: Final = (AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What an answer raises that is none of the relay's scripts, in the parser of the library or here."""
_NO_ANSWER: Final = "the answer is none that the relay's scripts give: it may be another server"
_SECRET_MEMORY_MS: Final = SECRET_MEMORY_SECONDS * 1000
_T = TypeVar("_T")


class ServerFacts(NamedTuple):
    """What a server reports of itself; None where the user may not ask. `clock_offset`: its clock minus ours, in seconds."""

    version: str
    clock_offset: float
    role: str | None
    is_durable: bool | None
    eviction: str | None


def connect(url: StoreUrl) -> Redis:
    """A client that connects at its first command. It never repeats a command by itself: not all may run twice."""
    tls: dict[str, Any] = {"ssl_min_version": ssl.TLSVersion.TLSv1_2} if url.is_tls else {}
    pool = BlockingConnectionPool(
        _CONNECTIONS,
        _SOCKET_SECONDS,
        connection_class=SSLConnection if url.is_tls else Connection,
        host=url.host,
        port=url.port,
        db=url.database,
        username=url.user,
        password=None if url.password is None else url.password.reveal(),
        protocol=2,  # RESP3 would subscribe to notifications of a commercial product
        driver_info=None,  # it would be read from the package's files, on the event loop
        retry=Retry(NoBackoff(), 0),
        # The limit of a call bounds reads and writes. With a limit of its own the library writes by `asyncio.wait_for`, which
        # until Python 3.12 swallows a cancellation that comes when the write is done: the task then never ends.
        socket_timeout=None,
        socket_connect_timeout=_SOCKET_SECONDS,
        **tls,
    )
    return Redis.from_pool(pool)


class RedisBackend:
    """Implements `StoreBackend`. `now` is the line of the scripts that reads the clock."""

    def __init__(self, client: Redis, *, lease_seconds: float = LEASE_SECONDS, now: str = NOW) -> None:
        self._client = client
        self._lease_ms = round(lease_seconds * 1000)
        self._scripts = {
            name: (hashlib.sha1(text.encode()).hexdigest(), text)  # noqa: S324 - Redis names scripts by it
            for name, text in scripts(now).items()
        }

    async def close(self) -> None:
        """See `StoreBackend`."""
        await self._client.aclose()

    async def inspect(self) -> ServerFacts:
        """Ask the server about itself; raises StoreError. It changes nothing."""
        try:
            seconds, microseconds = await self._client.time()
            clock_offset = seconds + microseconds / 1e6 - time.time()
            try:
                info = await self._client.info()
            except ResponseError:
                info = {}
        except _ERRORS as exc:
            raise StoreError(_explain(exc)) from None
        except _UNEXPECTED:
            raise StoreError(_NO_ANSWER) from None
        name = "Valkey" if "valkey_version" in info else "Redis"
        version = info.get("valkey_version") or info.get("redis_version") or "of unknown version"
        is_durable = bool(info["aof_enabled"]) if "aof_enabled" in info else None
        return ServerFacts(
            f"{name} {version}", clock_offset, info.get("role"), is_durable, info.get("maxmemory_policy")
        )

    # -- leases -------------------------------------------------------------------------------------------------------

    async def register(self, pod: str) -> Registration:
        """See `StoreBackend`."""

        def read(answer: Any) -> Registration:  # noqa: ANN401 - what Redis answers
            fence, epoch = answer
            return Registration(Member(f"{pod}#{int(fence.decode())}", int(fence)), epoch.decode())

        return await self._run("register", read, self._lease_ms, pod, secrets.token_hex(8))

    async def hold(self, member: Member, held: Sequence[Held]) -> tuple[str, ...] | None:
        """See `StoreBackend`."""
        arguments: list[str | int] = []
        for lease, places in held:
            arguments += [lease, len(places)]
            for scope, maximum in places:
                arguments += [scope.key, _NONE if maximum is None else maximum]
        return await self._run(
            "hold",
            lambda over: None if over is None else tuple(lease.decode() for lease in over),
            self._lease_ms,
            member.name,
            *arguments,
        )

    async def heartbeat(self, member: Member, released: Sequence[str]) -> str | None:
        """See `StoreBackend`."""
        return await self._run(
            "heartbeat",
            lambda epoch: None if epoch is None else str(epoch.decode()),
            self._lease_ms,
            member.name,
            *released,
        )

    async def acquire(self, member: Member, lease: str, limits: Sequence[Limits]) -> Refused | bool:
        """See `StoreBackend`."""

        def read(answer: Any) -> Refused | bool:  # noqa: ANN401 - what Redis answers
            result, *details = answer
            if result != b"refused":
                return {b"held": True, b"lapsed": False}[result]
            scope, limit, used, maximum, time = map(int, details)
            return Refused(limits[scope - 1].scope, LIMIT_NAMES[limit - 1], used, maximum, _retry_after(limit, time))

        arguments = [argument for limit in limits for argument in _arguments_of(limit)]
        return await self._run("acquire", read, self._lease_ms, member.name, lease, *arguments)

    async def leave(self, member: Member) -> None:
        """See `StoreBackend`."""
        await self._run("leave", lambda _: None, member.name)

    # -- spending -----------------------------------------------------------------------------------------------------

    async def spend(self, reports: Sequence[Spending]) -> Mapping[Scope, Totals]:
        """See `StoreBackend`."""
        scopes = list(dict.fromkeys(scope for report in reports for scope in report.scopes))
        arguments: list[str | int] = []
        for record, own, amounts, is_final in reports:
            arguments += [record, int(is_final), *amounts, len(own), *(scope.key for scope in own)]
        return await self._spend(scopes, len(reports), *arguments)

    async def totals(self, scopes: Sequence[Scope]) -> Mapping[Scope, Totals]:
        """See `StoreBackend`."""
        return await self._spend(scopes, 0)

    async def _spend(self, scopes: Sequence[Scope], *arguments: str | int) -> Mapping[Scope, Totals]:
        keys = [scope.key for scope in scopes]
        return await self._run(
            "spend",
            lambda answer: {scope: _totals(sums) for scope, sums in zip(scopes, answer, strict=True)},
            *(FINAL_RECORD_MS, OPEN_RECORD_MS, SPENT_MS, *arguments, *keys),
        )

    # -- secrets ------------------------------------------------------------------------------------------------------

    async def put_secret(self, digest: str, payload: bytes, ttl_seconds: int) -> bool:
        """See `StoreBackend`."""
        times = ttl_seconds * 1000, _SECRET_MEMORY_MS
        return await self._run("put_secret", lambda answer: {0: False, 1: True}[answer], digest, payload, *times)

    async def read_secret(self, digest: str) -> SecretState | bytes:
        """See `StoreBackend`."""
        return await self._secret("read_secret", digest)

    async def take_secret(self, digest: str) -> SecretState | bytes:
        """See `StoreBackend`."""
        return await self._secret("take_secret", digest)

    async def _secret(self, operation: str, digest: str) -> SecretState | bytes:
        return await self._run(operation, _secret_of, digest, _SECRET_MEMORY_MS)

    async def _run(self, name: str, read: Callable[[Any], _T], *arguments: str | bytes | int) -> _T:
        """What `read` makes of the answer of a script. It raises one of `_UNEXPECTED` for an answer that is none."""
        try:
            sha, text = self._scripts[name]
            try:
                answer = await self._client.evalsha(sha, 0, *arguments)
            except NoScriptError:  # the first call, and a server that has restarted
                answer = await self._client.eval(text, 0, *arguments)
            return read(answer)
        except _ERRORS as exc:
            raise StoreError(_explain(exc)) from None
        except _UNEXPECTED:
            raise StoreError(_NO_ANSWER) from None


def _totals(sums: Sequence[Any]) -> Totals:
    amounts = [int(amount) for amount in sums]
    day, month = amounts[:3], amounts[3:]
    if len(day) != len(month):
        raise ValueError
    return Totals(Amounts(*day), Amounts(*month))


def _secret_of(answer: Any) -> SecretState | bytes:  # noqa: ANN401 - what Redis answers
    result, *payload = answer
    if result == b"payload":
        (found,) = payload
        return bytes(memoryview(found))  # of nothing but bytes: bytes(9) would be nine of them
    states: dict[bytes, SecretState] = {state.encode(): state for state in get_args(SecretState)}
    return states[result]


def _explain(exc: Exception) -> str:
    """What went wrong, from known parts only: the text of an exception may hold a URL or an argument."""
    if isinstance(exc, AuthenticationError):
        return "the server refuses user or password"
    if isinstance(exc, NoPermissionError):
        return "the user lacks a permission: allow it the commands of a client and the keys rr:*"
    if isinstance(exc, ResponseError):
        word = str(exc).split(" ", 1)[0]
        return f"the server answers with an error{f' ({word})' if word.isalpha() and word.isupper() else ''}"
    cause = exc.__cause__ or exc.__context__ or exc
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the certificate of the server is not accepted ({cause.verify_message})"
    if isinstance(exc, RedisConnectionError | OSError):
        return f"no connection ({type(cause).__name__})"
    return f"no valid answer ({type(exc).__name__})"


def _arguments_of(limits: Limits) -> Iterator[str | int]:
    yield limits.scope.key
    for limit in (limits.sessions, limits.starts_per_minute, *_values(limits.month), *_values(limits.day)):
        yield _NONE if limit is None else limit


def _values(ceiling: Ceiling) -> tuple[int | None, ...]:
    return ceiling.microusd, ceiling.tokens, ceiling.milliseconds


def _retry_after(limit: int, time: int) -> float | None:
    """`time` is the store's clock for a period, and a duration for starts, both in milliseconds."""
    name = LIMIT_NAMES[limit - 1]
    if name == "max_sessions":
        return None
    if name == "starts_per_minute":
        return time / 1000
    return periods.seconds_to_next_month(time) if name.endswith("month") else periods.seconds_to_next_day(time)
