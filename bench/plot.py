"""The plot of docs/benchmarks.md; equal figures give equal bytes."""

import importlib
from pathlib import Path
from typing import Any, Final

from bench.figures import Figures

_SIZES: Final = (50, 200)
_MEMORY_SIZE: Final = 200
_COLOURS: Final = {
    "relay": "#0b6e4f", "haproxy": "#9aa5b1", "nginx": "#5c6b7a", "websockets": "#d98e04", "litellm": "#b23a48",
}  # fmt: skip


def draw(figures: Figures, file: Path) -> None:
    """Draw CPU per message at 50 and 200 sessions, and memory per idle session."""
    matplotlib: Any = importlib.import_module("matplotlib")  # installed in the benchmark's environment only
    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "realtime-relay", "svg.fonttype": "none", "font.size": 9})
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    names = [name for name in figures.contenders if name != "direct"]
    picture, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.8), width_ratios=(2, 1), layout="constrained")
    sizes = [size for size in _SIZES if size in figures.sizes] or figures.sizes
    groups = [(upstream, size) for upstream in figures.upstreams for size in sizes]
    for at, name in enumerate(names):
        spreads = [figures.cpu(upstream, size, name) for upstream, size in groups]
        _bars(left, at, len(names), name, [s.median if s else 0.0 for s in spreads])
    _label(left, "CPU per message, us", [f"{upstream}, {size} sessions" for upstream, size in groups])
    for at, name in enumerate(names):
        memories = [_memory(figures, upstream, name) for upstream in figures.upstreams]
        _bars(right, at, len(names), name, memories)
    _label(right, "RSS per idle session, kB", list(figures.upstreams))
    left.legend(frameon=False, ncols=len(names), loc="upper left", fontsize=8)
    picture.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    pyplot.close(picture)


def _memory(figures: Figures, upstream: str, name: str) -> float:
    """At 200 sessions, or the nearest number that was measured."""
    sizes = sorted(figures.sizes, key=lambda size: abs(size - _MEMORY_SIZE))
    found = (figures.memory(upstream, size, name, "idle") for size in sizes)
    return next((spread.median for spread in found if spread is not None), 0.0)


def _bars(axes: Any, at: int, count: int, name: str, heights: list[float]) -> None:  # noqa: ANN401 - matplotlib is untyped here
    width = 0.8 / count
    places = [group + (at - (count - 1) / 2) * width for group in range(len(heights))]
    bars = axes.bar(places, heights, width * 0.92, label=name, color=_COLOURS.get(name, "#444444"))
    axes.bar_label(bars, [f"{height:.0f}" if height else "" for height in heights], fontsize=7)


def _label(axes: Any, title: str, ticks: list[str]) -> None:  # noqa: ANN401 - matplotlib is untyped here
    axes.set_title(title, loc="left", fontsize=9)
    axes.set_xticks(range(len(ticks)), ticks)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.2)
