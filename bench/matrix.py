"""The comparison: each contender once per round, in rotated order; new processes for each upstream and size."""

import asyncio
import gc
import itertools
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.apis import APIS, REALTIME, Api
from bench.contenders import STRICT, Contender, ContenderUnavailable, UpstreamSite, start_process
from bench.load import Upstream
from bench.measure import Plan, measure, measure_stall, wait_until_ready
from bench.network import SHAPES
from tests.support.certificates import Authority
from tools.debian import PackageUnavailable

LITELLM_SESSIONS: Final = (1, 50)
_SHAPE_CONTENDERS: Final = {"realtime": ("relay", "haproxy"), "live": ("relay", STRICT, "haproxy")}
_REST_SECONDS: Final = 0.3  # between two contenders, so that the previous one becomes idle

Row = dict[str, Any]
ReportProgress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Matrix:
    """What to measure. `rounds` returns the number of rounds for a number of sessions."""

    contenders: tuple[str, ...]
    sessions: tuple[int, ...]
    rounds: Callable[[int], int]
    seconds: float
    upstreams: tuple[str, ...]
    stalls: int
    shapes: tuple[str, ...]  # of `network.SHAPES`
    shape_sessions: int
    shape_seconds: float


@dataclass(slots=True)
class Results:
    """The measurements, as they are saved in JSON."""

    rows: list[Row]
    stalls: list[Row]
    missing: list[Row]
    network: list[Row]


async def run(matrix: Matrix, report_progress: ReportProgress) -> Results:
    """Measure everything; unavailable contenders are listed, not fatal."""
    results = Results([], [], [], [])
    gc.disable()  # a collection here would be measured as a stall of the contender
    for kind in matrix.upstreams:
        for sessions in matrix.sessions:
            await _measure_size(matrix, kind, sessions, results, report_progress)
        if matrix.stalls:
            await _measure_stalls(matrix, kind, results, report_progress)
        for api in APIS:
            await _measure_shapes(matrix, kind, api, results, report_progress)
    return results


async def _measure_size(
    matrix: Matrix, kind: str, sessions: int, results: Results, report_progress: ReportProgress
) -> None:
    names = [n for n in matrix.contenders if n != STRICT and (n != "litellm" or sessions in LITELLM_SESSIONS)]

    async def measurement(contender: Contender, upstream: Upstream) -> Row:
        return await measure(contender, upstream, Plan(sessions, matrix.seconds))

    async with _running(names, kind, sessions, results, report_progress) as (contenders, upstream):
        for number in range(matrix.rounds(sessions)):
            for contender in _rotate(contenders, number):
                row = await _attempt(measurement, contender, upstream)
                label = {"contender": contender.name, "upstream": kind, "sessions": sessions, "round": number}
                results.rows.append(label | row)
                report_progress(
                    f"{kind:5} {sessions:4} sessions, round {number + 1}: {contender.name:10} {_summary(row)}"
                )


async def _measure_stalls(matrix: Matrix, kind: str, results: Results, report_progress: ReportProgress) -> None:
    # LiteLLM rewrites messages, so that pieces cannot be compared.
    names = [n for n in matrix.contenders if n not in ("litellm", STRICT)]
    async with _running(names, kind, 0, results, report_progress) as (contenders, upstream):
        for number in range(matrix.stalls):
            for contender in _rotate(contenders, number):
                row = await _attempt(measure_stall, contender, upstream)
                results.stalls.append({"contender": contender.name, "upstream": kind, "round": number} | row)
                others = row["others_us"]["max"] / 1000 if "others_us" in row else -1
                report_progress(
                    f"{kind:5} 15 MiB, round {number + 1}: {contender.name:10} other sessions waited at most {others:.1f} ms"
                )


async def _measure_shapes(
    matrix: Matrix, kind: str, api: str, results: Results, report_progress: ReportProgress
) -> None:
    """The relay, and the relay of another tree, beside HAProxy. Memory is that of the first measurement of a process."""
    names = [n for n in matrix.contenders if n.partition("=")[0] in _SHAPE_CONTENDERS[api]]
    sessions = matrix.shape_sessions
    shapes = {
        name: shape
        for name, shape in SHAPES.items()
        if name in matrix.shapes and kind in shape.upstreams and shape.api == api
    }
    if not shapes or not names:
        return
    async with _running(names, kind, sessions, results, report_progress, api=APIS[api]) as (contenders, upstream):
        for number, (name, shape) in itertools.product(range(matrix.rounds(sessions)), shapes.items()):
            measurement = partial(measure, plan=Plan(sessions, matrix.shape_seconds, shape=shape))
            for contender in _rotate(contenders, number):
                row = await _attempt(measurement, contender, upstream)
                if name != next(iter(shapes)):
                    row.pop("memory_kb", None)
                label = {"contender": contender.name, "upstream": kind, "sessions": sessions, "round": number}
                results.network.append(label | {"shape": name} | row)
                report_progress(f"{kind:5} {name:8}, round {number + 1}: {contender.name:10} {_summary(row)}")


def _rotate(contenders: list[Contender], number: int) -> list[Contender]:
    at = number % len(contenders) if contenders else 0
    return contenders[at:] + contenders[:at]


async def _attempt(
    measurement: Callable[[Contender, Upstream], Coroutine[Any, Any, Row]], contender: Contender, upstream: Upstream
) -> Row:
    try:
        row = await measurement(contender, upstream)
    except Exception as exc:  # noqa: BLE001 - a failed contender is a result, and must not stop the others
        row = {"failed": _reason(exc)}
    gc.collect()
    await asyncio.sleep(_REST_SECONDS)
    return row


def _reason(exc: BaseException) -> str:
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return f"{type(exc).__name__}: {exc}"[:300]


def _summary(row: Row) -> str:
    if "failed" in row:
        return f"failed: {row['failed']}"
    cpu = f"{row['cpu_us_per_message']:6.1f} us CPU" if row["cpu_us_per_message"] is not None else " " * 13
    verdict = "clean" if not any(row["verdict"].values()) else f"NOT CLEAN {row['verdict']}"
    return (
        f"{cpu}, up {row['up_us']['p50']:.0f}/{row['up_us']['p99']:.0f} us, down {row['down_us']['p50']:.0f}/"
        f"{row['down_us']['p99']:.0f} us, {row['passed_per_second']:.0f}/s, generator {row['generator_share']:.0%}, {verdict}"
    )


@asynccontextmanager
async def _running(
    names: list[str],
    kind: str,
    sessions: int,
    results: Results,
    report_progress: ReportProgress,
    *,
    api: Api = REALTIME,
) -> AsyncIterator[tuple[list[Contender], Upstream]]:
    """New processes of all contenders, with a new upstream."""
    with tempfile.TemporaryDirectory(prefix="realtime-relay-bench-") as scratch:
        folder = Path(scratch)
        context, bundle = certificate(folder) if kind == "tls" else (None, None)
        upstream = Upstream(api)
        await upstream.start(context)
        contenders: list[Contender] = []
        try:
            for name in names:
                try:
                    contenders.append(await start(name, UpstreamSite(folder, upstream.port, bundle), upstream))
                except (ContenderUnavailable, PackageUnavailable) as exc:
                    results.missing.append(
                        {"contender": name, "upstream": kind, "sessions": sessions, "why": str(exc)[:400]}
                    )
                    report_progress(f"{kind:5} {name} skipped: {exc}")
            yield contenders, upstream
        finally:
            for contender in contenders:
                if contender.process is not None:
                    await contender.process.stop()
            upstream.stop()


async def start(name: str, site: UpstreamSite, upstream: Upstream) -> Contender:
    """Start one contender and wait until a session passes through it; raises NotAvailable or NotToBeHad."""
    contender = start_process(name, site)
    try:
        await wait_until_ready(contender, upstream, seconds=180 if name == "litellm" else 90)
    except ContenderUnavailable:
        if contender.process is not None:
            await contender.process.stop()
        raise
    return contender


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's context for localhost, and the file of the authority that clients must trust."""
    authority = Authority(folder, "Bench Authority")
    return authority.server_context("localhost"), authority.bundle
