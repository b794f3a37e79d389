"""`python -m bench.scanner --against FOLDER`: the CPU time per message of scanner and pipe, beside another working tree.

With `--policy` the first column is a session with a locked policy, and the second, of the same tree, one without.

Reads of a network are seldom whole messages. Each shape cuts the same messages, 2.7 kB up (masked) and 6.5 kB down, in
another way. Each tree runs in a process of its own; they alternate, and the minimum of all rounds counts: noise only adds.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from statistics import mean, median, quantiles
from typing import IO, Final

REPOSITORY: Final = Path(__file__).resolve().parent.parent
SHAPES: Final = {
    "whole": "one message in each read",
    "cut": "each message cut into pieces of 1,448 bytes",
    "stream": "the stream of messages cut into pieces of 1,448 bytes",
    "records": "the stream cut into pieces of 1.4 to 16 kB, like TLS records",
    "three": "three messages in each read",
    "header": "the header in a read of its own",
    "burst": "reads of 64 KiB",
    "bytes": "one byte in each read",
}
_REPETITIONS: Final = 25
_REPETITIONS_OF_BYTES: Final = 2  # thousands of reads for a message

Figures = tuple[float, float]
"""Microseconds of CPU time per message, up and down."""


class _Worker:
    """A process that measures one tree; `has_policy`: a session with a locked policy."""

    def __init__(self, tree: Path, *, has_policy: bool = False) -> None:
        program = Path(__file__).with_name("scanner_worker.py")
        # -P: the folder of the program is not searched for modules. The command is written here.
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", str(program), *(["policy"] if has_policy else [])],
            env={"PYTHONPATH": str(tree)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None  # noqa: S101 - both are pipes
        assert self._process.stdout is not None  # noqa: S101
        self._input: IO[str] = self._process.stdin
        self._output: IO[str] = self._process.stdout

    def measure(self, shape: str) -> Figures:
        repetitions = _REPETITIONS_OF_BYTES if shape == "bytes" else _REPETITIONS
        self._input.write(f"{shape} {repetitions}\n")
        self._input.flush()
        up, down = self._output.readline().split()
        return float(up), float(down)

    def stop(self) -> None:
        self._input.close()
        self._process.wait(10)


def _measure(shape: str, workers: list[_Worker], rounds: int) -> list[list[Figures]]:
    """The figures of each worker, a round in each row; the order alternates."""
    results: list[list[Figures]] = [[] for _ in workers]
    for number in range(rounds + 1):
        order = list(zip(workers, results, strict=True))
        for worker, result in order if number % 2 else reversed(order):
            figures = worker.measure(shape)
            if number:  # the first round warms up
                result.append(figures)
    return results


def _line(shape: str, results: list[list[Figures]]) -> str:
    cells = []
    for result in results:
        up, down = (min(column) for column in zip(*result, strict=True))
        typical = median(mean(figures) for figures in result)
        cells.append(f"{up:7.2f} {down:7.2f} {(up + down) / 2:7.2f} ({typical:6.2f})")
    if len(results) > 1:
        ratios = [sum(new) / sum(old) for new, old in zip(*results, strict=True)]
        low, _, high = quantiles(ratios, n=4)
        new, old = (sum(map(min, zip(*result, strict=True))) for result in results)
        cells.append(f"{new / old:5.2f} ({low:4.2f}-{high:4.2f})")
    return f"{shape:8} " + "  ".join(cells)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.scanner", description="Measures scanner and pipe alone.")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another working tree, measured in turn")
    parser.add_argument(
        "--policy", action="store_true", help="measure a session with a locked policy beside one without"
    )
    parser.add_argument("--rounds", type=int, default=40, help="measurements of each shape and tree (40)")
    parser.add_argument("--shapes", default=",".join(SHAPES), help="comma-separated, of " + ", ".join(SHAPES))
    options = parser.parse_args()
    shapes = options.shapes.split(",")
    if unknown := set(shapes) - SHAPES.keys():
        parser.error(f"no such shape: {', '.join(sorted(unknown))}")
    other = options.against.resolve() if options.against else REPOSITORY if options.policy else None
    workers = [_Worker(REPOSITORY, has_policy=options.policy), *([_Worker(other)] if other else [])]
    head = "     up    down    mean (median)"
    sys.stdout.write("microseconds per message: the minimum of the rounds, and the median of their means\n")
    sys.stdout.write("ratio: of the minima, and the middle half of the rounds' ratios\n" if other else "")
    sys.stdout.write(f"{'shape':8} " + "  ".join([head] * len(workers)) + ("  ratio" if other else "") + "\n")
    for shape in shapes:
        sys.stdout.write(_line(shape, _measure(shape, workers, options.rounds)) + f"  {SHAPES[shape]}\n")
        sys.stdout.flush()
    for worker in workers:
        worker.stop()


if __name__ == "__main__":
    main()
