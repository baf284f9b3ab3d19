"""What makes a kept module one that this start can take back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tcpmon.kernel import source
from tcpmon.kernel.source import Module, changes, identity

MODULE = Module(bounds={"accept_wait": (1, 2)}, max_series=7, max_tracked=11, ring_bytes=4096)


@pytest.mark.parametrize(
    "change, names",
    [
        ({}, []),
        ({"bounds": {"accept_wait": (1, 3)}}, ["metrics.buckets"]),
        ({"max_series": 8}, ["metrics.max_series"]),
        ({"max_tracked": 12}, ["connections.max_tracked"]),
        ({"ring_bytes": 8192, "max_series": 8}, ["metrics.max_series", "events.buffer"]),
        ({"cgroup_map": "/sys/fs/bpf/none"}, ["filters.cgroup_map"]),
        ({"mntns_map": "/sys/fs/bpf/none"}, ["filters.mntns_map"]),
    ],
)
def test_what_is_compiled_in(change: dict[str, Any], names: list[str]) -> None:
    assert changes(identity(MODULE, {}), identity(replace(MODULE, **change), {})) == names


def test_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comments, lines and blanks are not the program."""
    old, text = identity(MODULE, {}), source.text()
    monkeypatch.setattr(source, "text", lambda: text.replace(";\n", "; // why\n\n\t"))
    assert not changes(old, identity(MODULE, {}))
    monkeypatch.setattr(source, "text", lambda: text + "int more;\n")
    assert changes(old, identity(MODULE, {})) == ["the BPF program"]


def test_another_map_under_the_same_name(tmp_path: Path) -> None:
    path = tmp_path / "map"
    path.touch()
    module = replace(MODULE, cgroup_map=str(path))
    old = identity(module, {})
    (tmp_path / "other").touch()
    (tmp_path / "other").rename(path)
    (found,) = changes(old, identity(module, {}))
    assert found.startswith("the map that")


def test_a_forced_mechanism() -> None:
    assert changes(identity(MODULE, {}), identity(MODULE, {"accept": "tracepoint"})) == ["the BPF program"]
