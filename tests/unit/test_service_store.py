"""What makes a kept module one that this start can take back."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tcpmon.kernel import source
from tcpmon.kernel.source import Module, changes, identity
from tcpmon.service.store import MANIFEST, take_back

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


@pytest.mark.parametrize("name", source.MAKERS)
def test_what_compiles_and_attaches_it(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A hook or a flag that changes makes another module of the same text."""
    old, read = identity(MODULE, {}), Path.read_text

    def changed(path: Path) -> str:
        return read(path) + ("# more" if path.name == name else "")

    monkeypatch.setattr(Path, "read_text", changed)
    assert changes(old, identity(MODULE, {})) == ["the BPF program"]


class Forgetful:
    """A manager that notes what it is to forget."""

    def __init__(self) -> None:
        self.forgotten: list[str] = []

    def forget(self, name: str) -> None:
        self.forgotten.append(name)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"identity": []}', '{"identity": {"program": 1}, "answer": 7}']
)
def test_a_manifest_of_another_shape(text: str, caplog: pytest.LogCaptureFixture) -> None:
    """As another version may have left it: given up, not tripped over."""
    manager, fd = Forgetful(), os.memfd_create("manifest")
    os.write(fd, text.encode())
    assert take_back(manager, {MANIFEST: fd}, MODULE, {}) is None  # type: ignore[arg-type]
    assert manager.forgotten == [MANIFEST]
    assert "counting starts afresh" in caplog.text
    with pytest.raises(OSError):
        os.fstat(fd)
