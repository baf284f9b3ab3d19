"""docs/events.md is in step with the table of fields, and its commands are right."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tcpmon import cli
from tcpmon.events import table
from tcpmon.events.fields import FIELDS, MESSAGE_IDS, PREFIX, Field
from tcpmon.metrics.selfmetrics import JOURNAL, LOST_STAGES

TEXT = (Path(__file__).parents[2] / "docs" / "events.md").read_text(encoding="utf-8")


def row(field: Field) -> str:
    of = (
        "all"
        if len(field.kinds) == len(MESSAGE_IDS)
        else ", ".join(f"`{k.name.lower()}`" for k in field.kinds)
    )
    return f"| `{PREFIX}{field.name}` | {of} | {field.meaning} |"


def test_the_fields() -> None:
    found = [line for line in TEXT.splitlines() if line.startswith(f"| `{PREFIX}")]
    assert found == [row(field) for field in FIELDS]


def test_the_message_ids() -> None:
    found = re.findall(r"^\| `(\w+)` \| `([0-9a-f]{32})` \|", TEXT, re.MULTILINE)
    assert dict(found) == {kind.name.lower(): number for kind, number in MESSAGE_IDS.items()}


def test_the_losses() -> None:
    stages = set(re.findall(r'tcpmon_lost_events_total\{stage="(\w+)"\}', TEXT))
    assert stages == {"rate_limit", "event_ring", "journal"}
    assert stages <= {*LOST_STAGES, JOURNAL}


def test_the_table_is_as_it_is_printed() -> None:
    assert table.header() in TEXT.splitlines()


def test_the_commands() -> None:
    commands = re.findall(r"`tcpmon events ([^`]*?)(?: \\\|.*?)?`", TEXT)
    assert len(commands) > 5
    for command in commands:
        if "-h" not in command:
            cli.parser("events").parse_args(["events", *shlex.split(command)])
