"""Where a scene is played: fresh namespaces, programs with names of a pool, and a book of what they did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random

from harness.blackhole import SILENT4, SILENT6, silence
from harness.helpers import Helpers
from harness.netns import Netns, netns, veth_pair
from harness.oracle import snmp
from harness.polling import eventually
from helpers.parties import Party, party

from .ledger import ACCEPT, ATTEMPT, CONNECT, FAILURE, Ledger

# Failures of which the kernel counts a connection attempt (ActiveOpens); those too that it counts as failed
SENT = ("refused", "timeout", "reset", "canceled")
FAILED = ("refused", "timeout", "reset")


@dataclass
class Stage:
    """For one scene. `scale` times as many connections as it has by itself."""

    random: Random
    comms: list[str]
    helpers: Helpers
    scale: float = 1.0
    done: Ledger = field(default_factory=Counter)

    def some(self, about: int) -> int:
        """A number of connections."""
        return self.random.randint(1, max(2, round(2 * about * self.scale)))

    def comm(self) -> str:
        return self.random.choice(self.comms)

    @contextmanager
    def party(self, ns: Netns) -> Iterator[Party]:
        with party(ns, self.comm()) as found:
            yield found

    @contextmanager
    def alone(self) -> Iterator[Netns]:
        """A namespace with a loopback, whose own counters are compared in the end."""
        with netns() as ns:
            yield ns
            eventually(lambda: self._kernel_agrees(ns))

    @contextmanager
    def silent(self) -> Iterator[tuple[Netns, Netns]]:
        """A pair of which the left one knows addresses that never answer."""
        with veth_pair() as (left, right):
            left.sysctl("net.ipv4.tcp_syn_retries", 1)
            for address in (SILENT4, SILENT6):
                silence(left, address)
            yield left, right
            for ns in (left, right):
                eventually(lambda ns=ns: self._kernel_agrees(ns))  # type: ignore[misc]

    def note(self, ns: Netns, comm: str, port: int, **counts: int) -> None:
        """That a program did, or something happened to it: `closes_client=7`, say."""
        for what, count in counts.items():
            self.done[ns.inum, comm, str(port), what.replace("_", " ")] += count

    def opened(self, ns: Netns, comm: str, port: int, count: int) -> None:
        self.note(ns, comm, port, attempts=count, connects=count, closes_client=count)

    def accepted(self, ns: Netns, comm: str, port: int, count: int) -> None:
        self.note(ns, comm, port, accepts=count, closes_server=count)

    def failed(self, ns: Netns, comm: str, port: int, reason: str, count: int) -> None:
        self.note(ns, comm, port, attempts=count)
        self.done[ns.inum, comm, str(port), f"{FAILURE} {reason}"] += count

    def _kernel_agrees(self, ns: Netns) -> None:
        """/proc/net/snmp has what the programs said. Of children that two CPUs make at once it counts both,
        and of those that nobody accepts each (harness/expect.py)."""
        sums: Counter[str] = Counter()
        for (inum, _comm, _port, what), count in self.done.items():
            sums[what] += count * (inum == ns.inum)
        got = snmp(ns)
        sent = sums[CONNECT] + sum(sums[f"{FAILURE} {reason}"] for reason in SENT)
        failed = sum(sums[f"{FAILURE} {reason}"] for reason in FAILED)
        assert (got.active_opens, got.attempt_fails, got.curr_estab) == (sent, failed, 0), f"{got} {sums}"
        assert got.passive_opens >= sums[ACCEPT], f"{got} {sums}"
        assert sums[ATTEMPT] == sums[CONNECT] + sum(n for what, n in sums.items() if FAILURE in what)
