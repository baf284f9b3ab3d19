"""What a test usually expects: connections that one process opened and another accepted, all closed again."""

from __future__ import annotations

from dataclasses import dataclass

from .daemon import Daemon
from .metrics import Counts, Metrics
from .netns import Netns
from .oracle import snmp
from .polling import eventually


@dataclass(frozen=True)
class Who:
    """A process name in a namespace."""

    ns: Netns
    comm: str

    @property
    def labels(self) -> dict[str, str]:
        return {"netns": self.ns.inum, "comm": self.comm}


def opened(count: int) -> Counts:
    """The story of a client whose `count` connections came and went."""
    return Counts(attempts=count, connects=count, closes_client=count)


def accepted(count: int) -> Counts:
    """The story of a server whose `count` connections came and went."""
    return Counts(accepts=count, closes_server=count)


def expect_opened(daemon: Daemon, count: int, port: int, who: Who) -> Metrics:
    """`who` opened and closed `count` connections to service port `port`, and did nothing else."""
    scrape = daemon.expect(opened(count), who.ns, who.comm)
    assert scrape.ports("tcpmon_connects_total", **who.labels) == {str(port)}
    return scrape


def expect_accepted(daemon: Daemon, count: int, port: int, who: Who) -> Metrics:
    """`who` accepted and closed `count` connections on service port `port`, and did nothing else."""
    scrape = daemon.expect(accepted(count), who.ns, who.comm)
    assert scrape.ports("tcpmon_accepts_total", **who.labels) == {str(port)}
    assert scrape.sum("tcpmon_accept_wait_seconds_count", **who.labels) == count
    return scrape


def expect_pairs(daemon: Daemon, count: int, port: int, client: Who, server: Who) -> None:
    """Both ends of `count` connections, all over, and the kernel's own counters agree."""
    expect_opened(daemon, count, port, client)
    expect_accepted(daemon, count, port, server)
    kernel_agrees(client.ns, server.ns, count)


def kernel_agrees(client: Netns, server: Netns, count: int) -> None:
    """/proc/net/snmp of fresh namespaces: `count` opened, `count` accepted, none failed, none left.

    PassiveOpens alone may be more: where the handshake's ACK and what follows it reach two CPUs at once, both
    make a child of the listener, and one is thrown away (inet_csk_complete_hashdance). It counts both.
    """

    def check() -> None:
        opens, accepts = snmp(client), snmp(server)
        got = (opens.active_opens, opens.attempt_fails, opens.curr_estab)
        assert got == (count, 0, 0), f"{opens} {accepts}"
        assert accepts.passive_opens >= count, f"{opens} {accepts}"

    eventually(check)
