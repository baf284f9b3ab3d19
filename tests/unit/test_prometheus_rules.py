"""deploy/prometheus by Prometheus's own judgement, and in step with the tables of metrics and the runbook."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from needs import needs

from tcpmon.metrics.families import FAMILIES, Family, Histogram
from tcpmon.metrics.selfmetrics import JOURNAL, LOST_STAGES, RECURSION, SELF

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
CONFIGS = sorted(FOLDER.glob("*.yml"))
RULES = sorted(FOLDER.glob("rules/*.yml"))
CASES = sorted((ROOT / "tests" / "rules").glob("*.yml"))
URL = "https://runbooks.example.com/tcpmon/docs/runbook.md#"
# What the example for TLS names
SECRETS = ("tls/password", "tls/ca.crt", "tls/prometheus.crt", "tls/prometheus.key")


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rules(name: str) -> Iterator[dict[str, Any]]:
    for group in yaml.safe_load((FOLDER / "rules" / name).read_text())["groups"]:
        yield from group["rules"]


ALERTS = {rule["alert"]: rule for rule in rules("tcpmon-alerts.yml")}
RECORDS = {rule["record"]: rule["expr"] for rule in rules("tcpmon-recording.yml")}


@needs("promtool")
def test_promtool_finds_no_fault_in_the_rules() -> None:
    """And no name is there twice."""
    said = promtool("check", "rules", *RULES)
    assert [int(count) for count in re.findall(r"(\d+) rules found", said)] == [len(ALERTS), len(RECORDS)]


@needs("promtool")
@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.name)
def test_promtool_finds_no_fault_in_the_examples(config: Path, tmp_path: Path) -> None:
    """With all that they name: rules, targets, and secrets of nobody's."""
    folder = shutil.copytree(FOLDER, tmp_path / "prometheus")
    (folder / "tls").mkdir()
    for name in SECRETS:
        (folder / name).touch()
    said = promtool("check", "config", folder / config.name)
    assert "is valid prometheus config file" in said
    assert ("rule files found" in said) == ("rule_files" in config.read_text())


@needs("promtool")
@pytest.mark.parametrize("cases", CASES, ids=lambda path: path.name)
def test_the_rules_do_what_they_should(cases: Path) -> None:
    assert "SUCCESS" in promtool("test", "rules", cases)


def test_each_alert_has_cases_that_fire_and_cases_that_do_not() -> None:
    fires: dict[str, set[bool]] = {name: set() for name in ALERTS}
    for cases in CASES:
        for test in yaml.safe_load(cases.read_text())["tests"]:
            for case in test.get("alert_rule_test", []):
                fires[case["alertname"]].add(bool(case["exp_alerts"]))
    assert fires == {name: {True, False} for name in ALERTS}


def test_each_alert_has_its_section_in_the_runbook() -> None:
    """With the same four questions answered in each."""
    text = (ROOT / "docs" / "runbook.md").read_text()
    sections = dict(re.findall(r"^## (Tcpmon\w+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    assert set(sections) == set(ALERTS)
    for name, rule in ALERTS.items():
        assert rule["annotations"]["runbook_url"] == f"{URL}{name.lower()}"
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        bold = re.findall(r"^\*\*(.+?)\.\*\*", sections[name], re.MULTILINE)
        assert bold == ["Meaning", "Impact", "How to look", "What to do"], name


def operations(family: Family | Histogram, level: str) -> list[str]:
    """What a roll-up of the family is called, after the level. Hosts have no buckets per process."""
    if isinstance(family, Histogram):
        parts = ("sum", "count") if level == "instance_comm" else ("bucket", "sum")
        return [f"{family.name}_{part}:rate5m" for part in parts]
    return [f"{family.name}:{'sum' if family.kind == 'gauge' else 'rate5m'}"]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_each_family_is_rolled_up_by_process_and_by_port(family: Family | Histogram) -> None:
    """Under a name that tells the labels, with rates made before sums, of each host and of all."""
    parts = family.parts if isinstance(family, Histogram) else family.samples
    own = [name for name, _value in parts[0].labels]
    for label, away in (("comm", "netns, port"), ("port", "comm, netns")):
        for level in ("instance", "job"):
            for operation in operations(family, f"{level}_{label}"):
                expression = RECORDS[f"{'_'.join([level, label, *own])}:{operation}"]
                assert expression.startswith((f"sum without ({away}) (", "sum without (instance"))
                assert "rate(sum" not in expression


def test_all_that_rules_use_is_there() -> None:
    """A metric or a stage that was renamed must be renamed in the rules too."""
    served = {
        family.name + suffix for family in FAMILIES for suffix in ("", "_total", "_bucket", "_sum", "_count")
    }
    served |= {name + suffix for name in SELF for suffix in ("", "_total")}
    expressions = [*RECORDS.values(), *(rule["expr"] for rule in ALERTS.values())]
    used = {name for one in expressions for name in re.findall(r"(?<![:\w])tcpmon_\w+(?!:)\b", one)}
    assert used <= served
    stages = set("|".join(re.findall(r'stage=~?"(.*?)"', " ".join(expressions))).split("|"))
    assert stages == {*LOST_STAGES, JOURNAL, RECURSION}
