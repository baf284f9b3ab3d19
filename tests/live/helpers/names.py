"""A small name server on loopback, and programs that ask it through libc."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dns.message
import dns.rdatatype
import dns.rrset
from harness.netns import Netns
from harness.workload import Link, spawn

ADDRESSES = {
    ("four.tcpmon.test.", "A"): "127.0.0.84",
    ("late.tcpmon.test.", "A"): "127.0.0.85",
    ("six.tcpmon.test.", "AAAA"): "fd00:84::7",
}
CLIENT = """
import socket, sys, time
name, port, wait = sys.argv[1:]
family, kind, protocol, _, address = socket.getaddrinfo(name, int(port), type=socket.SOCK_STREAM)[0]
time.sleep(float(wait))
socket.socket(family, kind, protocol).connect_ex(address)
"""


def answer(query: bytes) -> bytes:
    """What is known of the name, or nothing."""
    asked = dns.message.from_wire(query)
    reply = dns.message.make_response(asked)
    question = asked.question[0]
    address = ADDRESSES.get((question.name.to_text(), dns.rdatatype.to_text(question.rdtype)))
    if address:
        reply.answer.append(dns.rrset.from_text(question.name, 60, "IN", question.rdtype, address))
    return reply.to_wire()


def _serve(link: Link) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 53))
        link.say()
        while True:
            query, who = sock.recvfrom(512)
            sock.sendto(answer(query), who)


@contextmanager
def server(ns: Netns, comm: str) -> Iterator[None]:
    """It answers on 127.0.0.1 in this namespace."""
    with spawn(ns, comm, _serve) as child:
        child.hear()
        yield


@contextmanager
def resolving(ns: Netns) -> Iterator[None]:
    """What `ip netns exec` starts there asks 127.0.0.1 for names, and no other."""
    folder = Path("/etc/netns") / ns.name
    folder.mkdir(parents=True)
    files = {"resolv.conf": "nameserver 127.0.0.1\n", "nsswitch.conf": "hosts: files dns\n"}
    for name, text in files.items():
        (folder / name).write_text(text)
    try:
        yield
    finally:
        for name in files:
            (folder / name).unlink()
        folder.rmdir()


def look_up_and_connect(ns: Netns, name: str, port: int, *, wait: bool) -> None:
    """A program that asks for a name and connects there, `wait`: more than 100 ms later."""
    with ns.exec(sys.executable, "-c", CLIENT, name, str(port), "0.15" if wait else "0") as client:
        assert client.wait(20) == 0
