"""The kinds of panels, each with what every panel of its kind has; the dashboards say what is on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphTresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    ScaleDistribution,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode, HeatmapColorScale
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = DataSourceRef("prometheus", "${datasource}")

Panel = dashboard.Panel | timeseries.Panel | stat.Panel | table.Panel | heatmap.Panel
_P = TypeVar("_P", timeseries.Panel, stat.Panel, table.Panel, heatmap.Panel)


@dataclass(frozen=True)
class Line:
    """A query of a graph, and what its series are called there: {{label}} stands for a label's value."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Levels:
    """From where on a value is orange, and red; the panel's description says why there."""

    orange: float | None
    red: float


@dataclass(frozen=True)
class Link:
    """From a value, a line or a cell to another page."""

    title: str
    url: str


@dataclass(frozen=True)
class Column:
    """A column of numbers in a table: a query with one series a row."""

    title: str
    expr: str
    unit: str
    levels: Levels | None = None


@dataclass(frozen=True)
class Key:
    """A column of a table with a label's values; `link` is followed from its cells. A hidden one is there for
    the links of others."""

    label: str
    link: Link | None = None
    hidden: bool = False


def graph(
    title: str,
    description: str,
    unit: str,
    *lines: Line,
    span: int = 8,
    levels: Levels | None = None,
    stacked: bool = False,
    links: Sequence[Link] = (),
    most: float | None = None,
    powers: bool = False,
) -> timeseries.Panel:
    """Lines over time; `most` is the top of the axis, for shares; `powers` makes it logarithmic."""
    panel = (
        _described(timeseries.Panel(), title, description, unit, span, 8)
        .line_width(1)
        .fill_opacity(30 if stacked else 8)
        .show_points(VisibilityMode.NEVER)
        .color_scheme(dashboard.FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC))
        .legend(_legend())
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    )
    if powers:
        panel.scale_distribution(common.ScaleDistributionConfig().type(ScaleDistribution.LOG).log(10))
    else:
        panel.min(0)
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    if levels:
        panel.thresholds(_thresholds(levels))
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.DASHED))
    if most is not None:
        panel.max(most)
    elif unit == "percentunit":
        panel.axis_soft_max(0.01)  # else one that is always 0 has an axis up to 10,000 %
    if links:
        panel.data_links([_link(link) for link in links])
    return _queried(panel, *lines)


def number(
    title: str,
    description: str,
    unit: str,
    line: Line,
    *,
    span: int = 4,
    levels: Levels | None = None,
    none: str = "-",
    over_time: bool = True,
) -> stat.Panel:
    """The last value, large, above its course unless it is one about all the time shown."""
    panel = (
        _described(stat.Panel(), title, description, unit, span, 4)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .graph_mode(BigValueGraphMode.AREA if over_time else BigValueGraphMode.NONE)
        .color_mode(BigValueColorMode.VALUE)
        .no_value(none)
    )
    if levels:
        panel.thresholds(_thresholds(levels))
    else:
        panel.color_scheme(dashboard.FieldColor().mode(FieldColorModeId.FIXED).fixed_color("blue"))
    if over_time:
        return _queried(panel, line)
    return panel.with_target(_query("A", line.expr).instant().legend_format(line.legend))


def heat(title: str, description: str, expr: str, *, span: int = 8) -> heatmap.Panel:
    """A histogram of seconds over time, bucket by bucket as the kernel counted it."""
    panel = (
        _described(heatmap.Panel(), title, description, "s", span, 8)
        .calculate(False)
        .color(
            heatmap.HeatmapColorOptions()
            .mode(HeatmapColorMode.SCHEME)
            .scheme("Spectral")
            .scale(HeatmapColorScale.EXPONENTIAL)
            .exponent(0.5)
            .steps(64)
            .reverse(True)
            .fill("dark-orange")
        )
        .filter_values(heatmap.FilterValueRange().le(1e-9))
        .y_axis(heatmap.YAxisConfig().unit("s"))
        .cell_values(heatmap.CellValues().unit("cps"))
        .cell_gap(1)
        .show_tooltip()
        .show_legend()
        .exemplars_color("rgba(255,0,255,0.7)")
    )
    return panel.with_target(
        _query("A", expr).range().format(PromQueryFormat.HEATMAP).legend_format("{{le}}")
    )


def listing(
    title: str,
    description: str,
    keys: Sequence[Key],
    columns: Sequence[Column],
    *,
    span: int = 12,
    height: int = 9,
    sort: str | None = None,
) -> table.Panel:
    """A row for each set of the keys' values, most of `sort` first (the first column of numbers)."""
    # Another unit would show port 20443 as 20.4 K
    panel = _described(table.Panel(), title, description, "string", span, height)
    panel.sort_by([common.TableSortByFieldState().display_name(sort or columns[0].title).desc(True)])
    for ref, column in zip(_REFS, columns, strict=False):
        panel.with_target(_query(ref, column.expr).instant().format(PromQueryFormat.TABLE))
        panel.override_by_name(column.title, _properties(column))
    for key in keys:
        panel.override_by_name(key.label, _key_properties(key))
    if len(columns) > 1:
        panel.with_transformation(DataTransformerConfig("merge", options={}))
    return panel.with_transformation(DataTransformerConfig("organize", options=_organized(keys, columns)))


def alerts(span: int = 8) -> dashboard.Panel:
    """tcpmon's alerts, of Prometheus's rules as of Grafana's own."""
    return (
        dashboard.Panel()
        .type("alertlist")
        .title("Alerts")
        .description(
            "Alerts named Tcpmon… that are pending or firing: those of deploy/prometheus/rules, evaluated "
            "by Prometheus, or your own in Grafana. Empty is good, if the rules are loaded: Alerting, Alert "
            "rules tells. What to do about each: docs/runbook.md."
        )
        .span(span)
        .height(8)
        .options(
            {
                "alertInstanceLabelFilter": "",
                "alertName": "Tcpmon",
                "dashboardAlerts": False,
                "groupBy": [],
                "groupMode": "default",
                "maxItems": 20,
                "sortOrder": 3,  # by importance
                "stateFilter": {
                    "error": True,
                    "firing": True,
                    "noData": False,
                    "normal": False,
                    "pending": True,
                },
                "viewMode": "list",
            }
        )
    )


_REFS = "ABCDEFGHIJKL"


def _described(panel: _P, title: str, description: str, unit: str, span: int, height: int) -> _P:
    panel.title(title).description(description).unit(unit).datasource(SOURCE)
    return panel.span(span).height(height)


def _query(ref: str, expr: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().ref_id(ref).expr(expr).datasource(SOURCE)


def _queried(panel: _P, *lines: Line) -> _P:
    for ref, line in zip(_REFS, lines, strict=False):
        panel.with_target(_query(ref, line.expr).range().legend_format(line.legend))
    return panel


def _thresholds(levels: Levels) -> dashboard.ThresholdsConfig:
    steps = [Threshold(None, "green"), Threshold(levels.orange, "orange"), Threshold(levels.red, "red")]
    shown = [step for step in steps if step.color == "green" or step.value is not None]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(shown)


def _legend() -> common.VizLegendOptions:
    legend = common.VizLegendOptions().show_legend(True).display_mode(LegendDisplayMode.LIST)
    return legend.placement(LegendPlacement.BOTTOM)


def _link(link: Link) -> dashboard.DashboardLink:
    return dashboard.DashboardLink(link.title).type(DashboardLinkType.LINK).url(link.url)


def _key_properties(key: Key) -> list[DynamicConfigValue]:
    if key.hidden:
        return [DynamicConfigValue("custom.hidden", True)]
    properties = [DynamicConfigValue("custom.minWidth", 80)]
    if key.link:
        properties.append(DynamicConfigValue("links", [{"title": key.link.title, "url": key.link.url}]))
    return properties


def _properties(column: Column) -> list[DynamicConfigValue]:
    # In pixels, by the title: with the usual 150 half of such a table would be out of sight
    width = 30 + 8 * max(len(column.title), 8)
    properties = [DynamicConfigValue("unit", column.unit), DynamicConfigValue("custom.width", width)]
    if column.levels:
        properties.append(DynamicConfigValue("thresholds", _thresholds(column.levels).build()))
        properties.append(DynamicConfigValue("custom.cellOptions", {"type": "color-text"}))
    return properties


def _organized(keys: Sequence[Key], columns: Sequence[Column]) -> Mapping[str, object]:
    """What the organize transformation does: columns named and in order, the time left out."""
    values = [f"Value #{ref}" for ref in _REFS[: len(columns)]] if len(columns) > 1 else ["Value"]
    order = [*(key.label for key in keys), *values]
    return {
        "excludeByName": {"Time": True},
        "indexByName": {name: place for place, name in enumerate(order)},
        "renameByName": {value: column.title for value, column in zip(values, columns, strict=True)},
    }
