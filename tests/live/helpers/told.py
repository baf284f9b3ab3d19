"""Programs that connect to themselves, and a daemon that tells the journal of each event of theirs."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Any

from harness.helpers import Helpers
from harness.metrics import Counts
from harness.netns import Netns

PORT = 4242
EVENTS = 4  # of a connection that a process makes to itself
WRITTEN = "tcpmon_journal_events_total"


def config(ns: Netns, **events: Any) -> dict[str, Any]:
    """All events of a namespace, at whatever rate."""
    return {"filters": {"netns": [ns.name]}, "events": {"journal": True, "rate_limit": 0, **events}}


def both_ends(count: int) -> Counts:
    """The story of a process that was both ends of `count` connections."""
    return Counts(attempts=count, connects=count, accepts=count, closes_client=count, closes_server=count)


def start(
    ns: Netns, helpers: Helpers, comm: str, count: int, *pause_us: str, number: int = 1
) -> subprocess.Popen[str]:
    """One such program, at full speed but for a pause; its address has a `number`."""
    path = helpers.folder / comm
    program = str(path) if path.exists() else helpers.named("loop", comm)
    return ns.exec(program, str(count), f"127.0.0.{number}", str(PORT), *pause_us)


def play(ns: Netns, helpers: Helpers, comms: Sequence[str], count: int, *pause_us: str) -> None:
    """Some at once, to their end."""
    ns.sysctl("net.ipv4.ip_local_port_range", "10000 65000")
    loops = [start(ns, helpers, comm, count, *pause_us, number=n) for n, comm in enumerate(comms, start=1)]
    for loop in loops:
        with loop:
            assert loop.wait(120) == 0
