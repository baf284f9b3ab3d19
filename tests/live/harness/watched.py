"""What programs did, and the lines that all three tools must print of it: these and no others."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .netns import Netns
from .polling import settled
from .tool import Row, Tool


class Flow(NamedTuple):
    """One end's view of a connection. IPv4-mapped addresses are written as IPv4."""

    local: str
    local_port: int
    remote: str
    remote_port: int

    @property
    def ip(self) -> str:
        return "6" if ":" in self.remote else "4"

    def mirror(self) -> Flow:
        """The same connection as the other end sees it."""
        return Flow(self.remote, self.remote_port, self.local, self.local_port)


def plain(address: str) -> str:
    return address.removeprefix("::ffff:")


def flow_of(sock: socket.socket) -> Flow:
    """Of a connected socket."""
    here, there = sock.getsockname(), sock.getpeername()
    return Flow(plain(here[0]), here[1], plain(there[0]), there[1])


def mirrors(flows: Iterable[Flow]) -> list[Flow]:
    return [flow.mirror() for flow in flows]


class Deed(NamedTuple):
    """A program did something to a connection."""

    pid: int
    comm: str
    flow: Flow
    uid: int = 0


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def traced(kind: str, deed: Deed) -> Row:
    """`tcptracer -v`'s line, without the namespace."""
    flow = deed.flow
    cells = (kind, deed.pid, deed.comm, flow.ip, _bracketed(flow.local), _bracketed(flow.remote))
    titles = ("TYPE", "PID", "COMM", "IP", "SADDR", "DADDR", "SPORT", "DPORT")
    return dict(zip(titles, map(str, (*cells, flow.local_port, flow.remote_port)), strict=True))


def accepted(deed: Deed) -> Row:
    """`tcpaccept`'s line."""
    flow = deed.flow
    cells = (deed.pid, deed.comm[:12], flow.ip, flow.remote, flow.remote_port, flow.local, flow.local_port)
    titles = ("PID", "COMM", "IP", "RADDR", "RPORT", "LADDR", "LPORT")
    return dict(zip(titles, map(str, cells), strict=True))


def attempted(deed: Deed) -> Row:
    """`tcpconnect -U -L`'s line."""
    flow = deed.flow
    cells = (deed.uid, deed.pid, deed.comm[:12], flow.ip)
    ends = (flow.local, flow.local_port, flow.remote, flow.remote_port)
    titles = ("UID", "PID", "COMM", "IP", "SADDR", "LPORT", "DADDR", "DPORT")
    return dict(zip(titles, map(str, (*cells, *ends)), strict=True))


def _bag(rows: Iterable[Row]) -> Counter[tuple[str, ...]]:
    return Counter(tuple(row.values()) for row in rows)


def compare(name: str, got: Iterable[Row], want: Iterable[Row]) -> None:
    """Assert that these are the same lines, in whatever order."""
    found, wanted = _bag(got), _bag(want)
    extra, missing = found - wanted, wanted - found
    assert not extra | missing, f"{name}\n missing {dict(missing)}\n extra   {dict(extra)}"


def same(tool: Tool, want: Sequence[Row], since: int = 0, only: Callable[[Row], bool] = bool) -> None:
    """Assert that a tool's lines come to exactly `want`, and stay there; those that `only` is true of."""
    settled(lambda: compare(tool.name, filter(only, tool.rows(since)), want))


@dataclass(frozen=True)
class Trio:
    """`tcptracer -v`, `tcpaccept` and `tcpconnect -U -L`, all running."""

    tracer: Tool
    acceptor: Tool
    connector: Tool

    def sizes(self) -> tuple[int, int, int]:
        return self.tracer.size(), self.acceptor.size(), self.connector.size()


@dataclass(frozen=True)
class Watched:
    """What the three tools tell, from `since` on, of some namespaces and of the programs called `comm` or
    `comm.SOMETHING`."""

    trio: Trio
    since: tuple[int, int, int]
    namespaces: tuple[Netns, ...]
    comm: str

    def expect(
        self,
        *,
        connects: Sequence[Deed] = (),
        failed: Sequence[Deed] = (),
        accepts: Sequence[Deed] = (),
        closes: Sequence[Deed] = (),
    ) -> None:
        """Assert that these were told, each once, and nothing else. `failed`: a SYN was sent, in vain."""
        kinds = {"connect": connects, "accept": accepts, "close": closes}
        lines = [traced(kind, deed) for kind, deeds in kinds.items() for deed in deeds]
        settled(lambda: compare("tcptracer", self.traced(), lines))
        same(self.trio.acceptor, [*map(accepted, accepts)], self.since[1], self._ours)
        same(self.trio.connector, [*map(attempted, [*connects, *failed])], self.since[2], self._ours)

    def traced(self) -> list[Row]:
        """tcptracer's lines of these namespaces, in its order, without the namespace."""
        inums = {ns.inum for ns in self.namespaces}
        rows = self.trio.tracer.rows(self.since[0])
        return [row for row in rows if row.pop("NETNS") in inums]

    def _ours(self, row: Row) -> bool:
        return row["COMM"] == self.comm or row["COMM"].startswith(self.comm + ".")
