"""What the boards have in common: variables, links to each other, the JSON."""

import json
from collections.abc import Sequence
from typing import Final

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard

from monitoring.dashboards.panels import SOURCE, AnyPanel
from monitoring.promql import metric

TAG: Final = "realtime-relay"
_BUILT: Final = metric("build_info")
# Everything by default. Without Kubernetes there is no namespace, and ".*" matches that, too; a job has to be one of a
# relay's, since every process has the metrics that begin with process_.
_VARIABLES: Final = (
    ("namespace", f"label_values({_BUILT}, namespace)", ".*"),
    ("job", f'label_values({_BUILT}{{namespace=~"$namespace"}}, job)', None),
    ("instance", f'label_values({_BUILT}{{namespace=~"$namespace", job=~"$job"}}, instance)', ".*"),
)


def board(name: str, title: str, says: str, panels: Sequence[AnyPanel], runbooks: str) -> str:
    """A board's JSON; `name` is that of its file, too."""
    others = build.DashboardLink("Other boards").type(dashboard.DashboardLinkType.DASHBOARDS).tags([TAG])
    remedies = build.DashboardLink("What to do").type(dashboard.DashboardLinkType.LINK)
    built = (
        build.Dashboard(f"Realtime relay: {title}")
        .uid(f"{TAG}-{name}")
        .description(says)
        .tags([TAG])
        .time("now-6h", "now")
        .timezone("browser")
        .refresh("1m")
        .readonly()
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .link(others.include_vars(include_vars=True).keep_time(keep_time=True))
        .link(remedies.url(f"{runbooks}/runbooks/README.md").target_blank(target_blank=True))
        .with_variable(build.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for variable, query, everything in _VARIABLES:
        built.with_variable(_variable(variable, query, everything))
    for number, panel in enumerate(panels, start=1):
        panel.id(number)
        built.with_panel(panel)  # type: ignore[arg-type]  # a protocol, where the library names its base class
    return json.dumps(built.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def _variable(name: str, query: str, everything: str | None) -> build.QueryVariable:
    made = (
        build.QueryVariable(name)
        .label(name.capitalize())
        .query({"query": query, "refId": name})
        .datasource(SOURCE)
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
        .multi(multi=True)
        .include_all(include_all=True)
        .current(dashboard.VariableOption(selected=True, text="All", value="$__all"))
    )
    return made.all_value(everything) if everything is not None else made
