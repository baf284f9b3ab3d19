"""What the tools tell of accepts and closes that are out of the ordinary: who accepted, who closed."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable
from functools import partial

import pytest
from harness.blackhole import reach, silence
from harness.helpers import Helpers
from harness.netns import LEFT4, RIGHT4, Netns
from harness.oracle import sockets, time_waits
from harness.polling import eventually
from harness.traffic import IPV4, accept4, connect_errno, finish_connect
from harness.watched import Deed, Flow, Watched, flow_of, mirrors
from harness.workload import rename
from helpers import parties
from helpers.parties import (
    close,
    dial,
    exchange,
    exit_at_once,
    held,
    kill_myself,
    party,
    read_close,
    reset,
    serve,
    shut_both_close,
    shut_read_close,
    take,
    take_and_close,
)

COUNT = 7
MPTCP = 262  # IPPROTO_MPTCP
TCP_FASTOPEN_CONNECT = 30
PAYLOAD = b"tcpmon!"
ENDINGS = [close, shut_read_close, shut_both_close, reset, exit_at_once, kill_myself]
Pair = tuple[Netns, Netns]


@pytest.mark.parametrize("end", ENDINGS)
@pytest.mark.parametrize("first", ["client", "server"])
def test_one_end_goes_first(
    watched: Watched, ns: Netns, comm: str, first: str, end: Callable[[], None]
) -> None:
    """`first` ends the connections by `end`; the other end reads, sees it, and closes."""
    with party(ns, comm + ".s") as server, party(ns, comm) as client:
        flows = client.ask(dial, COUNT, "127.0.0.1", server.ask(serve))
        server.ask(take, COUNT)
        opens, accepts = client.did(flows), server.did(mirrors(flows))
        one, other = (client, server) if first == "client" else (server, client)
        other.tell(read_close)
        if end in (exit_at_once, kill_myself):
            one.leave(end)
        else:
            one.ask(end)
        other.child.hear()
        watched.expect(connects=opens, accepts=accepts, closes=opens + accepts)


def test_half_closed_is_not_closed(watched: Watched, ns: Netns, comm: str) -> None:
    """The X comes with the program's close(), also where both FINs went long before it."""
    with party(ns, comm + ".s") as server, party(ns, comm) as client:
        flows = client.ask(dial, COUNT, "127.0.0.1", server.ask(serve))
        server.ask(take, COUNT)
        opens, accepts = client.did(flows), server.did(mirrors(flows))
        client.ask(parties.shut)
        server.ask(parties.read_to_the_end)
        server.ask(parties.send, PAYLOAD)
        watched.expect(connects=opens, accepts=accepts)
        server.ask(parties.shut)
        client.ask(parties.read_to_the_end)
        eventually(lambda: none_established(ns))
        watched.expect(connects=opens, accepts=accepts)
        server.ask(close)
        watched.expect(connects=opens, accepts=accepts, closes=accepts)
        client.ask(close)
        watched.expect(connects=opens, accepts=accepts, closes=opens + accepts)


def none_established(ns: Netns) -> None:
    assert not sockets(ns, "established")


@pytest.mark.parametrize("first", ["client", "server"])
def test_closed_by_an_heir(watched: Watched, ns: Netns, comm: str, first: str) -> None:
    """Who holds the last descriptor closes: its pid, its name."""
    heir = comm + ".h"
    with party(ns, comm + ".s") as server, party(ns, comm) as client:
        flows = client.ask(dial, COUNT, "127.0.0.1", server.ask(serve))
        server.ask(take, COUNT)
        opens, accepts = client.did(flows), server.did(mirrors(flows))
        one, other, ends = (client, server, opens) if first == "client" else (server, client, accepts)
        pid = one.ask(parties.fork_heir, heir)
        one.ask(close)
        watched.expect(connects=opens, accepts=accepts)
        one.ask(parties.bury, pid)
        inherited = [deed._replace(pid=pid, comm=heir) for deed in ends]
        watched.expect(connects=opens, accepts=accepts, closes=inherited)
        other.ask(read_close)
        rest = accepts if first == "client" else opens
        watched.expect(connects=opens, accepts=accepts, closes=inherited + rest)


def test_closed_by_who_was_handed_the_descriptor(watched: Watched, ns: Netns, comm: str) -> None:
    ours, theirs = socket.socketpair()
    with (
        ours,
        theirs,
        party(ns, comm + ".s") as server,
        party(ns, comm) as client,
        party(ns, comm + ".h") as heir,
    ):
        flows = client.ask(dial, COUNT, "127.0.0.1", server.ask(serve))
        server.ask(take, COUNT)
        server.ask(partial(hand_over, ours.fileno()))
        heir.ask(partial(inherit, theirs.fileno()))
        client.ask(close)
        heir.ask(read_close)
        opens, accepts = client.did(flows), server.did(mirrors(flows))
        watched.expect(connects=opens, accepts=accepts, closes=opens + heir.did(mirrors(flows)))


def hand_over(fd: int) -> None:
    with socket.socket(fileno=os.dup(fd)) as channel:
        socket.send_fds(channel, [b"x"], [sock.fileno() for sock in held])
    close()


def inherit(fd: int) -> None:
    with socket.socket(fileno=os.dup(fd)) as channel:
        held.extend(socket.socket(fileno=each) for each in socket.recv_fds(channel, 1, COUNT)[1])


def test_renamed_before_the_close(watched: Watched, ns: Netns, comm: str) -> None:
    """The name at the time of the deed."""
    with party(ns, comm + ".s") as server, party(ns, comm) as client:
        flows = client.ask(dial, COUNT, "127.0.0.1", server.ask(serve))
        client.ask(rename, comm + ".n")
        client.ask(close)
        watched.expect(connects=client.did(flows), closes=client.did(flows, comm=comm + ".n"))


def test_closed_with_data_unread(watched: Watched, ns: Netns, comm: str) -> None:
    """close() resets; the other end finds it out, and closes."""
    with party(ns, comm + ".s") as server, party(ns, comm) as client:
        flows = client.ask(dial, COUNT, "127.0.0.1", server.ask(serve))
        server.ask(take, COUNT)
        client.ask(parties.send, PAYLOAD)
        server.ask(close)
        opens, accepts = client.did(flows), server.did(mirrors(flows))
        watched.expect(connects=opens, accepts=accepts, closes=accepts)
        client.ask(close)
        watched.expect(connects=opens, accepts=accepts, closes=opens + accepts)


def test_reset_by_the_peer_and_closed_later(watched: Watched, ns: Netns, comm: str) -> None:
    """One end resets while the other sleeps: its own X comes when it closes, with both addresses."""
    with party(ns, comm + ".s") as server, party(ns, comm) as client:
        flows = client.ask(dial, COUNT, "127.0.0.1", server.ask(serve))
        server.ask(take, COUNT)
        opens, accepts = client.did(flows), server.did(mirrors(flows))
        client.ask(reset)
        watched.expect(connects=opens, accepts=accepts, closes=opens)
        server.leave(kill_myself)
        watched.expect(connects=opens, accepts=accepts, closes=opens + accepts)


def test_reset_before_it_was_accepted(watched: Watched, ns: Netns, comm: str) -> None:
    """accept() returns it all the same, without its port; the lines have it."""
    with party(ns, comm + ".s") as server, party(ns, comm) as client:
        flows = client.ask(dial, COUNT, "127.0.0.1", server.ask(serve))
        client.ask(reset)
        opens, accepts = client.did(flows), server.did(mirrors(flows))
        watched.expect(connects=opens, closes=opens)
        server.ask(take, COUNT)
        server.ask(close)
        watched.expect(connects=opens, accepts=accepts, closes=opens + accepts)


@pytest.mark.parametrize("killed", [False, True], ids=["closed", "killed"])
def test_never_accepted(watched: Watched, ns: Netns, comm: str, killed: bool) -> None:
    """The listener goes with its queue: nobody had these, so nobody closes them."""
    with party(ns, comm + ".s") as server, party(ns, comm) as client:
        flows = client.ask(dial, COUNT, "127.0.0.1", server.ask(serve))
        if killed:
            server.leave(kill_myself)
        else:
            server.ask(parties.stop_listening)
        opens = client.did(flows)
        watched.expect(connects=opens)
        client.ask(close)
        watched.expect(connects=opens, closes=opens)


def test_prefork_workers(watched: Watched, ns: Netns, comm: str) -> None:
    """Each line is of the worker that accepted."""
    with party(ns, comm + ".s") as server, party(ns, comm) as client:
        port = server.ask(serve)
        flows = client.ask(dial, 3, "127.0.0.1", port)
        names = [f"{comm}.{number}" for number in range(3)]
        pids = [server.ask(fork_worker, name) for name in names]
        workers = dict(zip(names, pids, strict=True))
        opens = client.did(flows)
        accepts = [Deed(workers[name], name, flow) for flow, name in zip(mirrors(flows), names, strict=True)]
        watched.expect(connects=opens, accepts=accepts, closes=accepts)


def fork_worker(name: str) -> int:
    """The pid of a worker that accepts and closes one connection, and ends."""
    pid = os.fork()
    if not pid:
        rename(name)
        take(1)
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def listen_reuseport(port: int) -> int:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(128)
    parties.listeners.append(listener)
    return int(listener.getsockname()[1])


def take_all() -> list[Flow]:
    """Accept what is there, and keep it."""
    parties.listeners[-1].setblocking(False)
    try:
        while True:
            held.append(accept4(parties.listeners[-1]))
    except BlockingIOError:
        return [flow_of(sock) for sock in held]


def test_reuseport(watched: Watched, ns: Netns, comm: str) -> None:
    with party(ns, comm + ".1") as one, party(ns, comm + ".2") as two, party(ns, comm) as client:
        port = one.ask(listen_reuseport, 0)
        two.ask(listen_reuseport, port)
        flows = client.ask(dial, 31, "127.0.0.1", port)
        accepts = [deed for each in (one, two) for deed in each.did(each.ask(take_all))]
        assert {deed.comm for deed in accepts} == {one.comm, two.comm}
        watched.expect(connects=client.did(flows), accepts=accepts)


@pytest.mark.parametrize("client, server", [(MPTCP, MPTCP), (MPTCP, 0), (0, MPTCP)])
def test_mptcp(watched: Watched, ns: Netns, comm: str, client: int, server: int) -> None:
    with party(ns, comm + ".s") as serving, party(ns, comm) as dialling:
        flows = dialling.ask(dial, COUNT, "127.0.0.1", serving.ask(serve, IPV4, server), True, client)
        serving.ask(take, COUNT)
        opens, accepts = dialling.did(flows), serving.did(mirrors(flows))
        watched.expect(connects=opens, accepts=accepts)
        dialling.ask(close)
        serving.ask(read_close)
        watched.expect(connects=opens, accepts=accepts, closes=opens + accepts)


def listen_fastopen() -> int:
    listener = socket.socket()
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 128)
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    parties.listeners.append(listener)
    return int(listener.getsockname()[1])


def send_fastopen(port: int) -> Flow:
    """Connect by sendto(2): there is no connect(2)."""
    with socket.socket() as sock:
        sock.sendto(PAYLOAD, socket.MSG_FASTOPEN, ("127.0.0.1", port))
        return flow_of(sock)


def connect_fastopen(port: int) -> Flow:
    """A connect(2) that only notes the address: the SYN leaves with the first write."""
    with socket.socket() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
        sock.connect(("127.0.0.1", port))
        sock.sendall(PAYLOAD)
        return flow_of(sock)


@pytest.mark.parametrize("connect", [send_fastopen, connect_fastopen])
def test_fastopen(watched: Watched, ns: Netns, comm: str, connect: Callable[[int], Flow]) -> None:
    ns.sysctl("net.ipv4.tcp_fastopen", 3)
    with party(ns, comm + ".s") as server, party(ns, comm) as client:
        port = server.ask(listen_fastopen)
        server.tell(take_and_close, COUNT)
        flows = [client.ask(connect, port) for _ in range(COUNT)]
        server.child.hear()
        opens, accepts = client.did(flows), server.did(mirrors(flows))
        watched.expect(connects=opens, accepts=accepts, closes=opens + accepts)


def test_io_uring_accept(watched: Watched, ns: Netns, helpers: Helpers, comm: str) -> None:
    """No system call accepts here: the lines are there by the close at the latest."""
    name = comm + ".s"
    with ns.exec(helpers.named("uring_accept", name), str(COUNT)) as server, party(ns, comm) as client:
        assert server.stdout is not None
        flows = client.ask(exchange, COUNT, "127.0.0.1", int(server.stdout.readline()))
        assert server.wait(20) == 0
        opens = client.did(flows)
        accepts = [Deed(server.pid, name, flow) for flow in mirrors(flows)]
        watched.expect(connects=opens, accepts=accepts, closes=opens + accepts)


def bound(address: tuple[str, int]) -> socket.socket:
    sock = socket.socket()
    sock.bind(address)
    return sock


def call_each_other(here: str, there: str, port: int) -> None:
    sock = bound((here, port))
    sock.setblocking(False)
    assert sock.connect_ex((there, port)) == errno.EINPROGRESS
    held.append(sock)


def finish() -> Flow:
    assert finish_connect(held[-1]) == 0
    return flow_of(held[-1])


def test_simultaneous_open(watched: Watched, pair: Pair, comm: str) -> None:
    """Both ends connect, nobody listens: two connects, two closes, no accept."""
    left, right = pair
    silence(left, RIGHT4)
    silence(right, LEFT4)
    with party(left, comm) as one, party(right, comm + ".o") as other:
        one.ask(call_each_other, LEFT4, RIGHT4, 4001)
        other.ask(call_each_other, RIGHT4, LEFT4, 4001)
        reach(left, RIGHT4, right)
        reach(right, LEFT4, left)
        deeds = [deed for each in (one, other) for deed in each.did([each.ask(finish)])]
        one.ask(close), other.ask(close)
        watched.expect(connects=deeds, closes=deeds)


def alone(port: int) -> Flow:
    with bound(("127.0.0.1", port)) as sock:
        sock.connect(("127.0.0.1", port))
        return flow_of(sock)


def test_connected_to_itself(watched: Watched, ns: Netns, comm: str) -> None:
    with party(ns, comm) as client:
        deeds = client.did(client.ask(alone, port) for port in range(4001, 4001 + COUNT))
        watched.expect(connects=deeds, closes=deeds)


def disconnected(port: int) -> list[Flow]:
    """connect(AF_UNSPEC) ends a connection; the same socket then lives again."""
    flows = []
    with socket.socket() as sock:
        for _ in range(COUNT):
            assert connect_errno(sock, ("127.0.0.1", port)) == 0
            flows.append(flow_of(sock))
            unspecified = struct.pack("=H14x", socket.AF_UNSPEC)
            assert parties.libc.connect(sock.fileno(), unspecified, len(unspecified)) == 0
    return flows


def test_disconnected(watched: Watched, ns: Netns, comm: str) -> None:
    with party(ns, comm + ".s") as server, party(ns, comm) as client:
        flows = client.ask(disconnected, server.ask(serve))
        watched.expect(connects=client.did(flows), closes=client.did(flows))


def give_up_unsent(port: int) -> None:
    """With a cookie connect(2) returns 0 without a SYN; without a write it never becomes a connection."""
    with socket.socket() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
        sock.connect(("127.0.0.1", port))


def test_fastopen_given_up_before_the_syn(watched: Watched, ns: Netns, comm: str) -> None:
    """No SYN, no line."""
    ns.sysctl("net.ipv4.tcp_fastopen", 3)
    with party(ns, comm + ".s") as server, party(ns, comm) as client:
        port = server.ask(listen_fastopen)
        opens = client.did([client.ask(send_fastopen, port)])
        client.ask(give_up_unsent, port)
        watched.expect(connects=opens, closes=opens)


def test_thousands_in_time_wait(watched: Watched, ns: Netns, comm: str) -> None:
    count = 2003
    ns.sysctl("net.ipv4.tcp_tw_reuse", 0)
    with party(ns, comm + ".s") as server, party(ns, comm) as client:
        port = server.ask(serve)
        server.tell(take_and_close, count)
        flows = client.ask(exchange, count, "127.0.0.1", port)
        server.child.hear()
        opens, accepts = client.did(flows), server.did(mirrors(flows))
        watched.expect(connects=opens, accepts=accepts, closes=opens + accepts)
        assert time_waits(ns) == count
