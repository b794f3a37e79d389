"""Attacks through a TLS front that the project ships, HAProxy or nginx: `make chaos ARGS="--front haproxy"`.

The attackers run in a process of their own and have another address than the well-behaved call beside them. What is asked of
the front: it ends every connection, and its descriptors are free again.
"""

import asyncio
import gc
import json
import ssl
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.contenders import REPOSITORY
from chaos.attacks import CALLER_TOKEN
from chaos.relay import Relay, start_relay
from service.realtime.frames import Opcode, build_frame
from service.simulator import Simulator, SimulatorOptions
from tests.support.front_attacks import BOMBS, SLOW, UPGRADE, Attack, Bystander, run_attack
from tests.support.fronts import Front, running_front

_PAUSE_SECONDS: Final = 1.0
_ENDED_SECONDS: Final = 40.0
_FREED_SECONDS: Final = 110.0
_GROWTH_MB: Final = 20.0
_UNREAD_CALLS: Final = 20
_UNREAD_GROWTH_MB: Final = _GROWTH_MB + _UNREAD_CALLS
_KEPT_CONNECTIONS: Final = 100
"""To the relay, which HAProxy keeps for further requests."""
_POLL_SECONDS: Final = 0.5
_ITEM: Final = {
    "type": "conversation.item.create",
    "item": {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x" * 200_000}]},
}
_UNREAD: Final = Attack(
    UPGRADE.replace(b"\r\n\r\n", f"\r\nAuthorization: Bearer {CALLER_TOKEN}\r\n\r\n".encode())
    + build_frame(Opcode.TEXT, json.dumps(_ITEM).encode(), b"abcd") * 20,
    is_read=False,
)
_ATTACKS: Final = {
    "nothing (control)": (Attack(), 0),
    **{name: (attack, 100) for name, attack in SLOW.items()},
    **{name: (attack, 10) for name, attack in BOMBS.items()},
    "a thousand and more connections": (SLOW["nothing on TCP"], 1200),
    "calls that are not read": (_UNREAD, _UNREAD_CALLS),
}
HEADING: Final = (
    "| attack through {} | connections | free after s | answers | exchanges | relay MB | files left | verdict |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- |"
)


@dataclass(slots=True)
class _Row:
    """What one attack did."""

    name: str
    connections: int
    seconds: float = 0.0
    answers: str = ""
    exchanges: int = 0
    growth_mb: float = 0.0
    files: int = 0
    problem: str = ""

    def __str__(self) -> str:
        cells = (
            self.name, self.connections, f"{self.seconds:.0f}", self.answers, self.exchanges,
            f"{self.growth_mb:.1f}", self.files, self.problem or "holds",
        )  # fmt: skip
        return "| " + " | ".join(map(str, cells)) + " |"


async def attack_front(name: str, report: Callable[[str], None]) -> bool:
    """Measure all attacks through one front; returns whether all bounds hold. Raises PackageUnavailable."""
    report(HEADING.format(name))
    holds = True
    with tempfile.TemporaryDirectory(prefix="realtime-relay-chaos-front-") as scratch:
        folder = Path(scratch)
        async with Simulator(SimulatorOptions(pace=0)) as simulator:
            settings = {"RELAY_TRUSTED_PROXIES": "127.0.0.1"}
            relay = await start_relay(
                folder, int(simulator.url.rpartition(":")[2].partition("/")[0]), settings=settings
            )
            try:
                async with running_front(name, folder, relay.port) as front:
                    for attack in _ATTACKS:
                        row = await _measure(attack, front, relay)
                        report(str(row))
                        holds &= not row.problem
            finally:
                await relay.process.stop()
    return holds


async def _measure(name: str, front: Front, relay: Relay) -> _Row:
    row = _Row(name, _ATTACKS[name][1])
    gc.collect()
    bystander = Bystander(front.port, front.context, CALLER_TOKEN)
    calling = asyncio.ensure_future(bystander.run())
    await asyncio.sleep(_POLL_SECONDS)
    relay.reset_peak()
    before_mb, before_files, before_exchanges = relay.rss_mb(), front.open_files(), bystander.exchanges
    started = time.monotonic()
    attackers = await asyncio.create_subprocess_exec(
        sys.executable, *("-m", "chaos.front", str(front.port), str(front.bundle), name),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=REPOSITORY,
    )  # fmt: skip
    communicating = asyncio.ensure_future(attackers.communicate())
    await asyncio.wait([communicating], timeout=_ENDED_SECONDS)
    kept = _KEPT_CONNECTIONS if _is_http(name) else 0
    for _ in range(round((_FREED_SECONDS - _ENDED_SECONDS) / _POLL_SECONDS)):
        if front.open_files() <= before_files + kept:
            break
        await asyncio.sleep(_POLL_SECONDS)
    else:
        row.problem = "connections of the front are not free"
    row.seconds = time.monotonic() - started
    row.files = front.open_files() - before_files
    if not communicating.done():
        attackers.terminate()
    row.answers = (await communicating)[0].decode().strip()
    row.growth_mb = relay.peak_mb() - before_mb
    bystander.stop()
    done, _ = await asyncio.wait([calling], timeout=_ENDED_SECONDS)
    row.exchanges = bystander.exchanges - before_exchanges
    row.problem = row.problem or _problem(row, None if not done else calling.exception(), relay, is_done=bool(done))
    return row


def _is_http(name: str) -> bool:
    attack = _ATTACKS[name][0]
    return attack.is_tls and attack.is_read


def _problem(row: _Row, error: BaseException | None, relay: Relay, *, is_done: bool) -> str:
    problems = [
        (relay.has_ended, "the relay ended"),
        (error is not None or not is_done, f"the call ended: {error!r}"),
        (not row.exchanges, "the call had no exchange"),
        (row.growth_mb > (_UNREAD_GROWTH_MB if row.name == "calls that are not read" else _GROWTH_MB), "memory"),
    ]
    return "; ".join(words for is_broken, words in problems if is_broken)


async def _attack(port: int, bundle: str, name: str) -> str:
    """Run all connections of an attack; returns how often each answer came, by status."""
    attack, connections = _ATTACKS[name]
    context = ssl.create_default_context(cafile=bundle)
    answers = await asyncio.gather(
        *(run_attack(attack, port, context, pause=_PAUSE_SECONDS) for _ in range(connections)), return_exceptions=True
    )
    counts = Counter(
        type(answer).__name__ if isinstance(answer, BaseException) else answer[9:12].decode("latin-1") or "closed"
        for answer in answers
    )
    return ", ".join(f"{count} {words}" for words, count in counts.most_common())


if __name__ == "__main__":
    sys.stdout.write(asyncio.run(_attack(int(sys.argv[1]), sys.argv[2], sys.argv[3])))
