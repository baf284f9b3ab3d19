"""Grafana's dashboards: in step with their code, whole, and asking for nothing that tcpmon does not have."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from needs import needs
from prometheus_client import ProcessCollector

from grafana.expressions import VALUES, expressions, panels, raw_expressions, substituted, variables
from tcpmon.metrics.families import FAMILIES, LABELS, Histogram
from tcpmon.metrics.selfmetrics import SELF

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "grafana" / "dashboards"
NAMES = ("tcpmon-overview", "tcpmon-drilldown")
DASHBOARDS: Mapping[str, dict[str, Any]] = {
    name: json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")) for name in NAMES
}
# Labels that Prometheus gives, and those that a query makes
TARGET = {"job", "instance"}
MADE = {"name", "text"}
BUILT_IN = {"__all", "__rate_interval", "__range", "__from", "__field", "__data", "__url_time_range"}

sdk = pytest.mark.skipif(sys.version_info < (3, 11), reason="grafana-foundation-sdk needs Python 3.11")
# What stands for All, where it is not .*
ALL = {
    "job": None,
    "comm": "([^_].*)?|_([^o].*)?|_o([^t].*)?|_ot([^h].*)?|_oth([^e].*)?|_othe([^r].*)?|_other.+",
}
each = pytest.mark.parametrize("name", NAMES)


def known_metrics() -> Mapping[str, set[str]]:
    """Every name that a scrape can have, Prometheus's own about it, and its labels."""
    known: dict[str, set[str]] = {"up": set(), "ALERTS": {"alertname", "alertstate"}}
    for family in FAMILIES:
        if isinstance(family, Histogram):
            labels = {*LABELS, *(label for label, _value in family.parts[0].labels)}
            known |= {f"{family.name}_{part}": labels for part in ("count", "sum")}
            known[f"{family.name}_bucket"] = labels | {"le"}
        else:
            labels = {*LABELS, *(label for label, _value in family.samples[0].labels)}
            known[family.name + "_total" * (family.kind == "counter")] = labels
    for metric, own in SELF.items():
        known[metric + "_total" * (own.kind == "counter")] = set(own.labels)
    for made in ProcessCollector(registry=None).collect():
        known |= {sample.name: set() for sample in made.samples}
    return {metric: labels | TARGET for metric, labels in known.items()}


KNOWN = known_metrics()


def selectors(expr: str) -> Iterator[tuple[str, set[str]]]:
    """(metric, labels that its matchers name)."""
    for metric, matchers in re.findall(r"\b([a-zA-Z_:][\w:]*)\{([^}]*)\}", expr):
        yield metric, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))


def words_without_arguments(expr: str) -> set[str]:
    """Metrics that stand in it with no matcher: names that are no function, keyword, label or number."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^]]*\]|\$\w+|\b(?:by|on|group_left) \([^)]*\)', " ", expr)
    words = set(re.findall(r"\b[a-zA-Z_]\w*\b(?!\s*\()", bare))
    return words - {"and", "or", "unless", "by", "on", "group_left"}


def grouped(expr: str) -> set[str]:
    """Labels that it groups by or joins on."""
    lists = re.findall(r"\b(?:by|on|group_left) \(([^)]*)\)", expr)
    return {label.strip() for one in lists for label in one.split(",") if label.strip()}


def all_strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from all_strings(one)


@sdk
def test_the_shipped_files_are_the_generated_ones() -> None:
    from grafana.build import texts  # needs the SDK

    shipped = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()}
    assert shipped == texts(), "run: make docs"


@sdk
@each
def test_the_sdk_reads_back_all_that_it_knows(name: str) -> None:
    """A setting that Grafana has under another name, or not at all, would be lost on the way."""
    from grafana_foundation_sdk.cog import plugins
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models.dashboard import Dashboard

    plugins.register_default_plugins()
    back = json.loads(json.dumps(Dashboard.from_json(DASHBOARDS[name]), cls=JSONEncoder))
    expected = json.loads(json.dumps(DASHBOARDS[name]))
    for annotation in expected["annotations"]["list"]:  # these settings are Prometheus's alone
        for key in ("step", "tagKeys", "textFormat", "titleFormat", "useValueForTime"):
            del annotation[key]
    for panel in panels(back):
        if not panel["fieldConfig"]["defaults"].get("custom", True):
            del panel["fieldConfig"]["defaults"]["custom"]
    assert back == expected


@each
def test_it_can_be_imported_anywhere(name: str) -> None:
    """No id of somebody's database, no data source by name, a schema that Grafana 10.0 knows."""
    dashboard = DASHBOARDS[name]
    assert dashboard["uid"] == name
    assert "id" not in dashboard
    assert dashboard["schemaVersion"] == 38
    assert dashboard["tags"] == ["tcpmon"]
    assert dashboard["description"]
    sources = [panel["datasource"] for panel in panels(dashboard) if panel["type"] != "alertlist"]
    sources += [target["datasource"] for panel in panels(dashboard) for target in panel.get("targets", ())]
    sources += [one["datasource"] for one in dashboard["annotations"]["list"]]
    sources += [one["datasource"] for one in dashboard["templating"]["list"] if one["type"] == "query"]
    assert len(sources) > 60
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)


@each
def test_every_panel_explains_itself(name: str) -> None:
    titles = [panel["title"] for panel in panels(DASHBOARDS[name])]
    assert len(set(titles)) == len(titles) > 20
    for panel in panels(DASHBOARDS[name]):
        title, defaults = panel["title"], panel["fieldConfig"]["defaults"]
        assert title, panel["id"]
        assert len(panel["description"]) > 60, title
        if panel["type"] != "alertlist":
            assert panel["targets"], title
            assert defaults["unit"], title
            assert (defaults["unit"] == "string") == (panel["type"] == "table"), title
        steps = [step for step in defaults.get("thresholds", {}).get("steps", ()) if step["color"] != "green"]
        for step in steps:
            assert re.search(rf"\b{step['color']}\b", panel["description"].lower()), (title, step)


@each
def test_thresholds_rise_from_green(name: str) -> None:
    found = 0
    for text in re.findall(r'"steps": (\[.*?\])', json.dumps(DASHBOARDS[name])):
        steps = json.loads(text)
        colours = [step["color"] for step in steps]
        assert colours in (["green", "orange", "red"], ["green", "red"])
        assert steps[0].get("value") is None
        values = [step["value"] for step in steps[1:]]
        assert values == sorted(set(values))
        found += 1
    assert found > 5


@each
def test_panels_stand_side_by_side(name: str) -> None:
    ids = [panel["id"] for panel in DASHBOARDS[name]["panels"]]
    assert len(set(ids)) == len(ids)
    cells = [
        (x, y)
        for grid in (panel["gridPos"] for panel in DASHBOARDS[name]["panels"])
        for x, y in itertools.product(
            range(grid["x"], grid["x"] + grid["w"]), range(grid["y"], grid["y"] + grid["h"])
        )
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _y in cells) == 23
    assert {y for _x, y in cells} == set(range(max(y for _x, y in cells) + 1))  # no line left out


@each
def test_what_is_asked_for_exists(name: str) -> None:
    for where, expr in raw_expressions(DASHBOARDS[name]):
        asked = list(selectors(expr))
        for metric, labels in asked:
            assert metric in KNOWN, (where, metric)
            assert labels <= KNOWN[metric], (where, metric)
        bare = words_without_arguments(expr) - {metric for metric, _labels in asked}
        assert bare <= set(KNOWN), (where, bare)
        there = set().union(*(KNOWN[metric] for metric in {metric for metric, _ in asked} | bare))
        assert grouped(expr) <= there | MADE, (where, grouped(expr) - there)


@each
def test_legends_and_links_name_labels_that_are_left(name: str) -> None:
    for panel in panels(DASHBOARDS[name]):
        left = set().union(*(grouped(target["expr"]) for target in panel.get("targets", ())))
        legends = " ".join(target.get("legendFormat", "") for target in panel.get("targets", ()))
        assert set(re.findall(r"\{\{(\w+)\}\}", legends)) <= left, panel["title"]
        text = json.dumps(panel)
        linked = set(re.findall(r"\$\{__(?:field\.labels|data\.fields)\.(\w+)\}", text))
        assert linked <= left, panel["title"]
        columns = [one["matcher"]["options"] for one in panel["fieldConfig"].get("overrides", ())]
        organized = [t["options"] for t in panel["transformations"] if t["id"] == "organize"]
        for options in organized:
            assert set(columns) <= {*options["renameByName"].values(), *left}, panel["title"]


@each
def test_variables_are_defined_and_used(name: str) -> None:
    dashboard = DASHBOARDS[name]
    defined = [variable["name"] for variable in dashboard["templating"]["list"]]
    assert defined == ["datasource", "job", "instance", "netns", "comm", "port"]
    used = set().union(*map(variables, all_strings({**dashboard, "description": ""})))
    assert used - BUILT_IN == set(defined)
    for variable in dashboard["templating"]["list"][1:]:
        assert (variable["multi"], variable["includeAll"]) == (True, True)
        assert variable["description"]
        assert variable.get("allValue") == ALL.get(variable["name"], ".*")


@pytest.mark.parametrize("comm", ["", "o", "_", "_o", "_othe", "_others", "_otter", "other", "tcp", "_other"])
def test_all_processes_are_all_but_other(comm: str) -> None:
    """Whose rates jump when an idle label set's counts join it."""
    assert bool(re.fullmatch(ALL["comm"], comm)) == (comm != "_other")


@each
def test_a_label_is_compared_with_a_pattern(name: str) -> None:
    """Several values make a|b, and All makes .*: neither is a value."""
    for where, expr in raw_expressions(DASHBOARDS[name]):
        for operator, value in re.findall(r'(=~|!~|!=|=)"([^"]*)"', expr):
            assert operator in ("=~", "!~") or "$" not in value, (where, value)


@each
def test_links_lead_to_what_there_is(name: str) -> None:
    urls = {text for text in all_strings(DASHBOARDS[name]) if text.startswith("/d/")}
    assert len(urls) > 2
    for url in urls:
        path, _mark, query = url.partition("?")
        target = DASHBOARDS[path.removeprefix("/d/")]
        defined = {variable["name"] for variable in target["templating"]["list"]}
        assert set(re.findall(r"\bvar-(\w+)=", query)) <= defined
        assert set(re.findall(r"\$\{(\w+):queryparam\}", query)) <= defined
        assert url.endswith("&${__url_time_range}")


def test_the_namespaces_regex_finds_value_and_text() -> None:
    """In what Grafana makes of an answer to query_result(): {label="value",…} value time."""
    (variable,) = [
        one for one in DASHBOARDS["tcpmon-overview"]["templating"]["list"] if one["name"] == "netns"
    ]
    pattern = variable["regex"].strip("/").replace("(?<", "(?P<")
    line = '{instance="a:19317",job="tcpmon",name="web",netns="4026532245",text="web 4026532245"} 1 1700'
    found = re.search(pattern, line)
    assert found
    assert (found["value"], found["text"]) == ("4026532245", "web 4026532245")


def test_all_that_tcpmon_tells_is_shown() -> None:
    """The sums and counts of histograms aside, of which the buckets tell more."""
    shown = {
        metric
        for dashboard in DASHBOARDS.values()
        for _where, expr in raw_expressions(dashboard)
        for metric, _labels in selectors(expr)
    }
    histograms = {family.name for family in FAMILIES if isinstance(family, Histogram)}
    parts = {f"{name}_{part}" for name in histograms for part in ("sum", "count")}
    assert {metric for metric in KNOWN if metric.startswith("tcpmon_")} - parts <= shown


@needs("promtool")
def test_prometheus_can_read_every_expression(tmp_path: Path) -> None:
    rules = [
        {"record": "dashboards:expression", "expr": one.expr, "labels": {"where": f"{name}: {one.where}"}}
        for name, dashboard in DASHBOARDS.items()
        for one in expressions(dashboard)
    ]
    assert len(rules) > 100
    # The rule of a name and labels must be there once
    for number, rule in enumerate(rules):
        rule["labels"]["number"] = str(number)
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{len(rules)} rules found" in done.stdout


def test_variables_are_put_in() -> None:
    expr = 'label_replace(a{b=~"$comm",c=~"${port:regex}",d="[[job]]"}[$__range], "e", "$1", "f", "(.+)")'
    assert variables(expr) == {"comm", "port", "job", "__range"}
    values = {"comm": "x", "port": "80|443", "job": "j", "__range": "5m"}
    expected = 'label_replace(a{b=~"x",c=~"80|443",d="j"}[5m], "e", "$1", "f", "(.+)")'
    assert substituted(expr, values) == expected
    with pytest.raises(KeyError, match="unknown"):
        substituted("up * $unknown", VALUES)


def test_what_may_be_empty_says_why() -> None:
    """And nothing else may: a condition that hides a series under traffic belongs into this list."""
    found = {
        (one.where, one.may_be_empty)
        for dashboard in DASHBOARDS.values()
        for one in expressions(dashboard)
        if one.may_be_empty
    }
    assert {where for where, _why in found} == {
        "annotation Alerts",
        "CPU of the BPF programs",
        "Failing connects",
        "Failures by reason",
        "Time of a run",
    }
    assert all(why.startswith("only ") for _where, why in found)


def test_provisioning_is_about_these_files() -> None:
    folder = ROOT / "grafana" / "provisioning"
    (provider,) = yaml.safe_load((folder / "dashboards" / "tcpmon.yaml").read_text())["providers"]
    assert (provider["type"], provider["options"]["path"]) == ("file", "/usr/share/tcpmon/grafana/dashboards")
    (source,) = yaml.safe_load((folder / "datasources" / "tcpmon.yaml").read_text())["datasources"]
    assert (source["type"], source["access"]) == ("prometheus", "proxy")
