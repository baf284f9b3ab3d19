"""Every PromQL expression of a dashboard, with Grafana's variables put in, for tests against Prometheus.

Reads the JSON and nothing else, so that what is tested is what is shipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# What Grafana would put in with "All" chosen everywhere (a variable may say what that is), an hour shown,
# and a scrape every 15 seconds.
VALUES: Mapping[str, str] = {
    "job": ".*",
    "instance": ".*",
    "netns": ".*",
    "comm": ".*",
    "port": ".*",
    "__rate_interval": "1m",
    "__interval": "15s",
    "__range": "1h",
    "__from": "0",
}
# Patterns of expressions that need not give a series while all is well; the others do under any traffic.
MAY_BE_EMPTY: Mapping[str, str] = {
    r"\btcpmon_bpf_run": "only with kernel.bpf_stats_enabled=1",
    r"\btcpmon_connect_failures_total[^/]*> 0\)?\Z": "only while connects fail",
    r"\bALERTS\b": "only while an alert is firing",
}
_VARIABLE = re.compile(r"\$(\w+)|\$\{(\w+)(?:\.[\w.]+)?(?::\w+)?\}|\[\[(\w+)(?::\w+)?\]\]")
_LABEL_VALUES = re.compile(r"label_values\((.+),\s*\w+\)\Z", re.DOTALL)
_QUERY_RESULT = re.compile(r"query_result\((.+)\)\Z", re.DOTALL)


@dataclass(frozen=True)
class Expression:
    """An expression as Prometheus takes it. `may_be_empty` says why it need not give a series, if so."""

    where: str  # a panel's title, "variable NAME" or "annotation NAME"
    expr: str
    may_be_empty: str = ""


def expressions(dashboard: Mapping[str, Any], values: Mapping[str, str] | None = None) -> list[Expression]:
    """Those of its panels, variables and annotations. `values` replaces some of VALUES, for another scrape
    interval say. KeyError for a variable that is neither there nor the dashboard's."""
    known = {**VALUES, **_all_values(dashboard), **(values or {})}
    return [
        Expression(where, substituted(raw, known), _reason(raw)) for where, raw in raw_expressions(dashboard)
    ]


def _all_values(dashboard: Mapping[str, Any]) -> dict[str, str]:
    listed = dashboard["templating"]["list"]
    return {variable["name"]: variable["allValue"] for variable in listed if "allValue" in variable}


def raw_expressions(dashboard: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(where, expression as it stands in the JSON)."""
    for panel in panels(dashboard):
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield f"variable {variable['name']}", _asked(variable["query"]["query"])
    for annotation in dashboard["annotations"]["list"]:
        if "expr" in annotation:
            yield f"annotation {annotation['name']}", annotation["expr"]


def panels(dashboard: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """All but the titles of rows."""
    return (panel for panel in dashboard["panels"] if panel["type"] != "row")


def substituted(expr: str, values: Mapping[str, str]) -> str:
    """With values for $name, ${name}, ${name:format} and [[name]]; $1 and its like belong to PromQL."""

    def value(match: re.Match[str]) -> str:
        name = next(filter(None, match.groups()))
        return match[0] if name.isdigit() else values[name]

    return _VARIABLE.sub(value, expr)


def variables(text: str) -> set[str]:
    """Names of the variables in it."""
    names = {next(filter(None, match.groups())) for match in _VARIABLE.finditer(text)}
    return {name for name in names if not name.isdigit()}


def _asked(query: str) -> str:
    """The PromQL in a variable's query."""
    for form in (_LABEL_VALUES, _QUERY_RESULT):
        if match := form.match(query):
            return match[1].strip()
    raise ValueError(f"neither label_values(…, …) nor query_result(…): {query}")


def _reason(expr: str) -> str:
    return next((why for pattern, why in MAY_BE_EMPTY.items() if re.search(pattern, expr)), "")
