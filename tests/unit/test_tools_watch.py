"""A tool as it runs: a process of its own, a real ring buffer, and whatever reads its output."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dns.message
import dns.rrset
import pytest
from eventrecords import EVENT, ROWS, event
from ringwriter import RingWriter

from tcpmon.events.record import Kind
from tcpmon.kernel.ring import HEADER_BYTES

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 and os.environ.get("CI") != "true", reason="filling a ring buffer needs root"
)

ENOUGH_SECONDS = 60
UNWRITTEN = b"tcpmon: the output cannot be written: no space left on device\n"
UNWRITTEN += b"hint: make room, or write elsewhere\n"
START = b"Tracing connect ... Hit Ctrl-C to end\n"
HEADER = b"PID     COMM         IP SADDR            DADDR            DPORT \n"
LINE = b"1201    curl         4  10.0.0.1         93.184.216.34    443   \n"
RECORD = event(ROWS[0][0], Kind.ATTEMPT, *ROWS[0][1:])[HEADER_BYTES:]

# tcpmon tcpconnect; only the kernel's side is the test's own: the rings, and a file with how many were lost
CHILD = f"""
import os, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from eventrecords import EVENT
from tcpmon import cli
from tcpmon.tools import session
from tcpmon.tools.dns import Answers

lost, events, *arguments = sys.argv[1:]

def open_session(request):
    if "SIGNAL_WHILE_STARTING" in os.environ:
        os.kill(os.getpid(), int(os.environ["SIGNAL_WHILE_STARTING"]))
    answers = Answers() if request.dns else None
    return session.Session(int(events), answers, EVENT, lambda: int(Path(lost).read_text()))

session.open = open_session
cli.main(["tcpconnect", *arguments])
"""


class Running:
    """A tool, its rings, and its output so far."""

    def __init__(self, folder: Path, arguments: tuple[str, ...], **options: Any) -> None:
        self.events = RingWriter(1 << 20, EVENT.size)
        self.lost_file = folder / "lost"
        self.lost_file.write_text("0")
        command = [sys.executable, "-c", CHILD, str(self.lost_file), str(self.events.fd), *arguments]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        self.process = subprocess.Popen(command, pass_fds=[self.events.fd], **options)

    def read(self, expected: bytes) -> None:
        """Reads exactly this much, and compares."""
        found = b""
        assert self.process.stdout
        while len(found) < len(expected):
            ready, _, _ = select.select([self.process.stdout], [], [], ENOUGH_SECONDS)
            assert ready, f"nothing after {found[-200:]!r}"
            more = os.read(self.process.stdout.fileno(), len(expected) - len(found))
            assert more, f"the end after {found[-200:]!r}"
            found += more
        assert found == expected

    def end(self, number: int = signal.SIGINT) -> tuple[int, bytes, bytes]:
        """Exit status, what was left of stdout, and stderr."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[int, bytes, bytes]:
        said, complaints = self.process.communicate(timeout=ENOUGH_SECONDS)
        return self.process.returncode, said, complaints

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        self.events.close()


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """start("-c", stdout=…): a running tcpconnect."""
    with ExitStack() as running:

        def run(*arguments: str, **options: Any) -> Running:
            made = Running(tmp_path, arguments, **options)
            running.callback(made.close)
            return made

        yield run


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + ENOUGH_SECONDS
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def sleeps(process: subprocess.Popen[bytes]) -> bool:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def test_each_event_at_once_through_a_pipe(start: Start) -> None:
    tool = start()
    tool.read(START + HEADER)
    for _ in range(3):
        tool.events.write(RECORD)
        tool.read(LINE)
    assert tool.end() == (0, b"", b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_happened_before_the_signal_is_printed(start: Start, number: int) -> None:
    tool = start()
    tool.read(START + HEADER)
    tool.events.write(RECORD, times=1009)
    assert tool.end(number) == (0, LINE * 1009, b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_counts_come_at_the_end(start: Start, number: int) -> None:
    tool = start("-c")
    tool.read(START)
    tool.events.write(RECORD, times=1009)
    status, said, complaints = tool.end(number)
    assert (status, complaints) == (0, b"")
    assert said.split() == b"LADDR RADDR RPORT CONNECTS 10.0.0.1 93.184.216.34 443 1009".split()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_starts(start: Start, number: int) -> None:
    """A clean end, and not in the middle of the loader."""
    tool = start(env={**os.environ, "SIGNAL_WHILE_STARTING": str(int(number))})
    assert tool.wait() == (0, START + HEADER, b"")


def test_a_reader_that_has_had_enough(start: Start) -> None:
    """`| head -3`: no complaint, and at once, without waiting for one event more."""
    tool = start()
    tool.read(START + HEADER)
    tool.events.write(RECORD)
    tool.read(LINE)
    assert tool.process.stdout
    tool.process.stdout.close()
    assert tool.process.wait(ENOUGH_SECONDS) == 0
    assert tool.process.stderr
    assert tool.process.stderr.read() == b""


def test_a_reader_that_goes_while_lines_come(start: Start) -> None:
    tool = start()
    tool.read(START + HEADER)
    tool.events.write(RECORD, times=5003)
    tool.read(LINE)
    assert tool.process.stdout
    tool.process.stdout.close()
    assert tool.process.wait(ENOUGH_SECONDS) == 0
    assert tool.process.stderr
    assert tool.process.stderr.read() == b""


def test_a_slow_reader_gets_all(start: Start) -> None:
    tool = start()
    tool.read(START + HEADER)
    tool.events.write(RECORD, times=5003)
    wait_for(lambda: sleeps(tool.process))
    tool.process.send_signal(signal.SIGINT)
    tool.read(LINE * 5003)
    assert tool.wait() == (0, b"", b"")


def test_a_stuck_reader_and_a_second_signal(start: Start) -> None:
    tool = start()
    tool.read(START + HEADER)
    tool.events.write(RECORD, times=5003)  # more than a pipe holds
    wait_for(lambda: sleeps(tool.process))
    tool.process.send_signal(signal.SIGINT)
    wait_for(lambda: not signal_is_caught(tool.process, signal.SIGINT))
    tool.process.send_signal(signal.SIGINT)
    assert tool.process.wait(ENOUGH_SECONDS) == -signal.SIGINT


def signal_is_caught(process: subprocess.Popen[bytes], number: int) -> bool:
    (mask,) = [
        line.split()[1]
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
        if line.startswith("SigCgt:")
    ]
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_a_pipe_that_does_not_block(start: Start) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    tool = start(stdout=writing)
    os.close(writing)
    with open(reading, "rb") as pipe:
        assert pipe.readline() + pipe.readline() == START + HEADER
        tool.events.write(RECORD, times=5003)
        assert b"".join(pipe.readline() for _ in range(5003)) == LINE * 5003
        assert tool.end() == (0, None, b"")


def test_lost_events_are_told_with_their_number(start: Start) -> None:
    tool = start()
    tool.read(START + HEADER)
    tool.lost_file.write_text("7")
    assert tool.process.stderr
    assert tool.process.stderr.readline() == b"tcpmon tcpconnect: lost 7 events\n"
    tool.lost_file.write_text("12")
    assert tool.end() == (0, b"", b"tcpmon tcpconnect: lost 5 events\n")


def answer(name: str, address: str) -> None:
    """A name server's answer, sent and received."""
    made = dns.message.make_response(dns.message.make_query(name, "A"))
    made.answer.append(dns.rrset.from_text(f"{name}.", 60, "IN", "A", address))
    with socket.socket(type=socket.SOCK_DGRAM) as server, socket.socket(type=socket.SOCK_DGRAM) as client:
        server.bind(("127.0.0.77", 53))
        client.bind(("127.0.0.1", 0))
        server.sendto(made.to_wire(), client.getsockname())
        assert client.recv(4096)


def test_an_answer_is_known_before_the_connect_that_follows_it(start: Start) -> None:
    """Both were there when the tool looked: the connect's line has the name all the same."""
    early = bytes(8) + RECORD[8:]  # at the time 0, so that no answer is old
    tool = start("-d")
    tool.read(START + HEADER.replace(b"\n", b" QUERY\n"))
    tool.process.send_signal(signal.SIGSTOP)
    answer("www.example.org", "93.184.216.34")
    tool.events.write(early)
    tool.process.send_signal(signal.SIGCONT)
    tool.read(LINE.replace(b"\n", b" www.example.org\n"))
    answer("other.example.org", "93.184.216.34")
    tool.events.write(early)
    tool.read(LINE.replace(b"\n", b" other.example.org\n"))
    assert tool.end() == (0, b"", b"")


def test_a_full_disk(start: Start) -> None:
    with open("/dev/full", "wb") as full:
        tool = start(stdout=full)
        assert tool.wait() == (1, None, UNWRITTEN)
