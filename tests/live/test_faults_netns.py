"""A network namespace goes while its connections live: they end in the counts as they end in the kernel."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from harness.blackhole import NOBODY
from harness.daemon import Daemon
from harness.metrics import Counts
from harness.netns import LEFT4, RIGHT4, Netns, sh
from harness.polling import settled
from harness.traffic import IPV4, Way
from helpers import parties
from helpers.parties import Party, close, dial, exchange, party, serve, take

COUNT, MORE, PORT = 7, 5, 4242
RIGHT = Way(IPV4.client, IPV4.server, RIGHT4, "0.0.0.0")


@pytest.fixture
def mortal(privileges: None) -> Iterator[Netns]:
    """A namespace that the test deletes."""
    made = Netns(f"tcpmon-{os.getpid()}-mortal")
    sh(f"ip netns add {made.name}")
    made.ip("link set lo up")
    yield made
    if made.path.exists():
        sh(f"ip netns del {made.name}")


def expect(daemon: Daemon, inum: str, who: Party, want: Counts) -> None:
    """By the number of the namespace, which may have no name any more."""

    def check() -> None:
        scrape = daemon.scrape(f'netns="{inum}"')
        assert scrape.counts(netns=inum, comm=who.comm) == want
        scrape.identities(netns=inum, comm=who.comm)

    settled(check, 30)


def test_its_name_goes_first(daemon: Daemon, mortal: Netns, comm: str) -> None:
    """`ip netns del` under live connections: they go on, more are made, and all are closed and counted under
    the number that it had. When its last process ends it is gone, and no count changes."""
    inum = mortal.inum
    with party(mortal, comm + ".s") as server, party(mortal, comm) as client:
        server.ask(serve, IPV4, 0, PORT)
        client.ask(dial, COUNT, "127.0.0.1", PORT)
        server.ask(take, COUNT)
        sh(f"ip netns del {mortal.name}")
        expect(daemon, inum, client, Counts(COUNT, COUNT, open_client=COUNT))
        expect(daemon, inum, server, Counts(accepts=COUNT, open_server=COUNT))
        server.tell(parties.read_close)
        client.ask(close)
        server.child.hear()
        server.tell(parties.take_and_close, MORE)
        client.ask(exchange, MORE, "127.0.0.1", PORT)
        server.child.hear()
    expect(daemon, inum, client, Counts(COUNT + MORE, COUNT + MORE, closes_client=COUNT + MORE))
    expect(daemon, inum, server, Counts(accepts=COUNT + MORE, closes_server=COUNT + MORE))


def join(left: Netns, right: Netns) -> None:
    """By a veth pair; a socket that nobody holds any more soon gives up."""
    left.ip(f"link add eth0 type veth peer name eth0 netns {right.name}")
    for ns, address in ((left, LEFT4), (right, RIGHT4)):
        ns.ip(f"address add {address}/24 dev eth0")
        ns.ip("link set eth0 up")
        ns.sysctl("net.ipv4.tcp_orphan_retries", 1)


def part(left: Netns, right: Netns) -> None:
    """Neither hears of the other any more."""
    for ns, address in ((left, RIGHT4), (right, LEFT4)):
        ns.ip(f"neigh replace {address} lladdr {NOBODY} dev eth0 nud permanent")


def test_one_end_goes_without_a_word(daemon: Daemon, ns: Netns, mortal: Netns, comm: str) -> None:
    """The server is killed and its namespace deleted, and no packet tells the client: the server's end closes
    when the kernel gives up, the client's stays open until the client closes it."""
    inum = mortal.inum
    join(ns, mortal)
    with party(mortal, comm + ".s") as server, party(ns, comm) as client:
        server.ask(serve, RIGHT, 0, PORT)
        client.ask(dial, COUNT, RIGHT4, PORT)
        server.ask(take, COUNT)
        part(ns, mortal)
        server.child.kill()
        sh(f"ip netns del {mortal.name}")
        expect(daemon, inum, server, Counts(accepts=COUNT, closes_server=COUNT))
        expect(daemon, ns.inum, client, Counts(COUNT, COUNT, open_client=COUNT))
        client.ask(close)
        expect(daemon, ns.inum, client, Counts(COUNT, COUNT, closes_client=COUNT))
