"""Renders measurements: a pure function of the JSON, so that a report can be written again without measuring.

`python -m bench.report FILE...` writes docs/benchmarks.md and docs/benchmarks.svg from one or more runs.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

from bench import network_report, plot
from bench.contenders import REPOSITORY
from bench.figures import Figures, Spread, merged
from bench.prose import CONTENDERS, INTRODUCTION, LIMITS

Data = dict[str, Any]
_COMPARED: Final = "relay"
_DIRECTIONS: Final = (("up", "up_us"), ("down", "down_us"))


def table(data: Data) -> str:
    """The report for a terminal."""
    figures = Figures(data)
    head = ["upstream", "sessions", "contender", "CPU us/message", "up p50/p99 us", "down p50/p99 us", "first event ms"]
    lines = [[*head, "kB/session idle/busy", "messages/s", "notes"]]
    lines += [_terminal_row(figures, upstream, sessions, name) for upstream, sessions, name in _measured(figures)]
    stalls = [
        f"15 MiB each way, {upstream} upstream, {name}: messages of other sessions took at most {stall.text(1)} ms"
        for upstream in figures.upstreams
        for name in figures.contenders
        if (stall := figures.stall(upstream, name, "others")) is not None
    ]
    network = network_report.lines(data)
    shapes = [_align([list(network_report.HEAD), *network])] if network else []
    return "\n".join([_align(lines), *shapes, *stalls, *_ratios_text(figures), *_remarks(data, figures)])


def _terminal_row(figures: Figures, upstream: str, sessions: int, name: str) -> list[str]:
    key = (upstream, sessions, name)
    rows = figures.at(*key)
    latencies = [
        f"{_median_text(figures.latency(*key, d, 'p50'))}/{_median_text(figures.latency(*key, d, 'p99'))}"
        for _, d in _DIRECTIONS
    ]
    memory = [_median_text(figures.memory(*key, state)) for state in ("idle", "busy")]
    return [
        upstream, str(sessions), name, _text(figures.cpu(*key), 1), *latencies, _median_text(figures.connect(*key, "p50"), 2),
        "/".join(memory), f"{min(row['passed_per_second'] for row in rows):.0f}", _notes(figures, *key),
    ]  # fmt: skip


def _notes(figures: Figures, upstream: str, sessions: int, name: str) -> str:
    rows = figures.at(upstream, sessions, name)
    notes = _saturation(figures, upstream, sessions, name)
    for what, label in (("lost", "lost"), ("disordered", "out of order"), ("changed", "chains differ")):
        if total := sum(row["verdict"][what] for row in rows):
            notes.append(f"{total} {label}")
    return ", ".join(notes)


def _saturation(figures: Figures, upstream: str, sessions: int, name: str) -> list[str]:
    if not figures.is_saturated(upstream, sessions, name):
        return []
    return ["saturated", "generator late"] if figures.generator_was_late(upstream, sessions, name) else ["saturated"]


def _ratios_text(figures: Figures) -> list[str]:
    return [
        f"CPU per message, {name} over {other}, {upstream} upstream, {_sessions(sessions)}: {ratio.text(2)}"
        for name, other, upstream, sessions, ratio in _ratios(figures)
    ]


def _ratios(figures: Figures) -> list[tuple[str, str, str, int, Spread]]:
    """The relay over each other contender, including the relay of another working tree."""
    mine = [name for name in figures.contenders if name.partition("=")[0] == _COMPARED]
    return [
        (name, other, upstream, sessions, ratio)
        for upstream in figures.upstreams
        for sessions in figures.sizes
        for name in mine[:1]
        for other in figures.contenders
        if other != name and (ratio := figures.ratio(upstream, sessions, name, other)) is not None
    ]


def _remarks(data: Data, figures: Figures) -> list[str]:
    lines = [f"{row['upstream']}: {row['contender']} skipped: {row['why'].splitlines()[0]}" for row in data["missing"]]
    lines += [f"{row['upstream']}: {row['contender']} failed: {row['failed']}" for row in figures.failed]
    lines += _disturbances(figures)
    unclean = figures.unclean()
    measured = len(figures.rows) + len(figures.stalls) + len(figures.network)
    if unclean:
        lines.append(f"{len(unclean)} of {measured} measurements NOT clean: messages lost, reordered or changed")
    else:
        lines.append(f"{measured} measurements; every message arrived once, in order and unchanged")
    return lines


def _disturbances(figures: Figures) -> list[str]:
    """The share of the contenders' core that others used; a large share makes the figures unreliable."""
    lines = []
    for what, user in (("others_share", "other programs"), ("stolen_share", "the hypervisor")):
        shares = sorted(row[what] for row in figures.rows + figures.network if what in row)
        if shares:
            median, maximum = shares[len(shares) // 2], shares[-1]
            lines.append(
                f"{user} used {median:.1%} of the contenders' core in the median measurement, {maximum:.1%} in the worst"
            )
    return lines


def is_clean(data: Data) -> bool:
    """Whether no message was lost, reordered or changed, and no measurement of the relay is missing."""
    figures = Figures(data)
    missing = [row for row in data["missing"] + figures.failed if row["contender"].startswith(_COMPARED)]
    return bool(figures.rows or figures.network) and not figures.unclean() and not missing


def markdown(data: Data) -> str:
    """docs/benchmarks.md."""
    figures = Figures(data)
    parts = [
        INTRODUCTION,
        _setting(data, figures),
        _comparison(figures),
        _cpu(figures),
        _latency(figures),
        _memory(figures),
    ]
    parts += [_network(data), _connect(figures), _stalls(figures), _integrity(data, figures), LIMITS]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _setting(data: Data, figures: Figures) -> str:
    machine, commands = data["machine"], data.get("commands", [data["command"]])
    lines = [["machine", f"{machine['cpu']}, {machine['cores']} cores, {machine['memory']}, Linux {machine['kernel']}"]]
    lines.append(["generator", f"Python {machine['python']}, uvloop; one process on a core of its own"])
    lines += [
        [f"`{name}`", f"{text}; {CONTENDERS.get(name, '')}".rstrip("; ")] for name, text in data["versions"].items()
    ]
    lines.append(["command", "; ".join(f"`{command}`" for command in commands)])
    rounds = {size: max((len(figures.at(u, size, n)) for u in figures.upstreams for n in figures.contenders), default=0)
              for size in figures.sizes}  # fmt: skip
    counts = ", ".join(f"{count} at {_sessions(size)}" for size, count in rounds.items())
    lines.append(["rounds", f"{counts}; {data['seconds']:g} s each, after a warm-up of up to one second"])
    return f"## Machine and versions\n\nMeasured on {data['date']}.\n\n" + _table(["item", "value"], lines)


def _comparison(figures: Figures) -> str:
    lines = [[other, upstream, str(n), ratio.text(2)] for _, other, upstream, n, ratio in _ratios(figures)]
    if not lines:
        return ""
    text = (
        "CPU per message of the relay, divided by that of another contender: the median of the ratios within each round and\n"
        "their range.\n\n"
    )
    picture = "\n\n![CPU per message and memory per session](benchmarks.svg)"
    return (
        "## The relay and the other contenders\n\n"
        + text
        + _table(["other", "upstream", "sessions", "relay / other"], lines)
        + picture
    )


def _cpu(figures: Figures) -> str:
    lines = []
    for upstream in figures.upstreams:
        for name in figures.contenders:
            cells = [_cpu_cell(figures, upstream, size, name) for size in figures.sizes]
            if name != "direct" and any(cell != "-" for cell in cells):
                lines.append([upstream, name, *cells])
    head = ["upstream", "contender", *(_sessions(size) for size in figures.sizes)]
    return "## CPU per message, microseconds\n\nUser and system time, all threads and children.\n\n" + _table(
        head, lines
    )


def _cpu_cell(figures: Figures, upstream: str, size: int, name: str) -> str:
    return _text(figures.cpu(upstream, size, name), 1) + (
        " saturated" if figures.is_saturated(upstream, size, name) else ""
    )


def _latency(figures: Figures) -> str:
    lines = []
    for upstream, size, name in _measured(figures):
        cells = [
            _text(figures.latency(upstream, size, name, d, share)) for _, d in _DIRECTIONS for share in ("p50", "p99")
        ]
        added = [
            _median_text(figures.added(upstream, size, name, d, share))
            for _, d in _DIRECTIONS
            for share in ("p50", "p99")
        ]
        lines.append([upstream, str(size), name, *cells, "-" if name == "direct" else " / ".join(added)])
    head = ["upstream", "sessions", "contender", "up p50", "up p99", "down p50", "down p99", "added to direct"]
    text = "From the write at one end to the read at the other. `added to direct`: up p50 / up p99 / down p50 / down p99.\n\n"
    return "## Latency, microseconds\n\n" + text + _table(head, lines)


def _memory(figures: Figures) -> str:
    lines = []
    for upstream, size, name in _measured(figures):
        states = [(state, kind) for state in ("idle", "busy") for kind in ("rss", "pss")]
        cells = [_median_text(figures.memory(upstream, size, name, state, kind), 1) for state, kind in states]
        if any(cell != "-" for cell in cells):
            lines.append([upstream, str(size), name, *cells])
    head = ["upstream", "sessions", "contender", "RSS idle", "PSS idle", "RSS busy", "PSS busy"]
    text = "What each session adds to a newly started process.\n\n"
    return "## Memory per session, kB\n\n" + text + _table(head, lines) if lines else ""


def _connect(figures: Figures) -> str:
    lines = [
        [
            upstream,
            str(size),
            name,
            *(_text(figures.connect(upstream, size, name, share), 2) for share in ("p50", "p99")),
        ]
        for upstream, size, name in _measured(figures)
        if size > 1  # one connection has no percentiles
    ]
    text = "From the client's connect to `session.created`, one session after another.\n\n"
    return (
        "## First event, milliseconds\n\n" + text + _table(["upstream", "sessions", "contender", "p50", "p99"], lines)
    )


def _network(data: Data) -> str:
    lines = network_report.lines(data)
    return network_report.introduction() + _table(list(network_report.HEAD), lines) if lines else ""


def _stalls(figures: Figures) -> str:
    lines = []
    for upstream in figures.upstreams:
        for name in figures.contenders:
            cells = [_text(figures.stall(upstream, name, which), 1) for which in ("usual", "others", "large")]
            if any(cell != "-" for cell in cells):
                lines.append([upstream, name, *cells])
    if not lines:
        return ""
    text = (
        "One session sends a message of 15 MiB, another receives one, and 20 others carry speech: the longest latency of\n"
        "those, before and meanwhile, and the latency of the slower of the two large messages.\n\n"
    )
    head = ["upstream", "contender", "longest before", "longest meanwhile", "15 MiB"]
    return "## Stall beside large messages, milliseconds\n\n" + text + _table(head, lines)


def _integrity(data: Data, figures: Figures) -> str:
    lines = []
    for upstream, size, name in _measured(figures):
        rows = figures.at(upstream, size, name)
        passed, share = min(r["passed_per_second"] for r in rows), max(r["generator_share"] for r in rows)
        bad = [str(sum(r["verdict"][what] for r in rows)) for what in ("lost", "disordered", "changed")]
        note = ", ".join(_saturation(figures, upstream, size, name))
        lines.append(
            [
                upstream,
                str(size),
                name,
                f"{rows[0]['intended_per_second']:.0f}",
                f"{passed:.0f}",
                f"{share:.0%}",
                *bad,
                note,
            ]
        )
    head = [
        "upstream",
        "sessions",
        "contender",
        "intended /s",
        "passed /s",
        "generator",
        "lost",
        "out of order",
        "chains differ",
        "note",
    ]
    remarks = "\n".join(f"- {line}" for line in _remarks(data, figures))
    text = (
        "The lowest rate of any round, the generator's largest share of its core, and lost, reordered and changed messages.\n"
        "`saturated`: below 98 % of the intended rate in some round; `generator late`: the generator also sent less.\n\n"
    )
    return "## Load and integrity\n\n" + text + _table(head, lines) + "\n\n" + remarks


def _measured(figures: Figures) -> list[tuple[str, int, str]]:
    keys = [(u, size, name) for u in figures.upstreams for size in figures.sizes for name in figures.contenders]
    return [key for key in keys if figures.at(*key)]


def _sessions(count: int) -> str:
    return "1 session" if count == 1 else f"{count} sessions"


def _text(value: Spread | None, digits: int = 0) -> str:
    return value.text(digits) if value is not None else "-"


def _median_text(value: Spread | None, digits: int = 0) -> str:
    return f"{value.median:.{digits}f}" if value is not None else "-"


def _table(head: list[str], lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


def _align(lines: list[list[str]]) -> str:
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def write(data: Data, folder: Path) -> None:
    """Write the document and its plot to a folder."""
    (folder / "benchmarks.md").write_text(markdown(data))
    plot.draw(Figures(data), folder / "benchmarks.svg")


def main() -> int:
    """Render the named files as one report."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description="Renders saved measurements.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="JSON that `python -m bench` saved")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs", help="the folder to write to (docs)")
    options = parser.parse_args()
    data = merged([json.loads(file.read_text()) for file in options.files])
    write(data, options.out)
    sys.stdout.write(table(data) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
