"""`python -m bench`: measures, prints, saves JSON, and on request writes docs/benchmarks.md; `soak` runs bench/soak.py."""

import argparse
import importlib
import json
import os
import sys
from datetime import UTC, datetime
from typing import Any, Final

from bench import machine, matrix, report, soak
from bench.contenders import RENEW, REPOSITORY, STARTERS, versions
from bench.network import SHAPES

_SHORT: Final = ("relay", "websockets", "haproxy")
_USUAL: Final = tuple(name for name in STARTERS if name != RENEW)
_SHAPE_SESSIONS: Final = 200
_MANY_ROUNDS: Final = (50, 200)


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measures the relay beside other proxies.")
    names = ", ".join(STARTERS)
    parser.add_argument(
        "--contenders", help=f"comma-separated, of {names}; relay=FOLDER is the relay of another working tree"
    )
    parser.add_argument("--sessions", help="comma-separated numbers of sessions (1,50,200,500)")
    parser.add_argument(
        "--rounds", type=int, help="rounds at every size; default 5 at 50 and 200 sessions, 3 at others"
    )
    parser.add_argument("--seconds", type=float, help="duration of a measurement (4)")
    parser.add_argument("--upstream", choices=("plain", "tls", "both"), default="both")
    parser.add_argument("--stalls", type=int, help="rounds with 15 MiB messages (3); 0 skips them")
    parser.add_argument(
        "--shapes",
        default=",".join(SHAPES),
        help=f"shapes of reads of a network, of {', '.join(SHAPES)}; none skips them",
    )
    parser.add_argument("--only-shapes", action="store_true", help="measure nothing but these shapes")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md and docs/benchmarks.svg")
    parser.add_argument("--short", action="store_true", help="only check that everything works and no message is lost")
    return parser.parse_args(words)


def _matrix(options: argparse.Namespace) -> matrix.Matrix:
    short = options.short
    contenders = options.contenders.split(",") if options.contenders else (_SHORT if short else _USUAL)
    unknown = [name for name in contenders if name.partition("=")[0] not in STARTERS]
    if unknown:
        sys.exit(f"unknown contender: {', '.join(unknown)}")
    shapes = () if options.shapes == "none" else tuple(options.shapes.split(","))
    if strange := set(shapes) - SHAPES.keys():
        sys.exit(f"unknown shape: {', '.join(sorted(strange))}")
    sessions = options.sessions or ("5" if short else "1,50,200,500")

    def rounds(count: int) -> int:
        return int(options.rounds or (1 if short else 5 if count in _MANY_ROUNDS else 3))

    return matrix.Matrix(
        contenders=tuple(contenders),
        sessions=() if options.only_shapes else tuple(map(int, sessions.split(","))),
        rounds=rounds,
        seconds=options.seconds or (1.0 if short else 4.0),
        shape_seconds=options.seconds or (0.5 if short else 4.0),
        shape_sessions=min(_SHAPE_SESSIONS, max(map(int, sessions.split(",")))),
        upstreams=("plain", "tls") if options.upstream == "both" else (options.upstream,),
        stalls=0 if options.only_shapes else options.stalls if options.stalls is not None else (1 if short else 3),
        shapes=shapes,
    )


def main() -> int:
    """Measure; returns 1 if a message was lost, reordered or changed."""
    if sys.argv[1:2] == ["soak"]:
        return soak.main(sys.argv[2:])
    options = _parse(sys.argv[1:])
    plan = _matrix(options)
    machine.prepare()
    load = os.getloadavg()[0]
    results = importlib.import_module("uvloop").run(matrix.run(plan, _print))
    now = datetime.now(UTC)
    data: dict[str, Any] = {
        "date": now.strftime("%Y-%m-%d"),
        "command": "make bench" + (f' ARGS="{" ".join(sys.argv[1:])}"' if sys.argv[1:] else ""),
        "machine": machine.describe(),
        "load": [load, os.getloadavg()[0]],
        "versions": versions(list(plan.contenders)),
        "seconds": plan.seconds,
        "rows": results.rows,
        "stalls": results.stalls,
        "missing": results.missing,
        "network": results.network,
    }
    folder = REPOSITORY / "build" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{now:%Y%m%d-%H%M%S}.json"
    file.write_text(json.dumps(data, indent=1) + "\n")
    sys.stdout.write(f"{report.table(data)}\nsaved in {file.relative_to(REPOSITORY)}\n")
    if options.write:
        report.write(data, REPOSITORY / "docs")
    return 0 if report.is_clean(data) else 1


def _print(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
