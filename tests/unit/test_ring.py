"""The ring buffer's consumer, on a real one that a BPF program fills."""

from __future__ import annotations

import os
import random
import select
import struct
import threading
from collections.abc import Iterator

import pytest
from ringwriter import RingWriter

from tcpmon.kernel.ring import HEADER_BYTES, Ring, stride

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 and os.environ.get("CI") != "true", reason="filling a ring buffer needs root"
)

RECORD = struct.Struct("=QI")  # 12 bytes: not a multiple of 8, as records may be
STRIDE = 24
SIZE = 4 * 4096
ROOM = SIZE // STRIDE
ENOUGH_MS = 30_000


@pytest.fixture
def writer() -> Iterator[RingWriter]:
    made = RingWriter(SIZE, RECORD.size)
    yield made
    made.close()


def write(writer: RingWriter, *numbers: int) -> int:
    """Writes a record for each number; how many found room."""
    return sum(writer.write(RECORD.pack(number, ~number & 0xFFFFFFFF)) for number in numbers)


def numbers(records: bytes) -> list[int]:
    """The number of each record, after a look at the rest of it."""
    found = [RECORD.unpack_from(records, at + HEADER_BYTES) for at in range(0, len(records), STRIDE)]
    assert all(check == ~number & 0xFFFFFFFF for number, check in found)
    return [number for number, _check in found]


def test_stride() -> None:
    assert [stride(size) for size in (1, 8, 12, 16, 136)] == [16, 16, STRIDE, 24, 144]


def test_nothing_then_records_in_order(writer: RingWriter) -> None:
    ring = Ring(writer.fd, RECORD.size)
    assert ring.read() == b""
    write(writer, *range(7))
    assert numbers(ring.read()) == list(range(7))
    assert ring.read() == b""


def test_a_ring_that_was_in_use_before(writer: RingWriter) -> None:
    write(writer, 1, 2)
    assert numbers(Ring(writer.fd, RECORD.size).read()) == [1, 2]
    write(writer, 3)
    assert numbers(Ring(writer.fd, RECORD.size).read()) == [3]


def test_around_the_end_many_times(writer: RingWriter) -> None:
    ring, chance, written, seen = Ring(writer.fd, RECORD.size), random.Random(3), 0, []
    for _ in range(101):
        more = chance.randint(1, ROOM - 1)
        assert write(writer, *range(written, written + more)) == more
        written += more
        seen += numbers(ring.read())
    assert written * STRIDE > 20 * SIZE
    assert seen == list(range(written))


def test_a_full_ring_keeps_what_it_has(writer: RingWriter) -> None:
    ring = Ring(writer.fd, RECORD.size)
    kept = write(writer, *range(ROOM + 5))
    assert ROOM - 1 <= kept <= ROOM
    assert numbers(ring.read()) == list(range(kept))
    assert write(writer, 7, 8, 9) == 3
    assert numbers(ring.read()) == [7, 8, 9]


def test_at_most_so_many_at_once() -> None:
    writer = RingWriter(64 * 4096, RECORD.size)
    ring = Ring(writer.fd, RECORD.size)
    assert write(writer, *range(7919)) == 7919
    batches = []
    while batch := numbers(ring.read()):
        batches.append(batch)
    assert [number for batch in batches for number in batch] == list(range(7919))
    assert len(batches) > 7
    writer.close()


def test_discarded_records_are_passed_over(writer: RingWriter) -> None:
    ring = Ring(writer.fd, RECORD.size)
    writer.discard()
    assert ring.read() == b""
    write(writer, 0)
    writer.discard()
    writer.discard()
    write(writer, 1, 2)
    assert numbers(ring.read()) + numbers(ring.read()) == [0, 1, 2]
    assert ring.read() == b""


def test_up_to_a_position(writer: RingWriter) -> None:
    ring = Ring(writer.fd, RECORD.size)
    write(writer, 0, 1, 2, 3, 4)
    end = ring.produced()
    write(writer, 5, 6)
    assert numbers(ring.read(end)) == [0, 1, 2, 3, 4]
    assert ring.read(end) == b""
    assert numbers(ring.read()) == [5, 6]


def test_a_record_of_another_size_is_a_bug(writer: RingWriter) -> None:
    write(writer, 0)
    with pytest.raises(ValueError, match="a record of 12 bytes in a ring of 16"):
        Ring(writer.fd, 16).read()


def test_poll_wakes_up_for_what_is_there_and_only_then(writer: RingWriter) -> None:
    ring, poll = Ring(writer.fd, RECORD.size), select.poll()
    poll.register(writer.fd, select.POLLIN)
    assert poll.poll(0) == []
    write(writer, 0)
    assert poll.poll(0) == [(writer.fd, select.POLLIN)]
    ring.read()
    assert poll.poll(0) == []


def test_read_while_it_is_written(writer: RingWriter) -> None:
    """Whatever the reader sees at whatever moment is whole and in order, and nothing is missing."""
    ring, seen, total = Ring(writer.fd, RECORD.size), [], 30_011
    poll = select.poll()
    poll.register(writer.fd, select.POLLIN)

    def write_all() -> None:
        for number in range(total):
            while not write(writer, number):
                pass  # full: the reader makes room

    thread = threading.Thread(target=write_all)
    thread.start()
    while len(seen) < total:
        assert poll.poll(ENOUGH_MS), f"nothing came after {len(seen)} records"
        seen += numbers(ring.read())
    thread.join()
    assert seen == list(range(total))
