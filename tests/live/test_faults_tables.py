"""The table of connections is full: those that it has no room for are counted as such, one by one, and
nothing else is missing."""

from __future__ import annotations

from collections.abc import Callable

from harness.daemon import Daemon
from harness.metrics import Counts, Metrics
from harness.netns import Netns
from harness.polling import settled
from helpers.b_traffic import ask, client, connect, fail, hold, release, server

ROOM, MORE, FEW = 64, 101, 7
REFUSED, UNREACHABLE = 111, 101
TABLE = "connection_table"


def expect(daemon: Daemon, ns: Netns, want: dict[str, Counts], lost: int) -> None:
    """Each program's counts, and the losses: all of one stage."""

    def check() -> Metrics:
        scrape = daemon.scrape()
        got = {comm: scrape.counts(netns=ns.inum, comm=comm) for comm in want}
        assert (got, scrape.losses()) == (want, {TABLE: lost} if lost else {})
        return scrape

    settled(check).identities()


def test_clients_beyond_its_room(start_daemon: Callable[..., Daemon], ns: Netns, comm: str) -> None:
    """Both ends of each are lost then. A connect that fails without a SYN needs no room, and is counted; one
    that is refused does. Those that are followed close as ever, and then all is counted again."""
    config = {"filters": {"netns": [ns.name]}, "connections": {"max_tracked": ROOM}}
    daemon = start_daemon(config, lossy=True)
    server_comm = comm + ".s"
    with (
        server(ns, server_comm) as (_, [port]),
        client(ns, comm) as asking,
        client(ns, comm + ".f") as failing,
    ):
        address = ("127.0.0.1", port)
        ask(asking, hold, address, ROOM // 2)  # both ends of these fill it
        full = {
            comm: Counts(ROOM // 2, ROOM // 2, open_client=ROOM // 2),
            server_comm: Counts(accepts=ROOM // 2, open_server=ROOM // 2),
        }
        expect(daemon, ns, full, lost=0)
        ask(asking, hold, address, MORE)
        expect(daemon, ns, full, lost=2 * MORE)
        ask(failing, fail, ("10.99.0.1", port), FEW, UNREACHABLE)
        ask(failing, fail, ("127.0.0.1", 9), FEW, REFUSED)
        unsent = {comm + ".f": Counts(FEW, failures={"unreachable": FEW})}
        lost = 2 * MORE + FEW
        expect(daemon, ns, full | unsent, lost)
        ask(asking, release)
        gone = {
            comm: Counts(ROOM // 2, ROOM // 2, closes_client=ROOM // 2),
            server_comm: Counts(accepts=ROOM // 2, closes_server=ROOM // 2),
        }
        expect(daemon, ns, gone | unsent, lost)
        assert daemon.scrape().value("tcpmon_tracked_connections") == 0
        ask(asking, connect, address, FEW)
        again = ROOM // 2 + FEW
        after = {
            comm: Counts(again, again, closes_client=again),
            server_comm: Counts(accepts=again, closes_server=again),
        }
        expect(daemon, ns, after | unsent, lost)
