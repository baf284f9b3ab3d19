"""Names of network namespaces: files of every kind in a folder of the test's own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tcpmon import netns

OWN = os.stat("/proc/self/ns/net").st_ino
# Inums of namespaces that are no network ones are as good as any in a link
IPC, UTS = (os.stat(f"/proc/self/ns/{kind}").st_ino for kind in ("ipc", "uts"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "netns").mkdir()
    return tmp_path / "netns"


def link(folder: Path, name: str, kind: str) -> None:
    (folder / name).symlink_to(f"/proc/self/ns/{kind}")


def test_names_by_inum(folder: Path) -> None:
    link(folder, "red", "ipc")
    link(folder, "blue", "uts")
    assert netns.names(folder) == {IPC: "red", UTS: "blue", OWN: "self"}


def test_one_of_several_names_wins_by_the_alphabet(folder: Path) -> None:
    for name in ("red", "blue", "green"):
        link(folder, name, "ipc")
    assert netns.names(folder)[IPC] == "blue"


def test_a_given_name_beats_self(folder: Path) -> None:
    link(folder, "host", "net")
    assert netns.names(folder) == {OWN: "host"}


def test_without_a_folder_there_is_self(tmp_path: Path) -> None:
    assert netns.names(tmp_path / "none") == {OWN: "self"}


def test_without_proc_there_are_the_others(folder: Path, tmp_path: Path) -> None:
    link(folder, "red", "ipc")
    assert netns.names(folder, tmp_path / "none") == {IPC: "red"}


def test_one_that_is_gone_is_left_out(folder: Path) -> None:
    (folder / "gone").symlink_to("/proc/self/ns/none")
    link(folder, "red", "ipc")
    assert netns.names(folder) == {IPC: "red", OWN: "self"}


def test_a_plain_file_is_no_namespace(folder: Path) -> None:
    """`ip netns` mounts over a file: elsewhere, or after it is unmounted, the bare file is left."""
    (folder / "left-over").write_text("")
    assert netns.names(folder) == {OWN: "self"}


def test_a_folder_that_cannot_be_listed(tmp_path: Path) -> None:
    (tmp_path / "netns").write_text("")
    assert netns.names(tmp_path / "netns") == {OWN: "self"}


def test_a_name_that_is_no_text(folder: Path) -> None:
    os.symlink("/proc/self/ns/ipc", os.fsencode(folder) + b"/caf\xe9")
    assert netns.names(folder)[IPC] == "caf\\xe9"


@pytest.fixture
def named() -> Iterator[str]:
    name = f"tm-unit-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    yield name
    subprocess.run(["ip", "netns", "delete", name], check=True)


@pytest.mark.skipif(
    os.geteuid() != 0 and os.environ.get("CI") != "true", reason="making a network namespace needs root"
)
def test_a_real_one(named: str) -> None:
    seen = subprocess.run(
        ["ip", "netns", "exec", named, "stat", "-L", "-c", "%i", "/proc/self/ns/net"],
        check=True,
        capture_output=True,
        text=True,
    )
    names = netns.names()
    assert names[int(seen.stdout)] == named
    assert OWN in names
