"""The step `store`: the server of RELAY_STORE_URL, as the relay uses it. It writes nothing."""

import asyncio
import time
from contextlib import suppress
from typing import Final

from service.deadlines import Deadline
from service.doctor.steps import Finding, StepFailed
from service.failures import Failure
from service.settings import Settings
from service.store.calls import CALL_SECONDS
from service.store.interface import Scope, StoreError
from service.store.redis_backend import RedisBackend, ServerFacts, connect
from service.store.url import StoreUrl

_SECONDS: Final = 5.0
_CLOCK_SECONDS: Final = 5.0
_REMEDIES: Final = (
    ("user or password", "Correct user and password in RELAY_STORE_URL; write a special character as %XX."),
    ("permission", "Allow the user what docs/store.md lists: keys rr:*, reading, writing, scripts, time and info."),
    ("certificate", "Set SSL_CERT_FILE to the server's CA, or the host in RELAY_STORE_URL to a name of its certificate."),
    ("", "Check host, port and scheme (redis, rediss) of RELAY_STORE_URL, and that the server runs and can be reached."),
)  # fmt: skip


async def check_store(settings: Settings) -> Finding:
    """Connect, run a script that reads, and judge the server. A failure fails the step if the relay would refuse clients."""
    url = settings.store_url
    assert url is not None  # noqa: S101 - the step runs only then
    try:
        facts, seconds = await _query(url)
    except StoreError as error:
        remedy = next(remedy for word, remedy in _REMEDIES if word in str(error))
        if settings.store_failure == "closed":
            failure = Failure("store_unavailable", hint=remedy, evidence={"cause": str(error)})
            raise StepFailed.from_failure(failure, f"Server: {url}.") from None
        notes = [remedy, "RELAY_STORE_FAILURE is open: limits hold for each instance alone."]
        return Finding(f"{url} fails: {error}", notes, "warn")
    notes = list(_notes(facts, seconds))
    return Finding(f"{facts.version} at {url} answers in {seconds * 1000:.1f} ms", notes, "warn" if notes else "ok")


async def _query(url: StoreUrl) -> tuple[ServerFacts, float]:
    backend = RedisBackend(connect(url))
    try:
        async with Deadline(_SECONDS):
            facts = await backend.inspect()
            started_at = time.perf_counter()
            await backend.totals([Scope("doctor")])
            return facts, time.perf_counter() - started_at
    except TimeoutError:
        raise StoreError(f"no answer within {_SECONDS:g} s") from None
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await backend.close()


def _notes(facts: ServerFacts, seconds: float) -> list[str]:
    notes = []
    if seconds > CALL_SECONDS / 2:
        notes.append(
            f"The relay gives up a call after {CALL_SECONDS * 1000:g} ms. Place the server nearer to the relay."
        )
    if abs(facts.clock_offset) > _CLOCK_SECONDS:
        offset = f"{facts.clock_offset:+.0f} s"
        notes.append(
            f"Its clock is {offset} from this machine's. Budgets start again at its midnight (UTC); check both."
        )
    if facts.role not in {None, "master"}:
        notes.append(f"It is a {facts.role}, not the primary. Set RELAY_STORE_URL to the primary.")
    if facts.is_durable is False:
        notes.append("appendonly is off: a restart loses the budgets since the last snapshot. Set appendonly yes.")
    if facts.eviction not in {None, "noeviction"}:
        notes.append(f"maxmemory-policy is {facts.eviction}: it may drop budgets. Set maxmemory-policy noeviction.")
    return notes
