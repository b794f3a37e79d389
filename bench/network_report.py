"""The measurements of `bench.network` as tables."""

from typing import Any, Final

from bench.figures import Figures, Spread
from bench.network import SHAPES

HEAD: Final = (
    "reads", "upstream", "sessions", "contender", "CPU us/message", "relay / contender", "up p50/p99 us", "down p50/p99 us",
    "kB idle session", "notes",
)  # fmt: skip
_INTRODUCTION: Final = """\
## Reads as on a network

Above, each read is one whole message, because loopback keeps writes apart. A network cuts and joins them, and a relay that
falls behind reads several at once. Both ends write the same number of messages per second in other shapes; the pauses between
two pieces are part of the latencies. `relay / contender`: the CPU per message of the relay, divided by that of the other
contender, in the same round. `kB idle session`: what a session without audio adds to the RSS of a newly started process.
"""


def lines(data: dict[str, Any]) -> list[list[str]]:
    """The rows of the table, without its head."""
    result = []
    for shape in SHAPES:
        figures = Figures({"rows": [row for row in data.get("network", []) if row["shape"] == shape], "stalls": []})
        result += [
            [shape, upstream, str(sessions), name, *_cells(figures, upstream, sessions, name)]
            for upstream in figures.upstreams
            for sessions in figures.sizes
            for name in figures.contenders
            if figures.at(upstream, sessions, name)
        ]
    return result


def _cells(figures: Figures, upstream: str, sessions: int, name: str) -> list[str]:
    key = (upstream, sessions, name)
    relay = next((other for other in figures.contenders if other.partition("=")[0] == "relay"), name)
    ratio = figures.ratio(upstream, sessions, relay, name) if name != relay else None
    latencies = [
        "/".join(_median(figures.latency(*key, direction, share)) for share in ("p50", "p99"))
        for direction in ("up_us", "down_us")
    ]
    notes = ["saturated"] if figures.is_saturated(*key) else []
    notes += ["generator late"] if figures.generator_was_late(*key) else []
    notes += [f"{row['verdict']}" for row in figures.at(*key) if any(row["verdict"].values())]
    return [
        _text(figures.cpu(*key), 1),
        _text(ratio, 2),
        *latencies,
        _median(figures.memory(*key, "idle"), 1),
        ", ".join(notes),
    ]


def introduction() -> str:
    """The text above the table in docs/benchmarks.md."""
    return _INTRODUCTION + "\n" + "\n".join(f"- `{name}`: {shape.text}" for name, shape in SHAPES.items()) + "\n\n"


def _text(value: Spread | None, digits: int) -> str:
    return value.text(digits) if value is not None else "-"


def _median(value: Spread | None, digits: int = 0) -> str:
    return f"{value.median:.{digits}f}" if value is not None else "-"
