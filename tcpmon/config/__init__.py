"""Reads the configuration file into a frozen Config, with line and column in every complaint."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from tcpmon.config import yamlmap
from tcpmon.config.filters import Selection
from tcpmon.config.kinds import Address, World, map_problem
from tcpmon.config.settings import (
    SECTIONS,
    SETTINGS,
    Buckets,
    Config,
    Connections,
    Events,
    Filters,
    Log,
    Metrics,
)
from tcpmon.config.yamlmap import Node, children, collect
from tcpmon.errors import ConfigError, Fault

__all__ = [
    "DEFAULT_PATH",
    "Address",
    "Buckets",
    "Config",
    "Connections",
    "Events",
    "Filters",
    "Log",
    "Metrics",
    "Selection",
    "changed_restart_only",
    "find",
    "load",
    "with_restart_only_of",
]

DEFAULT_PATH = "/etc/tcpmon/tcpmon.yaml"


def find(given: str | None) -> str | None:
    """The file to be read: `given`, else DEFAULT_PATH if it is there, or may be; else None."""
    if given == "":
        raise ConfigError([Fault("--config", 0, 0, "", "the file's name is empty")])
    if given is not None:
        return given
    try:
        os.lstat(DEFAULT_PATH)
    except OSError as error:  # of any other kind, whoever reads the file is told
        return None if error.errno == errno.ENOENT else DEFAULT_PATH
    return DEFAULT_PATH


def load(
    path: str | None,
    *,
    check_map: Callable[[str], str | None] = map_problem,
    proc: str = "/proc",
    run_netns: str = "/run/netns",
) -> Config:
    """The file's settings, or the built-in ones for None. Raises ConfigError with every fault of the file.

    `check_map` says what is wrong with a pinned map, or None; namespaces are sought in `proc`, `run_netns`.
    """
    world = World(check_map, proc, run_netns)
    root = Node("", 0, 0, "", "null") if path is None else yamlmap.read(path)
    found, faults = _settings_under(root, "")
    try:
        values = collect(lambda node: SETTINGS[node.key].kind.parse(node, world), found.values(), faults)
    except ConfigError as error:
        raise ConfigError(sorted(error.faults, key=lambda fault: (fault.line, fault.column))) from None
    return _build(path, dict(zip(found, values, strict=True)), world)


def _settings_under(node: Node, section: str) -> tuple[dict[str, Node], list[Fault]]:
    """The settings of a section and of those within it, by dotted key, and the faults of its keys."""
    if node.tag not in ("map", "null"):
        what = f"expected a mapping, not {node.shown}"
        return {}, [node.fault(f"the top level is no mapping: {what}" if not section else what)]
    inner = [key for key in (*SETTINGS, *SECTIONS) if key.rpartition(".")[0] == section]
    below, faults = children(node, [key.rpartition(".")[2] for key in inner], (*SETTINGS, *SECTIONS))
    settings: dict[str, Node] = {}
    for child in below.values():
        if child.key in SETTINGS:
            settings[child.key] = child
        else:
            deeper, more = _settings_under(child, child.key)
            settings |= deeper
            faults += more
    return settings, faults


def _build(path: str | None, given: dict[str, Any], world: World) -> Config:
    values = {
        key: given[key] if key in given else row.kind.parse(yamlmap.compose(row.default, key), world)
        for key, row in SETTINGS.items()
    }
    for section in sorted(SECTIONS.values(), key=lambda section: -section.key.count(".")):
        names = [field.name for field in fields(section.make)]
        values[section.key] = section.make(**{name: values.pop(f"{section.key}.{name}") for name in names})
    return Config(path=path, **values)


# One warning names all of metrics.buckets: what is told apart is at most two levels deep.
RESTART_ONLY = tuple(
    dict.fromkeys(".".join(key.split(".")[:2]) for key, setting in SETTINGS.items() if setting.restart_only)
)


def _get(config: Config, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def changed_restart_only(old: Config, new: Config) -> list[str]:
    """The dotted keys that differ and cannot change while running."""
    return [key for key in RESTART_ONLY if _get(old, key) != _get(new, key)]


def with_restart_only_of(old: Config, new: Config) -> Config:
    """`new`, with `old`'s values where a value cannot change while running."""
    for key in RESTART_ONLY:
        section, _, name = key.rpartition(".")
        change = {name: _get(old, key)}
        new = replace(new, **({section: replace(_get(new, section), **change)} if section else change))
    return new
