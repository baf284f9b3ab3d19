"""The thread that writes the journal: a real ring, and a socket that takes entries when the test lets it."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from eventrecords import EVENT, record
from journalsocket import ENOUGH_SECONDS, JournalSocket
from ringwriter import RingWriter

from tcpmon.events.journal import Journal
from tcpmon.events.record import Kind
from tcpmon.kernel.load import Layout, Table
from tcpmon.kernel.ring import HEADER_BYTES

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 and os.environ.get("CI") != "true", reason="filling a ring buffer needs root"
)

RING_BYTES = 1 << 20
# More than a socket's queue takes (net.unix.max_dgram_qlen is 10 or 512), and far less than the ring
MANY = 1009


@dataclass
class Counts:
    """What a daemon keeps in a BPF map."""

    written: int = 0
    lost: int = 0

    def add(self, written: int, lost: int) -> None:
        self.written += written
        self.lost += lost


def event(number: int = 0) -> bytes:
    return record(kind=Kind.CONNECT, pid=number, ns=time.monotonic_ns())[HEADER_BYTES:]


@pytest.fixture
def ring() -> Iterator[RingWriter]:
    made = RingWriter(RING_BYTES, EVENT.size)
    yield made
    made.close()


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    return tmp_path / "socket"


@pytest.fixture
def journald(socket_path: Path) -> Iterator[JournalSocket]:
    made = JournalSocket(socket_path)
    yield made
    made.close()


@pytest.fixture
def journal(ring: RingWriter, socket_path: Path) -> Iterator[Journal]:
    made = Journal(Table(ring.fd, Layout(0, {}), EVENT), Counts(), str(socket_path))
    yield made
    made.stop()
    assert not journal_threads()


def journal_threads() -> list[int]:
    return [thread.native_id or 0 for thread in threading.enumerate() if thread.name == "journal"]


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + ENOUGH_SECONDS
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_asleep() -> bool:
    (number,) = journal_threads()
    return Path(f"/proc/self/task/{number}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def wakeups() -> int:
    (number,) = journal_threads()
    lines = Path(f"/proc/self/task/{number}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)


def write(ring: RingWriter, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        assert ring.write(event(number))


def pids(journald: JournalSocket, count: int) -> list[int]:
    return [int(entry["TCPMON_PID"]) for entry in journald.take(count)]


def test_each_event_is_an_entry_in_order(ring: RingWriter, journald: JournalSocket, journal: Journal) -> None:
    journal.start()
    write(ring, 3)
    assert pids(journald, 3) == [0, 1, 2]
    write(ring, MANY, first=3)
    assert pids(journald, MANY) == list(range(3, MANY + 3))
    wait_for(lambda: journal.written == MANY + 3)
    assert journald.is_empty()
    assert journal.lost == 0


def test_what_was_there_before_the_start(ring: RingWriter, journald: JournalSocket, journal: Journal) -> None:
    """As after a restart, with a ring that was kept."""
    write(ring, 7)
    journal.start()
    assert pids(journald, 7) == list(range(7))


def test_what_the_ring_holds_at_the_stop_is_written(
    ring: RingWriter, journald: JournalSocket, journal: Journal
) -> None:
    journal.start()
    write(ring, 1)
    journald.take(1)
    write(ring, 7, first=1)
    journal.stop()
    assert not journal_threads()
    assert pids(journald, 7) == list(range(1, 8))
    assert (journal.written, journal.lost) == (8, 0)


def test_started_and_stopped_again(ring: RingWriter, journald: JournalSocket, journal: Journal) -> None:
    journal.stop()
    for number in range(3):
        journal.start()
        journal.start()
        write(ring, 1, first=number)
        assert pids(journald, 1) == [number]
        journal.stop()
        journal.stop()
    assert journal.written == 3
    assert journald.is_empty()


def test_no_descriptor_is_left_open(ring: RingWriter, journald: JournalSocket, journal: Journal) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        write(ring, 1)
        journal.start()
        journal.stop()
    assert len(os.listdir("/proc/self/fd")) == before


def test_idle_means_asleep(ring: RingWriter, journald: JournalSocket, journal: Journal) -> None:
    """Once it sleeps, nothing wakes it before there is an event."""
    journal.start()
    write(ring, 1)
    journald.take(1)
    seen = -1
    deadline = time.monotonic() + ENOUGH_SECONDS
    while seen != wakeups():  # through its last pause
        assert time.monotonic() < deadline
        seen = wakeups()
        time.sleep(0.5)
    assert is_asleep()


def test_a_stuck_journald_stops_nobody_else(
    ring: RingWriter, journald: JournalSocket, journal: Journal
) -> None:
    """It takes nothing, and this thread runs on; nothing is lost of what the ring has room for."""
    journal.start()
    write(ring, MANY)
    wait_for(lambda: not journald.is_empty() and is_asleep())
    before = journal.written
    write(ring, MANY, first=MANY)
    assert journal.written == before
    assert pids(journald, 2 * MANY) == list(range(2 * MANY))
    wait_for(lambda: journal.written == 2 * MANY)
    assert journal.lost == 0


def test_a_full_ring_is_the_kernels_to_count(
    ring: RingWriter, journald: JournalSocket, journal: Journal
) -> None:
    journal.start()
    wait_for(lambda: not ring.write(event(), times=997))
    assert journal.lost == 0


def test_a_stop_while_journald_is_stuck(ring: RingWriter, journald: JournalSocket, journal: Journal) -> None:
    journal.start()
    write(ring, MANY)
    wait_for(lambda: not journald.is_empty() and is_asleep())
    journal.stop()
    assert not journal_threads()
    taken = 0
    while not journald.is_empty():
        assert pids(journald, 1) == [taken]
        taken += 1
    assert (journal.written, journal.lost) == (taken, 0)
    journal.start()
    assert pids(journald, MANY - taken) == list(range(taken, MANY)), "the rest is for the next start"


def test_a_stop_waits_for_a_journald_that_takes_entries(
    ring: RingWriter, journald: JournalSocket, journal: Journal
) -> None:
    journal.start()
    write(ring, MANY)
    wait_for(lambda: not journald.is_empty() and is_asleep())
    found: list[int] = []
    reader = threading.Thread(target=lambda: found.extend(pids(journald, MANY)))
    reader.start()
    journal.stop()
    reader.join(ENOUGH_SECONDS)
    assert found == list(range(MANY))
    assert (journal.written, journal.lost) == (MANY, 0)


def test_an_absent_journald(
    ring: RingWriter, socket_path: Path, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    """Every event is counted as lost, with one line when that begins and one when it is over."""
    caplog.set_level(logging.INFO)
    journal.start()
    for number in (11, 24, 37):
        write(ring, 13)
        wait_for(lambda number=number: journal.lost == number + 2)
    assert [line.levelname for line in caplog.records] == ["WARNING"]
    assert f"{socket_path}: No such file or directory" in caplog.text
    journald = JournalSocket(socket_path)
    write(ring, 1, first=7)
    assert pids(journald, 1) == [7]
    wait_for(lambda: len(caplog.records) == 2)
    assert caplog.records[-1].getMessage() == "the journal takes events again; 39 were lost"
    assert (journal.written, journal.lost) == (1, 39)
    journald.close()


def test_a_socket_that_nobody_listens_to(
    ring: RingWriter, journald: JournalSocket, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    journald._sock.close()
    journal.start()
    write(ring, 7)
    wait_for(lambda: journal.lost == 7)
    assert "Connection refused" in caplog.text


def test_another_journald_in_its_place(
    ring: RingWriter, socket_path: Path, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    """Its socket was made anew: not one event is lost by that."""
    first = JournalSocket(socket_path)
    journal.start()
    write(ring, 1)
    assert pids(first, 1) == [0]
    first.close()
    second = JournalSocket(socket_path)
    write(ring, 7)
    assert pids(second, 7) == list(range(7))
    wait_for(lambda: journal.written == 8)
    assert (journal.lost, caplog.text) == (0, "")
    second.close()


def test_a_journald_that_goes_while_it_is_stuck(
    ring: RingWriter, journald: JournalSocket, journal: Journal
) -> None:
    journal.start()
    write(ring, MANY)
    wait_for(lambda: not journald.is_empty() and is_asleep())
    journald.close()
    wait_for(lambda: journal.written + journal.lost == MANY)
    assert journal.lost > 0


def test_counts_of_an_earlier_daemon_go_on(
    ring: RingWriter, journald: JournalSocket, socket_path: Path
) -> None:
    journal = Journal(Table(ring.fd, Layout(0, {}), EVENT), Counts(100, 7), str(socket_path))
    assert (journal.written, journal.lost) == (100, 7)
    write(ring, 3)
    journal.start()
    journal.stop()
    assert (journal.written, journal.lost) == (103, 7)
