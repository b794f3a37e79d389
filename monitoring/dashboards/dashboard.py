"""The frame that all dashboards share: variables, links between them, serialization to JSON."""

import json
from collections.abc import Sequence
from typing import Final

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models

from monitoring.dashboards.panels import SOURCE, PanelBuilder
from monitoring.promql import metric

TAG: Final = "realtime-relay"
_BUILD_INFO: Final = metric("build_info")
# Name, query, and the regular expression of "All". Outside Kubernetes there is no namespace, which ".*" matches too. For
# `job`, "All" expands to the jobs found: every process has the metrics named process_*, so the job must be a relay's.
_VARIABLES: Final = (
    ("namespace", f"label_values({_BUILD_INFO}, namespace)", ".*"),
    ("job", f'label_values({_BUILD_INFO}{{namespace=~"$namespace"}}, job)', None),
    ("instance", f'label_values({_BUILD_INFO}{{namespace=~"$namespace", job=~"$job"}}, instance)', ".*"),
)


def render_dashboard(name: str, title: str, description: str, panels: Sequence[PanelBuilder], docs_url: str) -> str:
    """A dashboard as JSON. `name` is the name of its file and part of its uid."""
    others = build.DashboardLink("Other dashboards").type(models.DashboardLinkType.DASHBOARDS).tags([TAG])
    runbooks = build.DashboardLink("Runbooks").type(models.DashboardLinkType.LINK)
    built = (
        build.Dashboard(f"Realtime relay: {title}")
        .uid(f"{TAG}-{name}")
        .description(description)
        .tags([TAG])
        .time("now-6h", "now")
        .timezone("browser")
        .refresh("1m")
        .readonly()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .link(others.include_vars(include_vars=True).keep_time(keep_time=True))
        .link(runbooks.url(f"{docs_url}/runbooks/README.md").target_blank(target_blank=True))
        .with_variable(build.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    for variable, query, all_value in _VARIABLES:
        built.with_variable(_variable(variable, query, all_value))
    for number, panel in enumerate(panels, start=1):
        panel.id(number)
        built.with_panel(panel)  # type: ignore[arg-type]  # a protocol, where the library names its base class
    return json.dumps(built.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def _variable(name: str, query: str, all_value: str | None) -> build.QueryVariable:
    variable = (
        build.QueryVariable(name)
        .label(name.capitalize())
        .query({"query": query, "refId": name})
        .datasource(SOURCE)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(multi=True)
        .include_all(include_all=True)
        .current(models.VariableOption(selected=True, text="All", value="$__all"))
    )
    return variable.all_value(all_value) if all_value is not None else variable
