"""The names of `tcpconnect -d`: learned from what programs receive of a small real DNS server, and from
payloads that nobody should send."""

from __future__ import annotations

import random
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import dns.flags
import dns.message
import dns.opcode
import dns.rrset
import pytest
from eventrecords import address

from tcpmon.tools.dns import Answers, Names

SECOND_NS = 10**9
NOBODY = b"No DNS Query"
ZONE = {
    ("www.example.org.", "A"): ["www.example.org. 60 IN A 192.0.2.1", "www.example.org. 60 IN A 192.0.2.2"],
    ("www.example.org.", "AAAA"): ["www.example.org. 60 IN AAAA 2001:db8::1"],
    ("alias.example.org.", "A"): [
        "alias.example.org. 60 IN CNAME other.example.net.",
        "other.example.net. 60 IN A 192.0.2.3",
    ],
    ("large.example.org.", "A"): [f"large.example.org. 60 IN A 198.51.100.{number}" for number in range(53)],
    ("mail.example.org.", "MX"): ["mail.example.org. 60 IN MX 10 mx.example.org."],
}


def answer_to(query: dns.message.Message) -> dns.message.Message:
    response = dns.message.make_response(query)
    asked = query.question[0]
    for line in ZONE.get((asked.name.to_text(), asked.rdtype.name), []):
        name, ttl, *rest = line.split(" ", 4)
        response.answer.append(dns.rrset.from_text(name, int(ttl), rest[0], rest[1], rest[2]))
    return response


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, int]]:
    """A DNS server of ZONE on loopback, over UDP."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))

        def serve() -> None:
            while query := bound.recvfrom(4096):
                payload, client = query
                if not payload:
                    return
                bound.sendto(answer_to(dns.message.from_wire(payload)).to_wire(), client)

        thread = threading.Thread(target=serve)
        thread.start()
        yield bound.getsockname()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", bound.getsockname())
        thread.join()


def look_up(server: tuple[str, int], name: str, kind: str) -> bytes:
    """The UDP payload that a program gets."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(30)
        client.sendto(dns.message.make_query(name, kind, use_edns=True).to_wire(), server)
        return client.recv(4096)


class Clock:
    """Nanoseconds that the test turns."""

    def __init__(self) -> None:
        self.ns = 5 * SECOND_NS

    def __call__(self) -> int:
        return self.ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def names(clock: Clock) -> Names:
    return Names(clock)


def query(names: Names, clock: Clock, text: str) -> bytes:
    return names.query(address(text), clock.ns)


def test_every_address_of_an_answer(server: tuple[str, int], names: Names, clock: Clock) -> None:
    names.learn(look_up(server, "www.example.org", "A"))
    names.learn(look_up(server, "www.example.org", "AAAA"))
    for text in ("192.0.2.1", "192.0.2.2", "2001:db8::1"):
        assert query(names, clock, text) == b"www.example.org"
    assert query(names, clock, "192.0.2.3") == NOBODY


def test_the_name_asked_for_and_not_what_it_stands_for(
    server: tuple[str, int], names: Names, clock: Clock
) -> None:
    names.learn(look_up(server, "alias.example.org", "A"))
    assert query(names, clock, "192.0.2.3") == b"alias.example.org"


def test_as_written_in_the_question(server: tuple[str, int], names: Names, clock: Clock) -> None:
    """Resolvers that mix cases to be harder to deceive are shown as they are, and answered all the same."""
    reply = dns.message.from_wire(look_up(server, "www.example.org", "A"))
    asked = dns.message.make_query("wWw.ExAmPlE.oRg", "A")
    mixed = dns.message.make_response(asked)
    mixed.answer = reply.answer
    names.learn(mixed.to_wire())
    assert query(names, clock, "192.0.2.1") == b"wWw.ExAmPlE.oRg"


def test_what_has_no_address(server: tuple[str, int], names: Names, clock: Clock) -> None:
    names.learn(look_up(server, "mail.example.org", "MX"))
    names.learn(look_up(server, "none.example.org", "A"))
    assert query(names, clock, "192.0.2.1") == NOBODY


def test_of_an_answer_that_was_cut_what_is_whole(server: tuple[str, int], names: Names, clock: Clock) -> None:
    payload = look_up(server, "large.example.org", "A")
    names.learn(payload[:516])
    assert query(names, clock, "198.51.100.0") == b"large.example.org"
    assert query(names, clock, "198.51.100.52") == NOBODY


def test_the_last_answer_counts(names: Names, clock: Clock) -> None:
    names.remember(address("192.0.2.1"), b"old.example.org")
    names.remember(address("192.0.2.1"), b"new.example.org")
    assert query(names, clock, "192.0.2.1") == b"new.example.org"


@pytest.mark.parametrize(
    "text, shown", [("127.0.0.1", b"localhost"), ("::1", b"localhost"), ("127.0.0.2", NOBODY)]
)
def test_local_addresses(names: Names, clock: Clock, text: str, shown: bytes) -> None:
    assert query(names, clock, text) == shown
    names.remember(address(text), b"own.example.org")
    assert query(names, clock, text) == b"own.example.org"


@pytest.mark.parametrize(
    "age_ns, shown",
    [
        (-SECOND_NS, b"a.b"),  # the connect was seen later than the answer, and came before it
        (0, b"a.b"),
        (100_000_000, b"a.b"),
        (100_001_000, b"a.b (100.001ms)"),
        (61_250_500_000, b"a.b (61250.500ms)"),
        (86_400 * SECOND_NS - 1, b"a.b (86400000.000ms)"),
        (86_400 * SECOND_NS, NOBODY),  # a day
    ],
)
def test_age(names: Names, clock: Clock, age_ns: int, shown: bytes) -> None:
    names.remember(address("192.0.2.1"), b"a.b")
    clock.ns += age_ns
    assert query(names, clock, "192.0.2.1") == shown


def test_the_oldest_goes_first_and_memory_is_bounded(names: Names, clock: Clock) -> None:
    def number(index: int) -> bytes:
        return bytes(10) + b"\xff\xff" + struct.pack(">I", 0x0A000000 + index)

    for index in range(10_240):
        names.remember(number(index), b"n%d" % index)
    names.remember(number(0), b"again")  # is now the newest
    names.remember(number(10_240), b"n10240")
    assert names.query(number(0), clock.ns) == b"again"
    assert names.query(number(1), clock.ns) == NOBODY
    assert names.query(number(2), clock.ns) == b"n2"
    for index in range(30_011):
        names.remember(number(index), b"x")
    assert sum(names.query(number(index), clock.ns) != NOBODY for index in range(30_011)) == 10_240


def response(**changes: object) -> dns.message.Message:
    made = answer_to(dns.message.make_query("www.example.org", "A"))
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_what_is_no_answer_to_a_query(names: Names, clock: Clock) -> None:
    question = response().question[0]
    for other in (
        response(flags=0),  # a query
        response(question=[]),
        response(question=[question, dns.rrset.from_text("b.", 0, "IN", "A")]),
        response(flags=dns.flags.QR | dns.opcode.to_flags(dns.opcode.NOTIFY)),
    ):
        names.learn(other.to_wire())
    assert query(names, clock, "192.0.2.1") == NOBODY
    names.learn(response().to_wire())
    assert query(names, clock, "192.0.2.1") == b"www.example.org"


def test_addresses_of_another_class(names: Names, clock: Clock) -> None:
    made = response(answer=[dns.rrset.from_text("www.example.org.", 60, "CH", "A", "a.example. 0300")])
    names.learn(made.to_wire())
    assert query(names, clock, "0.0.0.192") == NOBODY


def test_a_name_that_would_forge_lines(names: Names, clock: Clock) -> None:
    """Any byte can be in a name; what is no printing ASCII character is escaped as zone files have it."""
    asked = response().to_wire().replace(b"\x03www\x07example", b"\x03\n\x1b[\x07\xff x(y)z")
    names.learn(asked)
    assert query(names, clock, "192.0.2.1") == rb"\010\027[.\255\032x\(y\)z.org"


@pytest.mark.parametrize(
    "family, host", [(socket.AF_INET, "127.0.0.77"), (socket.AF_INET6, "::1")], ids=["ipv4", "ipv6"]
)
def test_what_comes_in_from_port_53_is_heard_once(family: int, host: str) -> None:
    """And nothing of other ports, or sent to port 53."""
    heard = Answers()
    with ExitStack() as sockets:
        server, other = (sockets.enter_context(socket.socket(family, socket.SOCK_DGRAM)) for _ in range(2))
        server.bind((host, 53))
        other.bind((host, 0))
        for number in range(7):
            payload = b"tcpmon %d " % number + bytes(number * 300)
            other.sendto(b"no " + payload, server.getsockname())
            other.sendto(b"no " + payload, other.getsockname())
            server.sendto(payload, other.getsockname())
            assert server.recv(4096)
            assert other.recv(4096).startswith(b"no ")
            assert other.recv(4096) == payload
    said = [payload for payload in heard.read() if payload.startswith((b"tcpmon ", b"no tcpmon "))]
    heard.close()
    assert said == [b"tcpmon %d " % number + bytes(number * 300) for number in range(7)]


def test_whatever_a_stranger_sends(names: Names, clock: Clock) -> None:
    chance, good = random.Random(7), response().to_wire()
    names.learn(b"")
    for _ in range(5003):
        payload = bytearray(good)
        for _ in range(chance.randint(1, 5)):
            payload[chance.randrange(len(payload))] = chance.randrange(256)
        names.learn(bytes(payload[: chance.randint(0, len(payload))]))
        names.learn(chance.randbytes(chance.randint(0, 512)))
    loop = good.replace(b"\x03www", b"\xc0\x0cww")  # a name that points to itself
    names.learn(loop)
    names.learn(good)
    assert query(names, clock, "192.0.2.1") == b"www.example.org"
    assert re.fullmatch(rb"[!-~]*( \(.*ms\))?|No DNS Query", query(names, clock, "192.0.2.2"))
