"""The serving process can do nothing but serve; and when it ends, nothing of it is left in the kernel."""

from __future__ import annotations

import os
import pwd
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from harness.daemon import Daemon
from harness.expect import accepted, opened
from harness.netns import Netns, sh
from harness.polling import PATIENCE, eventually
from harness.traffic import connect_and_close
from harness.workload import run
from helpers.b_reload import reload
from helpers.b_traffic import server

USER = "tcpmon"
COUNT = 7
NONE = "0" * 16


def fields(status: str) -> dict[str, str]:
    """/proc/PID/status by field."""
    return {name: value.strip() for name, _, value in (line.partition(":") for line in status.splitlines())}


def of_threads(daemon: Daemon, name: str) -> list[str]:
    """The text of /proc/TID/NAME of each thread; those that end meanwhile, as a client's does, have none."""
    texts = []
    for entry in Path(f"/proc/{daemon.pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            texts.append((entry / name).read_text())
    assert texts
    return texts


def assert_powerless(daemon: Daemon) -> None:
    """No thread has, or can ever get, a capability."""
    for now in map(fields, of_threads(daemon, "status")):
        assert {now[name] for name in ("CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd")} == {NONE}, now
        assert now["NoNewPrivs"] == "1"


def held(daemon: Daemon, what: str) -> set[int]:
    """The ids of the BPF objects (`prog`, `map`) that the daemon's descriptors hold."""
    texts = []
    for path in Path(f"/proc/{daemon.pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile: a client's
            texts.append(path.read_text())
    return {
        int(found) for text in texts for found in re.findall(rf"^{what}_id:\s+(\d+)$", text, re.MULTILINE)
    }


def exists(what: str, number: int) -> bool:
    command = ["bpftool", what, "show", "id", str(number)]
    return subprocess.run(command, capture_output=True).returncode == 0


def assert_counting(daemon: Daemon, ns: Netns, comm: str) -> None:
    with server(ns, comm + ".s") as (_, [port]):
        run(ns, comm, connect_and_close, COUNT, "127.0.0.1", port)
        daemon.expect(opened(COUNT), ns, comm)
        daemon.expect(accepted(COUNT), ns, comm + ".s")


def test_it_has_no_capability(daemon: Daemon, ns: Netns, comm: str) -> None:
    assert_powerless(daemon)
    assert_counting(daemon, ns, comm)


def test_it_keeps_none_over_a_reload(start_daemon: Callable[..., Daemon], ns: Netns, comm: str) -> None:
    """And needs none to change filters."""
    daemon = start_daemon()
    reload(daemon, {"filters": {"comm": {"exclude": ["a"]}, "remote": {"exclude": ["192.0.2.0/24"]}}})
    assert_powerless(daemon)
    assert_counting(daemon, ns, comm)


def test_the_loader_has_gone(daemon: Daemon) -> None:
    """No child is left, nor a zombie; and bcc and LLVM were never in this process."""
    assert not "".join(of_threads(daemon, "children")).split()
    maps = Path(f"/proc/{daemon.pid}/maps").read_text()
    for library in ("libbcc", "libLLVM", "libclang"):
        assert library not in maps


def test_it_holds_what_it_reads(daemon: Daemon) -> None:
    """The descriptors are what keeps the probes alive."""
    assert held(daemon, "map")
    assert held(daemon, "prog")


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_when_it_ends(start_daemon: Callable[..., Daemon], sig: signal.Signals) -> None:
    daemon = start_daemon()
    left = {what: held(daemon, what) for what in ("prog", "map")}
    assert all(exists(what, number) for what, numbers in left.items() for number in numbers)
    os.kill(daemon.pid, sig)
    assert daemon.process.wait(10) == 0
    assert "Traceback" not in daemon.stderr()

    def all_gone() -> None:
        """The kernel frees them some time after the last descriptor is closed."""
        rest = {
            what: {number for number in numbers if exists(what, number)} for what, numbers in left.items()
        }
        assert not any(rest.values()), rest

    eventually(all_gone)


def test_nothing_is_left_when_it_is_killed(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon()
    programs = held(daemon, "prog")
    daemon.process.kill()
    daemon.process.wait(10)

    def all_gone() -> None:
        assert not [number for number in programs if exists("prog", number)]

    eventually(all_gone)


@contextmanager
def system_user(name: str) -> Iterator[pwd.struct_passwd]:
    """A system user; one that is made for the test is removed after it."""
    try:
        pwd.getpwnam(name)
        made = False
    except KeyError:
        sh(f"useradd --system --no-create-home --shell /usr/sbin/nologin {name}")
        made = True
    try:
        yield pwd.getpwnam(name)
    finally:
        if made:
            sh(f"userdel {name}")


@pytest.fixture
def user() -> Iterator[pwd.struct_passwd]:
    with system_user(USER) as found:
        yield found


def test_it_is_not_root_where_its_user_exists(
    user: pwd.struct_passwd, start_daemon: Callable[..., Daemon], ns: Netns, comm: str
) -> None:
    """It serves, counts, reloads and ends as that user."""
    daemon = start_daemon()
    readable(daemon.config_path)
    now = fields(Path(f"/proc/{daemon.pid}/status").read_text())
    assert now["Uid"].split() == [str(user.pw_uid)] * 4
    assert now["Gid"].split() == [str(user.pw_gid)] * 4
    assert now["Groups"] == ""
    assert_powerless(daemon)
    reload(daemon, {"filters": {"comm": {"exclude": [comm + ".x"]}}})
    assert_counting(daemon, ns, comm)
    assert daemon.scrape("process").value("process_open_fds") > 0


@pytest.mark.usefixtures("user")
def test_a_root_that_may_not_become_that_user(tmp_path: Path) -> None:
    """As with User=root in a drop-in, or in a container with two capabilities."""
    bounded = ["setpriv", "--bounding-set", "-setuid,-setgid", sys.executable, "-m", "tcpmon", "run"]
    (tmp_path / "tcpmon.yaml").write_text("listen: 127.0.0.1:0\n")
    done = subprocess.run(
        [*bounded, "-c", str(tmp_path / "tcpmon.yaml")], capture_output=True, text=True, timeout=60 * PATIENCE
    )
    told = done.stderr.splitlines()
    assert done.returncode == 1
    assert told[-2].startswith("tcpmon: root may not become the user tcpmon here")
    assert told[-1].startswith("hint: run as tcpmon")


def readable(path: Path) -> None:
    """Let others than root read `path` (pytest's folders are root's alone)."""
    path.chmod(0o644)
    for folder in path.parents[:3]:
        folder.chmod(folder.stat().st_mode | 0o055)


def test_a_configuration_it_cannot_read_any_more_is_a_refused_reload(
    user: pwd.struct_passwd, start_daemon: Callable[..., Daemon]
) -> None:
    daemon = start_daemon()
    daemon.config_path.chmod(0o600)
    os.kill(daemon.pid, signal.SIGHUP)

    def refused() -> None:
        assert daemon.scrape("tcpmon_config").value("tcpmon_config_last_reload_successful") == 0
        assert str(daemon.config_path) in daemon.stderr()

    eventually(refused)
