"""What is around the panels: variables, annotations, links, and the grid that the panels stand in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.dashboard import VariableRefresh, VariableSort

from grafana.panels import SOURCE, Link, Panel
from grafana.queries import HOSTS, NAMESPACES, names

OVERVIEW, DRILLDOWN = "tcpmon-overview", "tcpmon-drilldown"
TAG = "tcpmon"
# Stands for where the reader's copy of the docs is served, as in deploy/prometheus/rules
RUNBOOK = "https://runbooks.example.com/tcpmon/docs/runbook.md"
# What Grafana 10.0 writes; later ones bring it up to theirs as they load it
_SCHEMA_VERSION = 38
_WIDTH = 24
_ALL = "$__all"


@dataclass(frozen=True)
class Row:
    """Panels below a title, from the left to the right, in as many lines as they take."""

    title: str
    panels: Sequence[Panel]


def to_drilldown(title: str, **chosen: str) -> Link:
    """With these variables set, each to where in the data its value is; else all processes and ports, of the
    hosts, namespaces and time that are shown."""
    kept = [name for name in ("datasource", "job", "instance", "netns") if name not in chosen]
    query = [f"${{{name}:queryparam}}" for name in kept]
    query += [f"var-{name}={value}" for name, value in ({"comm": _ALL, "port": _ALL} | chosen).items()]
    return Link(title, f"/d/{DRILLDOWN}?{'&'.join(query)}&${{__url_time_range}}")


def framed(uid: str, title: str, description: str, rows: Sequence[Row]) -> models.Dashboard:
    """The dashboard, whole."""
    made = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .timezone("browser")
        .editable()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .refresh("30s")
        .variables([*_variables()])
        .links([*_links()])
        .build()
    )
    made.schema_version = _SCHEMA_VERSION
    made.annotations.list_val = [*_annotations()]
    made.panels = _placed(rows)
    return made


def _placed(rows: Sequence[Row]) -> list[models.Panel | models.RowPanel]:
    """With ids and places: each as high as it fits, and as far to the left."""
    placed: list[models.Panel | models.RowPanel] = []
    below = [0] * _WIDTH  # of each column of the grid, the first free line
    for row in rows:
        placed.append(models.RowPanel(title=row.title, grid_pos=_place(below, _WIDTH, 1)))
        for builder in row.panels:
            panel = builder.build()
            assert panel.grid_pos is not None
            panel.grid_pos = _place(below, panel.grid_pos.w, panel.grid_pos.h)
            placed.append(panel)
    for number, one in enumerate(placed, start=1):
        one.id_val = number
    return placed


def _place(below: list[int], width: int, height: int) -> models.GridPos:
    """A place of that size, which is taken from then on."""
    y, x = min((max(below[x : x + width]), x) for x in range(_WIDTH - width + 1))
    below[x : x + width] = [y + height] * width
    return models.GridPos(height, width, x, y)


def _variables() -> list[Any]:
    return [
        dashboard.DatasourceVariable("datasource")
        .label("Data source")
        .type("prometheus")
        .description("The Prometheus that scrapes tcpmon."),
        _choice("job", "Job", "tcpmon_build_info", "Scrape jobs with tcpmon in them."),
        _choice("instance", "Host", 'tcpmon_build_info{job=~"$job"}', "Hosts, as the scrape names them."),
        _namespaces(),
        _choice(
            "comm",
            "Process",
            f"tcpmon_open_connections{{{NAMESPACES}}}",
            "Names of processes that opened or accepted connections. _other is what had no label set of its "
            "own: metrics.max_series was reached, or it was idle for metrics.series_ttl. All is all but "
            "that, since its rates jump when an idle label set's counts join it.",
        ).all_value(_but("_other")),
        _choice(
            "port",
            "Port",
            f'tcpmon_open_connections{{{NAMESPACES},comm=~"$comm"}}',
            "The service's port: the remote one where the process connects, its own where it accepts.",
        ).sort(VariableSort.NUMERICAL_ASC),
    ]


def _choice(name: str, label: str, metric: str, description: str) -> dashboard.QueryVariable:
    return _query_variable(name, label, f"label_values({metric}, {name})", 1, description)


def _namespaces() -> dashboard.QueryVariable:
    """Shown by name and inum, as two hosts may use a name for different ones; its value is the inum alone."""
    made = _query_variable(
        "netns",
        "Namespace",
        f'query_result(label_join({names()}, "text", " ", "name", "netns"))',
        3,
        "Network namespaces: the name that ip netns has, and the inum. self is tcpmon's own, usually the "
        "host's; a container's has no name as a rule.",
    )
    return made.regex(r'/netns="(?<value>[^"]*)".*text="(?<text>[^"]*)"/')


def _query_variable(
    name: str, label: str, query: str, kind: int, description: str
) -> dashboard.QueryVariable:
    made = (
        dashboard.QueryVariable(name)
        .label(label)
        .description(description)
        .datasource(SOURCE)
        .query({"query": query, "qryType": kind, "refId": "PrometheusVariableQueryEditor-VariableQuery"})
        .multi(True)
        .include_all(True)
        .current(models.VariableOption(selected=True, text=["All"], value=[_ALL]))
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_CASE_INSENSITIVE_ASC)
    )
    # All jobs are the list of them: up and process_… are there for every other job of Prometheus's, too
    return made if name == "job" else made.all_value(".*")


def _but(word: str) -> str:
    """A pattern for all that is not this word, none included: Prometheus's have no lookahead."""
    differing = [f"{word[:end]}([^{letter}].*)?" for end, letter in enumerate(word)]
    return "|".join([*differing, f"{word}.+"])


class _Moments(models.AnnotationQuery):
    """With what Prometheus's annotations have besides: the SDK knows the settings of all kinds only."""

    more: dict[str, object]

    def to_json(self) -> dict[str, object]:
        return super().to_json() | self.more


def _annotation(name: str, colour: str, expr: str, title: str, text: str, at_value: bool) -> _Moments:
    made = _Moments(name, SOURCE, icon_color=colour, expr=expr)
    # at_value: the value is the time, in ms, and not the sample's own
    made.more = {
        "step": "60s",
        "titleFormat": title,
        "textFormat": text,
        "tagKeys": "instance",
        "useValueForTime": at_value,
    }
    return made


def _annotations() -> list[models.AnnotationQuery]:
    reloaded = f"tcpmon_config_last_reload_success_timestamp_seconds{{{HOSTS}}}"
    started = f"process_start_time_seconds{{{HOSTS}}}"
    firing = f'ALERTS{{alertname=~"Tcpmon.+",alertstate="firing",{HOSTS}}}'
    return [
        _annotation("Reloads", "blue", _since(reloaded), "Configuration read", "{{instance}}", True),
        _annotation("Restarts", "orange", _since(started), "tcpmon started", "{{instance}}", True),
        _annotation("Alerts", "red", firing, "{{alertname}}", "{{instance}} {{comm}} {{port}}", False),
    ]


def _since(seconds: str) -> str:
    """As a time in ms, those within the time shown."""
    return f"{seconds} * 1000 > $__from"


def _links() -> list[dashboard.DashboardLink]:
    def link(title: str, url: str, tooltip: str, icon: str) -> dashboard.DashboardLink:
        made = dashboard.DashboardLink(title).type(models.DashboardLinkType.LINK).url(url)
        return made.tooltip(tooltip).icon(icon).target_blank(True)

    others = dashboard.DashboardLink("tcpmon").type(models.DashboardLinkType.DASHBOARDS).tags([TAG])
    return [
        others.include_vars(True).keep_time(True).icon("external link"),
        link("Alert rules", "/alerting/list?search=Tcpmon", "tcpmon's rules and their state", "bolt"),
        link("Runbook", RUNBOOK, "What each alert means and what to do: docs/runbook.md", "doc"),
    ]
