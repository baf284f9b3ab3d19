"""tcpmon as systemd runs it: commands, what the unit says, scrapes, and a workload that counts itself."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.helpers import Helpers
from harness.metrics import Counts, Metrics, parse
from harness.netns import Netns
from harness.polling import eventually, settled

UNIT = "tcpmon.service"
URL = "http://127.0.0.1:19317/metrics"
CONFIG = Path("/etc/tcpmon/tcpmon.yaml")
DROP_INS = Path("/run/systemd/system/tcpmon.service.d")
PORT = 4242
# Asking systemd is a process each time, and emulated ones are slow
POLL_S = 0.5


def sh(*command: str | Path, check: bool = True) -> str:
    """Its output, stderr and all; a failure says it."""
    done = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
    )
    assert not check or done.returncode == 0, (
        f"{command} ended with {done.returncode}\n{done.stdout}\n{log()}"
    )
    return done.stdout


def log(count: int = 40) -> str:
    """The last lines that the journal has of the unit."""
    command = ["journalctl", "-u", UNIT, "-o", "cat", "-n", str(count), "--no-pager"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def systemctl(*words: str) -> str:
    return sh("systemctl", *words)


def show(name: str) -> str:
    """A property of the unit."""
    return systemctl("show", "--value", "--property", name, UNIT).strip()


def main_pid() -> int:
    return int(show("MainPID"))


def scrape(only: str = "") -> Metrics:
    with urllib.request.urlopen(URL, timeout=100) as answer:
        return parse(answer.read().decode(), only)


def reload(text: str) -> None:
    """Puts this configuration in force by `systemctl reload`."""
    stamp = "tcpmon_config_last_reload_success_timestamp_seconds"
    before = scrape(stamp).value(stamp)
    CONFIG.write_text(text)
    systemctl("reload", UNIT)

    def taken() -> None:
        assert scrape(stamp).value(stamp) != before, log()

    eventually(taken)


def kill() -> None:
    """kill -9, and wait until systemd has started it again and it is ready."""
    old = main_pid()
    os.kill(old, signal.SIGKILL)

    def back() -> None:
        time.sleep(POLL_S)
        assert main_pid() not in (0, old)
        assert show("SubState") == "running"

    eventually(back)


@contextmanager
def drop_in(text: str) -> Iterator[None]:
    """A change of the stopped unit, for a while."""
    path = DROP_INS / "test.conf"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"[Service]\n{text}\n")
    systemctl("daemon-reload")
    try:
        yield
    finally:
        systemctl("stop", UNIT)
        shutil.rmtree(DROP_INS)
        systemctl("daemon-reload")
        sh("systemctl", "reset-failed", UNIT, check=False)


def in_kernel() -> set[tuple[str, int]]:
    """All BPF programs, maps and links, by number."""
    found = set()
    for kind in ("prog", "map", "link"):
        shown = json.loads(sh("bpftool", "-j", kind, "show"))
        # systemd's own come and go with its units
        found |= {(kind, each["id"]) for each in shown if not each.get("name", "").startswith("sd_")}
    return found


@dataclass(frozen=True)
class Workload:
    """A process that connects to itself until `end`."""

    ns: Netns
    comm: str
    process: subprocess.Popen[str]

    def end(self) -> int:
        """How many connections it was."""
        self.process.send_signal(signal.SIGTERM)
        said, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0
        return int(said)

    def expect_exact(self) -> int:
        """Ends it; each connection must have been counted once, both ends, opened and closed."""
        count = self.end()
        want = Counts(attempts=count, connects=count, accepts=count, closes_client=count, closes_server=count)

        def check() -> None:
            where = {"netns": self.ns.inum, "comm": self.comm}
            got = scrape(f'netns="{self.ns.inum}"')
            assert got.counts(**where) == want
            got.identities(**where)

        settled(check)
        return count


@contextmanager
def workload(helpers: Helpers, ns: Netns, comm: str) -> Iterator[Workload]:
    """The daemon of an emulated machine is to get on as well, hence the pause."""
    until_sigterm, pause_us = "0", "10000"
    process = ns.exec(helpers.named("loop", comm), until_sigterm, "127.0.0.1", str(PORT), pause_us)
    try:
        yield Workload(ns, comm, process)
    finally:
        process.kill()
        process.wait()
