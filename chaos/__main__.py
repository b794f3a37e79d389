"""`python -m chaos`: attacks the relay, prints a table, saves JSON. Exits with 1 if a bound is broken."""

import argparse
import asyncio
import gc
import importlib
import json
import signal
import sys
from collections.abc import Coroutine, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench import machine
from bench.contenders import REPOSITORY
from chaos import verdict
from chaos.attacks import ATTACKS, SHORT, Attack
from chaos.endurance import Endurance, endure, print_line
from chaos.front import attack_front
from chaos.measure import Plan, measure
from chaos.verdict import Measurement, broken_bounds, depends_on_time

_CALLS: Final = 20
_SECONDS: Final = 6.0
_SHORT_CALLS: Final = 10
_SHORT_SECONDS: Final = 2.5
_ENDURANCE_CALLS: Final = 200
_MEMORY_MIB: Final = 384
_CONTROL_GROWTH_MB: Final = 20.0
_CONTROLS: Final = 4


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; exits with 2 and a sentence if it cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m chaos", description="Attacks the relay beside well-behaved calls, on loopback only."
    )
    parser.add_argument("--short", action="store_true", help="some attacks of each kind, for two seconds each")
    parser.add_argument("--only", metavar="NAME", help="comma-separated attacks; `list` prints all")
    parser.add_argument(
        "--against", metavar="FOLDER", type=Path, help="measure the relay of another working tree in turn"
    )
    parser.add_argument("--seconds", type=float, help=f"duration of each attack ({_SECONDS:g})")
    parser.add_argument("--calls", type=int, help=f"well-behaved calls ({_CALLS}; with --minutes {_ENDURANCE_CALLS})")
    long = parser.add_argument_group("one long, mixed attack in place of the table")
    long.add_argument("--minutes", type=float, help="its duration")
    long.add_argument("--memory", type=int, default=_MEMORY_MIB, metavar="MIB", help="cgroup of the relay; 0 for none")
    long.add_argument(
        "--admitted", type=int, default=0, metavar="CLIENTS", help="hostile clients with tokens; 0: without"
    )
    long.add_argument("--rate", type=float, default=25, help="messages per second of each call (25)")
    parser.add_argument(
        "--front", choices=("haproxy", "nginx"), help="attack through a TLS front in place of the table"
    )
    options = parser.parse_args(words)
    names = [name for name in (options.only or "").split(",") if name]
    if names == ["list"]:
        sys.stdout.writelines(f"{attack.family}: {name}\n" for name, attack in ATTACKS.items())
        parser.exit()
    if unknown := [name for name in names if name not in ATTACKS]:
        parser.error(f"unknown attack: {', '.join(unknown)}; `--only list` prints all")
    if options.against and not (options.against / "service" / "__main__.py").exists():
        parser.error(f"{options.against} is no working tree of the relay")
    options.names = names or list(SHORT if options.short else ATTACKS)
    return options


async def table(options: argparse.Namespace) -> tuple[list[dict[str, Any]], bool]:
    """Measure all attacks; returns the rows, and whether all bounds hold for the relay of this working tree."""
    gc.disable()
    calls = options.calls or (_SHORT_CALLS if options.short else _CALLS)
    seconds = options.seconds or (_SHORT_SECONDS if options.short else _SECONDS)
    trees = {"": REPOSITORY} | ({f" ({options.against.name})": options.against.resolve()} if options.against else {})
    rows: list[dict[str, Any]] = []
    comparison: list[str] = []
    holds, controls = True, dict[str, Measurement]()
    print_line(verdict.HEADING)
    for name in ["control", *options.names]:
        attack = ATTACKS.get(name)
        growth_mb = attack.growth_mb if attack else _CONTROL_GROWTH_MB
        kind = attack.family if attack else "none"
        results: list[Measurement] = []
        for label, tree in trees.items():
            plan = Plan(calls, seconds, tree)
            measured = await measure(attack, plan) if attack else await _control(plan)
            control = controls.setdefault(label, measured)
            broken = broken_bounds(measured, control, growth_mb=growth_mb)
            if broken and not label and depends_on_time(measured, growth_mb=growth_mb):
                measured, broken = await _again(attack, plan, growth_mb)
            holds &= bool(label) or not broken
            results.append(measured)
            print_line(verdict.row(kind, name + label, measured, broken))
            rows.append({"attack": name, "tree": str(tree), "kind": kind, "broken": broken, **asdict(measured)})
        if options.against:
            comparison.append(verdict.comparison_row(kind, name, before=results[1], now=results[0]))
    if comparison:
        print_line("\n".join([f"\n{options.against} -> this working tree\n", verdict.COMPARISON_HEADING, *comparison]))
    return rows, holds


async def _again(attack: Attack | None, plan: Plan, growth_mb: float) -> tuple[Measurement, list[str]]:
    """Measure once more, beside a new control: another program may have used the cores."""
    control = await _control(plan)
    measured = await measure(attack, plan) if attack else control
    return measured, broken_bounds(measured, control, growth_mb=growth_mb)


async def _control(plan: Plan) -> Measurement:
    """Measure without an attack, again while another program disturbs it: a bound raised by a slow control proves little."""
    best = await measure(None, plan)
    for _ in range(_CONTROLS - 1):
        if best.p99_ms <= verdict.P99_MS / 2 and best.livez_ms <= verdict.LIVEZ_MS / 2:
            break
        best = min(best, await measure(None, plan), key=lambda measured: measured.p99_ms)
    return best


def _save(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    now = datetime.now(UTC)
    folder = REPOSITORY / "build" / "chaos"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{now:%Y%m%d-%H%M%S}.json"
    data = {"date": f"{now:%Y-%m-%d}", "machine": machine.describe(), "options": vars(options), "rows": rows}
    file.write_text(json.dumps(data, indent=1, default=str) + "\n", encoding="utf-8")
    print_line(f"saved in {file.relative_to(REPOSITORY)}")


async def _until_sigterm(work: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 - what the coroutine returns
    """An exception of a signal handler, raised within a callback of the loop, would only be logged."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


def _run(work: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 - what the coroutine returns
    try:
        return importlib.import_module("uvloop").run(_until_sigterm(work))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)


def main() -> int:
    """Attack; returns 1 if a bound is broken."""
    options = parse(sys.argv[1:])
    machine.prepare()
    if options.front:
        return 0 if _run(attack_front(options.front, print_line)) else 1
    if options.minutes is None:
        rows, holds = _run(table(options))
        _save(options, rows)
        return 0 if holds else 1
    tree = options.against.resolve() if options.against else REPOSITORY
    calls = options.calls or _ENDURANCE_CALLS
    plan = Endurance(options.minutes, calls, options.rate, options.memory, options.admitted, tree)
    broken = _run(endure(plan, print_line))
    print_line("; ".join(broken) or "all bounds hold")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
