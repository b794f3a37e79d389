"""Builds the panels of the dashboards: every panel has a unit, a description and at least one query.

A description has two parts: what the panel shows and, after "Normal:", the expected values.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self, TypeVar

from grafana_foundation_sdk.builders import common as build_common
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import prometheus as build_prometheus
from grafana_foundation_sdk.builders import stat, statetimeline, table, timeseries
from grafana_foundation_sdk.models import common, dashboard, prometheus, units

from monitoring.promql import metric

WIDTH: Final = 24
_HEIGHT: Final = 8
WINDOW: Final = "$__rate_interval"
SELECTED: Final = 'namespace=~"$namespace", job=~"$job", instance=~"$instance"'
SOURCE: Final = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")

RATIO: Final = units.PercentUnit
SECONDS: Final = units.Seconds
PER_MINUTE: Final = units.CountsPerMinute
DATE: Final = units.DateTimeFromNow
MESSAGES: Final = units.MessagesPerSecond
BYTES: Final = units.BytesIEC
BYTES_PER_SECOND: Final = units.BytesPerSecondIEC
USD: Final = units.Dollars
COUNT: Final = units.Short
YES_NO: Final = units.BoolYesNo
STATE: Final = units.NoUnit
UNITS: Final = frozenset(
    {RATIO, SECONDS, PER_MINUTE, DATE, MESSAGES, BYTES, BYTES_PER_SECOND, USD, COUNT, YES_NO, STATE}
)


class PanelBuilder(Protocol):
    """The methods that the builders of all panel types share; the library declares no common type for them."""

    def title(self, title: str) -> Self: ...  # noqa: D102
    def description(self, description: str) -> Self: ...  # noqa: D102
    def datasource(self, datasource: dashboard.DataSourceRef) -> Self: ...  # noqa: D102
    def unit(self, unit: str) -> Self: ...  # noqa: D102
    def span(self, w: int) -> Self: ...  # noqa: D102
    def height(self, h: int) -> Self: ...  # noqa: D102
    def id(self, id_val: int) -> Self: ...  # noqa: D102
    def min(self, min_val: float) -> Self: ...  # noqa: D102
    def with_target(self, target: Any) -> Self: ...  # noqa: ANN401, D102 - the library's base type differs by release
    def build(self) -> dashboard.Panel: ...  # noqa: D102


Panel = TypeVar("Panel", bound=PanelBuilder)


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel. `{{label}}` in the legend is replaced by that label of the result."""

    expression: str
    legend: str


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: the field of the result, its heading, and how its values are shown.

    `texts` maps a value to the text shown for it. `link` is the title and URL that a click opens.
    """

    field: str
    name: str
    unit: str | None = None
    width: int | None = None
    texts: Mapping[str, str] | None = None
    link: tuple[str, str] | None = None

    def properties(self) -> Iterator[dashboard.DynamicConfigValue]:
        """The properties of the field as Grafana names them."""
        values: dict[str, object] = {
            "unit": self.unit,
            "custom.width": self.width,
            "mappings": self.texts
            and [{"type": "value", "options": {value: {"text": text} for value, text in self.texts.items()}}],
            "custom.cellOptions": self.texts and {"type": "auto", "wrapText": True},
            "links": self.link and [{"title": self.link[0], "url": self.link[1], "targetBlank": True}],
        }
        for name, value in values.items():
            if value is not None:
                yield dashboard.DynamicConfigValue(id_val=name, value=value)


def series(name: str, matchers: str = "") -> str:
    """A selector for a metric of the relay, limited to the namespaces, jobs and instances chosen in the dashboard."""
    return f"{metric(name)}{{{', '.join(filter(None, (matchers, SELECTED)))}}}"


def equals(label: str, value: str) -> str:
    """An equality matcher."""
    return f'{label}="{value}"'


def process(name: str) -> str:
    """A selector for a process metric; the matcher on `job` limits it to relays."""
    return f"process_{name}{{{SELECTED}}}"


def rate(name: str, matchers: str = "") -> str:
    """The per-second rate of a counter."""
    return f"rate({series(name, matchers)}[{WINDOW}])"


def rate_by(labels: str, name: str, matchers: str = "") -> str:
    """The per-second rate of a counter, summed by labels."""
    return f"sum by ({labels}) ({rate(name, matchers)})"


def per_minute(name: str, matchers: str = "", by: str = "") -> str:
    """The per-minute rate of a counter, summed: for events, which are rare compared with seconds."""
    return f"60 * {rate_by(by, name, matchers)}" if by else f"60 * sum({rate(name, matchers)})"


def quantiles(name: str, *shares: float, by: str = "") -> tuple[Query, ...]:
    """Quantiles of a histogram, over all series or by a label."""
    labels = f"le, {by}" if by else "le"
    legend = f"{{{{{by}}}}} " if by else ""
    return tuple(
        Query(f"histogram_quantile({share:g}, {rate_by(labels, f'{name}_bucket')})", f"{legend}p{share * 100:g}")
        for share in shares
    )


def graph_panel(
    title: str, description: str, normal: str, unit: str, *queries: Query, span: int = 8, stacked: bool = False
) -> timeseries.Panel:
    """A line graph; an area graph if stacked."""
    panel = timeseries.Panel().fill_opacity(30 if stacked else 8).line_width(1).show_points(common.VisibilityMode.NEVER)
    panel.legend(
        build_common.VizLegendOptions()
        .display_mode(common.LegendDisplayMode.LIST)
        .placement(common.LegendPlacement.BOTTOM)
        .show_legend(show_legend=True)
    )
    panel.tooltip(
        build_common.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING)
    )
    if stacked:
        panel.stacking(build_common.StackingConfig().mode(common.StackingMode.NORMAL))
    return _finish(panel, title, description, normal, unit, queries, span)


def stat_panel(
    title: str, description: str, normal: str, unit: str, query: Query, *, span: int = 4, steps: Mapping[float, str]
) -> stat.Panel:
    """A single number, coloured by threshold: `steps` maps each lower bound to a colour."""
    panel = stat.Panel().graph_mode(common.BigValueGraphMode.AREA).color_mode(common.BigValueColorMode.VALUE)
    panel.reduce_options(build_common.ReduceDataOptions().calcs(["lastNotNull"]).values(values=False))
    panel.thresholds(thresholds(steps))
    return _finish(panel, title, description, normal, unit, (query,), span)


def timeline_panel(
    title: str, description: str, normal: str, query: Query, names: Mapping[int, tuple[str, str]], *, span: int = 12
) -> statetimeline.Panel:
    """Coloured bands over time. `names` maps each value to its text and colour."""
    panel = statetimeline.Panel().show_value(common.VisibilityMode.AUTO).row_height(0.85).fill_opacity(80)
    panel.mappings([
        dashboard.ValueMap(options={
            str(value): dashboard.ValueMappingResult(text=text, color=color) for value, (text, color) in names.items()
        })
    ])  # fmt: skip
    return _finish(panel, title, description, normal, STATE, (query,), span)


def table_panel(
    title: str, description: str, normal: str, columns: Sequence[Column], *queries: Query, span: int = WIDTH
) -> table.Panel:
    """A table of the current values: one row for each combination of labels that the queries share."""
    panel = table.Panel().cell_height(common.TableCellHeight.MD).no_value("no failures")
    panel.with_transformation(dashboard.DataTransformerConfig(id_val="merge", options={}))
    panel.with_transformation(
        dashboard.DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": {"Time": True},
                "indexByName": {column.field: place for place, column in enumerate(columns)},
                "renameByName": {column.field: column.name for column in columns},
            },
        )
    )
    for column in columns:
        panel.override_by_name(column.name, list(column.properties()))
    for letter, query in zip("ABCDEFGH", queries, strict=False):
        target = build_prometheus.Dataquery().ref_id(letter).expr(query.expression).legend_format(query.legend)
        panel.with_target(target.format(prometheus.PromQueryFormat.TABLE).instant().datasource(SOURCE))
    return _describe(panel, title, description, normal, COUNT, span)


def thresholds(steps: Mapping[float, str]) -> build.ThresholdsConfig:
    """A threshold configuration: each value to the colour from there on. The first colour has no lower bound."""
    first, *rest = steps.items()
    return (
        build.ThresholdsConfig()
        .mode(dashboard.ThresholdsMode.ABSOLUTE)
        .steps([
            dashboard.Threshold(value=None, color=first[1]),
            *(dashboard.Threshold(value=value, color=color) for value, color in rest),
        ])
    )  # fmt: skip


def _finish(  # noqa: PLR0917 - called only by the three functions above
    panel: Panel, title: str, description: str, normal: str, unit: str, queries: tuple[Query, ...], span: int
) -> Panel:
    _describe(panel, title, description, normal, unit, span)
    if unit != STATE:
        panel.min(0)
    for letter, query in zip("ABCDEFGH", queries, strict=False):
        target = build_prometheus.Dataquery().ref_id(letter).expr(query.expression).legend_format(query.legend).range()
        panel.with_target(target.datasource(SOURCE))
    return panel


def _describe(panel: Panel, title: str, description: str, normal: str, unit: str, span: int) -> Panel:  # noqa: PLR0917 - as above
    panel.title(title).description(f"{description} Normal: {normal}").datasource(SOURCE).unit(unit)
    return panel.span(span).height(_HEIGHT)
