"""Writes what derives from the table of settings: `python -m tcpmon.config.doc`, in a checkout.

docs/configuration.md, config/tcpmon.schema.json and the shipped config/tcpmon.yaml; a test compares them.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import yaml

from tcpmon.config import DEFAULT_PATH
from tcpmon.config.kinds import MAX_ITEMS
from tcpmon.config.settings import SECTIONS, SETTINGS, Section, Setting
from tcpmon.errors import MAX_TOLD

WIDTH = 100

INTRODUCTION = f"""\
# Configuration

<!-- Written by `python -m tcpmon.config.doc` from tcpmon/config/settings.py: change it there. -->

tcpmon reads one YAML file: the one that `-c FILE` names, else `{DEFAULT_PATH}` if it is there, else
nothing. Every key is optional, and an empty file is a valid one. The shipped
[config/tcpmon.yaml](../config/tcpmon.yaml) holds every key with its default, and
[config/tcpmon.schema.json](../config/tcpmon.schema.json) is a JSON Schema for editors and pipelines.

`tcpmon check-config -c FILE` reads and checks a file and starts nothing. Each fault is one line, all
faults of the file are told at once (the first {MAX_TOLD}, and how many more), and tcpmon does not start with
a fault:

```
tcpmon.yaml:12:5: filters.port.include: "8099-8000": the range runs backwards; write 8000-8099
tcpmon.yaml:15:3: metrics.max_serie: unknown key; did you mean "max_series"?
```

## Reloading

SIGHUP makes tcpmon read the file again. Whatever is marked *live* below changes at once: no event is lost
and no counter is reset. Filters are decided at a connection's birth, so that connections which are open
at the reload stay as they are: followed or not. What is marked *restart* keeps its old value until tcpmon
is restarted, and a warning in the log names it.

A file with a fault changes nothing: the old configuration stays in force, the faults are logged, and the
metric `tcpmon_config_last_reload_successful` is 0 until a reload succeeds.

## The YAML

- Texts that YAML would take for something else go in quotes: IPv6 addresses (`"::1"`, `"[::]:19317"`) and
  names that look like numbers or truth values (`"443"`, `"on"`).
- Anchors' aliases (`*name`) and a second document are refused, and so is a file larger than 1 MiB.
- `null` for a section or a filter is the same as leaving it out.
- A filter's list holds up to {MAX_ITEMS} entries. One that is given twice counts once, and `exclude` wins
  over `include`.
"""

EXAMPLES = {
    "Only web traffic of one container's namespace, seen from all interfaces": """\
listen: "[::]:19317"
filters:
  netns: [shop]            # made by: ip netns add shop
  port: [80, 443, "8000-8099"]
""",
    "Everything but the monitoring itself, with few series": """\
filters:
  comm: {exclude: [prometheus, node_exporter]}
  remote: {exclude: [127.0.0.0/8, "::1"]}
metrics:
  labels: [comm, port]     # the namespaces' series are merged
  max_series: 2000
  series_ttl: 15m
""",
    "One user's outgoing and incoming IPv4 connections in a fast network": """\
filters:
  uid: [root]
  family: ipv4
  remote:
    include: [10.0.0.0/8]
    exclude: [10.255.0.0/16]
metrics:
  buckets:
    connect_latency: [0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.01, 0.1, 1]
""",
}


def markdown() -> str:
    parts = [INTRODUCTION, "## Keys\n", _overview(), *_blocks_of_settings(), "## Examples\n"]
    parts += [f"{title}:\n\n```yaml\n{text}```\n" for title, text in EXAMPLES.items()]
    return "\n".join(parts)


def _overview() -> str:
    rows = [f"| [`{key}`](#{_anchor(key)}) | {_changes(setting)} |" for key, setting in SETTINGS.items()]
    return "\n".join(["| key | changes |", "|---|---|", *rows, ""])


def _anchor(key: str) -> str:
    return key.replace(".", "")


def _changes(setting: Setting) -> str:
    return "restart" if setting.restart_only else "live"


def _blocks_of_settings() -> list[str]:
    blocks = []
    for row in _rows():
        blocks.append(f"### `{row.key}`\n\n{_fill(row.help)}\n")
        if isinstance(row, Setting):
            blocks.append(_facts(row))
    return blocks


def _facts(setting: Setting) -> str:
    return f"- Type: {setting.kind.text}\n- Default: `{setting.default}`\n- Changes: {_changes(setting)}\n"


def _rows() -> list[Section | Setting]:
    """The settings in the table's order, each section before the first of its settings."""
    rows: list[Section | Setting] = []
    for key, setting in SETTINGS.items():
        above = [section for name, section in SECTIONS.items() if key.startswith(f"{name}.")]
        rows += [*(section for section in above if section not in rows), setting]
    return rows


def _fill(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def shipped_file() -> str:
    """The defaults, a comment above each."""
    lines = [
        "# tcpmon's configuration. Every key is optional, and this file holds the defaults.",
        "# Reference: docs/configuration.md (of the package: in /usr/share/doc/tcpmon).",
        "# Check: tcpmon check-config -c FILE. Reload: SIGHUP.",
    ]
    for row in _rows():
        indent = "  " * row.key.count(".")
        default = f" {row.default}" if isinstance(row, Setting) else ""
        lines += ["", *(_fill(text.replace("`", ""), f"{indent}# ") for text in _comments(row))]
        lines.append(f"{indent}{row.key.rpartition('.')[2]}:{default}")
    return "\n".join(lines) + "\n"


def _comments(row: Section | Setting) -> list[str]:
    if isinstance(row, Section):
        return [row.help]
    notes = [row.help, f"Value: {row.kind.text}."]
    return notes + (["Changes with a restart only."] if row.restart_only else [])


def schema() -> dict[str, Any]:
    root = _mapping("tcpmon's configuration file.")
    root = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "tcpmon.yaml", **root}
    for row in _rows():
        parent, _, name = row.key.rpartition(".")
        place = root
        for step in filter(None, parent.split(".")):
            place = place["properties"][step]
        place["properties"][name] = _mapping(row.help) if isinstance(row, Section) else _fragment(row)
    return root


def _mapping(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "type": ["object", "null"],
        "properties": {},
        "additionalProperties": False,
    }


def _fragment(setting: Setting) -> dict[str, Any]:
    default = yaml.safe_load(setting.default)
    return {"description": setting.help, "default": default, **setting.kind.schema}


def outputs() -> dict[str, str]:
    """The text of each file, by its path in the checkout."""
    return {
        "docs/configuration.md": markdown(),
        "config/tcpmon.schema.json": json.dumps(schema(), indent=2, ensure_ascii=False) + "\n",
        "config/tcpmon.yaml": shipped_file(),
    }


def main() -> None:
    for name, text in outputs().items():
        path = Path(__file__).parent.parent.parent / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
