"""No room, on the disk or in memory. At the start that is one clear line, and nothing stays in the kernel;
later it has no effect on any count."""

from __future__ import annotations

import json
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml
from harness.daemon import Daemon, free_port
from harness.expect import opened
from harness.netns import Netns, sh
from harness.polling import eventually
from harness.traffic import connect_and_close
from harness.workload import run
from helpers.b_traffic import server
from helpers.room import (
    fill,
    small_disk,
    with_address_space_of,
    with_memory_of,
    with_temporary_folder_of,
    without_temporary_folders,
)

COUNT = 7
PATIENCE_S = 60
MIB = 1 << 20
RELOADED = "tcpmon: configuration reloaded\n"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tcpmon.yaml"
    path.write_text(yaml.safe_dump({"listen": f"127.0.0.1:{free_port()}"}))
    return path


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """No BPF program of the test's stays."""
    before = programs()
    yield

    def none() -> None:
        assert not programs() - before

    eventually(none)


def programs() -> set[int]:
    shown = json.loads(sh("bpftool -j prog show"))
    return {each["id"] for each in shown if each.get("name", "").startswith("state_changed")}


def fails_to_start(config: Path, wrapper: list[str]) -> tuple[str, str]:
    """The one line and the hint that it ends with."""
    command = [*wrapper, sys.executable, "-m", "tcpmon", "run", "-c", str(config)]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, "PYTHONPATH": root},  # wherever a wrapper takes it
    )
    assert done.returncode == 1, done
    lines = done.stderr.splitlines()
    assert len(lines) == 2, done.stderr
    assert lines[1].startswith("hint: "), done.stderr
    return lines[0], lines[1]


@pytest.mark.parametrize(
    "wrapper", [without_temporary_folders(), with_temporary_folder_of("64k")], ids=["none", "little"]
)
def test_no_room_for_temporary_files(config: Path, nothing_left: None, wrapper: list[str]) -> None:
    line, hint = fails_to_start(config, wrapper)
    assert "cannot be made" in line or "cannot be written" in line
    assert "TMPDIR" in hint


@pytest.mark.parametrize("size", [64 * MIB, 96 * MIB], ids=["compiler", "tables"])
def test_a_memory_limit(config: Path, nothing_left: None, size: int) -> None:
    """The loader is killed; or it compiles, and the kernel refuses the tables."""
    with with_memory_of(size) as wrapper:
        line, hint = fails_to_start(config, wrapper)
    assert "loader was ended by signal 9" in line or "no memory for the BPF module" in line
    assert "MemoryMax" in hint


def test_too_little_address_space(config: Path, nothing_left: None) -> None:
    line, hint = fails_to_start(config, with_address_space_of(200 * MIB))
    assert "loader" in line or "bcc cannot be imported" in line
    assert "MemoryMax" in hint


def test_a_disk_that_is_full(tmp_path: Path, ns: Netns, comm: str) -> None:
    """Its log is there: nothing that it does needs the room but lines of the log, of which those are told
    later that it could keep."""
    with ExitStack() as made:
        disk = made.enter_context(small_disk(tmp_path / "disk", "256k"))
        daemon = made.enter_context(Daemon(disk, {"filters": {"netns": [ns.name]}}))
        _, [port] = made.enter_context(server(ns, comm + ".s"))
        filler = fill(disk)
        aside = daemon.config_path.rename(disk / "aside")
        eventually(lambda: expect_full_log(daemon))
        for number in range(1, 4):
            os.kill(daemon.pid, signal.SIGHUP)
            run(ns, comm, connect_and_close, COUNT, "127.0.0.1", port)
            daemon.expect(opened(number * COUNT), ns, comm)
        filler.unlink()
        aside.rename(daemon.config_path)
        os.kill(daemon.pid, signal.SIGHUP)
        eventually(lambda: expect_told(daemon, RELOADED))


def expect_full_log(daemon: Daemon) -> None:
    """It complains that its file is not there, until there is no room for that."""
    os.kill(daemon.pid, signal.SIGHUP)
    assert daemon.stderr_path.stat().st_size == mmap.PAGESIZE, "room on tmpfs goes by pages"


def expect_told(daemon: Daemon, line: str) -> None:
    assert line in daemon.stderr()
