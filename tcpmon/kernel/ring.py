"""Reads a BPF ring buffer in bulk: records of one size, in the order in which they were reserved.

libbpf's ring_buffer__poll calls back for each record, and a call from C into Python costs more than all else
that is done with it. So the pages are mapped here, as the kernel lays them out (kernel/bpf/ringbuf.c): one
with the consumer's position, one with the producer's, then the data, mapped twice in a row so that a record
that wraps around the end lies in one piece. Behind each other lie, aligned to 8 bytes: a u32 with the length
and two flags, 4 bytes of the kernel's, the record.

The descriptor polls as readable whenever there is something that was not taken yet (poll(2), not epoll: it
asks anew each time, so that a record committed in the meantime never waits for the next one).
"""

from __future__ import annotations

import mmap
import threading

HEADER_BYTES = 8
_BUSY, _DISCARDED = 1 << 31, 1 << 30
# Enough that what a read costs besides does not count, and few enough to stay in the processor's caches
_MAX_RECORDS = 1024


def stride(record_bytes: int) -> int:
    """The bytes from one record's header to the next one's."""
    return HEADER_BYTES + (record_bytes + 7) // 8 * 8


class Ring:
    """The consumer of a ring buffer map, the only one there may be. `fd` stays the caller's."""

    def __init__(self, fd: int, record_bytes: int) -> None:
        size = _size(fd)
        page = mmap.PAGESIZE
        self._consumer_page = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        pages = mmap.mmap(fd, page + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._consumed = memoryview(self._consumer_page).cast("Q")
        self._produced = memoryview(pages)[:8].cast("Q")
        self._data = memoryview(pages)[page:]
        self._lengths = self._data.cast("I")
        self._mask = size - 1
        self._record_bytes = record_bytes
        self._stride = stride(record_bytes)
        self._lock = threading.Lock()

    def produced(self) -> int:
        """How far the kernel has written: a position to read up to."""
        return self._produced[0]

    def read(self, end: int | None = None) -> bytes:
        """As look(), and they are gone from the ring then."""
        records = self.look(end)
        self.take(len(records) // self._stride)
        return records

    def take(self, count: int) -> None:
        """The first `count` of the records that look() gave are gone from the ring."""
        if count:
            self._release(self._consumed[0] + count * self._stride)

    def look(self, end: int | None = None) -> bytes:
        """The committed records up to the position `end` (all that are there), a thousand or so at most, each
        behind its header, `stride` bytes from one to the next, b"" for none.

        ValueError for a record of another size.
        """
        start = self._skip_discarded()
        available = (self.produced() if end is None else end) - start
        count = self._committed(start & self._mask, min(available // self._stride, _MAX_RECORDS))
        if count <= 0:
            return b""
        self._fence()  # the lengths are read before what they say is there
        first = start & self._mask
        return bytes(self._data[first : first + count * self._stride])

    def _skip_discarded(self) -> int:
        """The consumer's position, moved behind what the kernel's side reserved and gave back."""
        position = self._consumed[0]
        while position < self.produced():
            length = self._lengths[(position & self._mask) // 4]
            if length & _BUSY or not length & _DISCARDED:
                break
            position += stride(length & ~_DISCARDED)
            self._release(position)
        return position

    def _committed(self, first: int, count: int) -> int:
        """How many of `count` records from the offset `first` on can be taken now."""
        if count <= 0:
            return 0
        words = self._stride // 4
        lengths = self._lengths[first // 4 : first // 4 + count * words : words].tolist()
        if lengths.count(self._record_bytes) == count:
            return count
        taken = next(index for index, length in enumerate(lengths) if length != self._record_bytes)
        if not taken and not lengths[0] & (_BUSY | _DISCARDED):
            raise ValueError(f"a record of {lengths[0]} bytes in a ring of {self._record_bytes}")
        return taken

    def _release(self, position: int) -> None:
        self._fence()  # all was read before the kernel may write over it
        self._consumed[0] = position

    def _fence(self) -> None:
        """Orders memory accesses, where the machine does not of itself (aarch64): the first lock's release
        and the second one's acquire cannot change places, and nothing passes both."""
        with self._lock:
            pass
        with self._lock:
            pass


def _size(fd: int) -> int:
    """A map's max_entries: of a ring buffer the bytes of its data."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as lines:
        fields = dict(line.split(":", 1) for line in lines)
    return int(fields["max_entries"])
