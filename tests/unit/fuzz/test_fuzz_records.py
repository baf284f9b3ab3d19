"""Event records, whatever their bytes: an entry as journald reads it, or none and told as lost; lines that
are lines."""

from __future__ import annotations

import json
import mmap
import os
import struct
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

import pytest
from eventrecords import EVENT, record
from fuzzing import fuzz, refusal
from hypothesis import strategies as st
from journalsocket import JournalSocket, fields
from ringwriter import RingWriter
from test_journal_writer import Counts
from waiting import eventually

from tcpmon.events import table
from tcpmon.events.columns import comm_bytes, comm_text
from tcpmon.events.fields import FIELDS, MESSAGE_IDS, PREFIX, UNTOLD, Entries
from tcpmon.events.journal import Journal
from tcpmon.events.reader import Entry, _entry
from tcpmon.events.record import JOURNALED, Kind
from tcpmon.kernel import ring
from tcpmon.kernel.load import Layout, Table
from tcpmon.kernel.ring import HEADER_BYTES, Ring, stride
from tcpmon.metrics import snapshot
from tcpmon.metrics.families import REASONS, ROLES
from tcpmon.tools.tcptracer import TOOL

ENTRIES = Entries(EVENT)
COMMS = st.one_of(
    st.binary(max_size=16),
    st.lists(
        st.sampled_from([b"\n", b"\0", b"=", b"\xff", b"\\", b"x", b"\x1b[", b"\xc2\x85", b"%s", b"1"])
    ).map(lambda parts: b"".join(parts)[:16]),
)
WHOLE = st.builds(
    record,
    kind=st.integers(0, 7),
    role=st.integers(0, 3),
    reason=st.integers(0, 9),
    comm=COMMS,
    thread_comm=COMMS,
    local=st.binary(min_size=16, max_size=16),
    remote=st.one_of(st.binary(min_size=16, max_size=16), st.just(bytes(10) + b"\xff\xff" + bytes(4))),
    **{name: st.integers(0, 2**64 - 1) for name in ("ns", "connection", "duration_ns", "sent_bytes")},
    **{name: st.integers(0, 2**32 - 1) for name in ("netns", "pid", "uid", "retransmits")},
)
ANY = st.binary(min_size=EVENT.size, max_size=EVENT.size).map(
    lambda data: struct.pack("=II", EVENT.size, 0) + data
)
RECORDS = st.lists(st.one_of(WHOLE, WHOLE, ANY), min_size=1, max_size=5)


def field(of: bytes, name: str) -> bytes:
    offset, size = EVENT.fields[name]
    return of[HEADER_BYTES + offset :][:size]


def is_event(of: bytes) -> bool:
    kind = field(of, "kind")[0]
    known = kind in JOURNALED.values() and field(of, "role")[0] < len(ROLES)
    return known and (kind != Kind.CONNECT_FAILED or field(of, "reason")[0] < len(REASONS))


@fuzz(150, records=RECORDS)
def test_an_entry_or_none(records: list[bytes]) -> None:
    made = ENTRIES.of(b"".join(records))
    assert [entry != UNTOLD for entry in made] == [is_event(each) for each in records]
    for entry, each in zip(made, records, strict=True):
        if entry != UNTOLD:
            check(fields(entry), each)


def check(entry: dict[str, bytes], of: bytes) -> None:
    kind = Kind(field(of, "kind")[0])
    wanted = {f"{PREFIX}{each.name}" for each in FIELDS if kind in each.kinds}
    assert set(entry) == {*wanted, "MESSAGE", "MESSAGE_ID", "PRIORITY", "SYSLOG_IDENTIFIER"}
    assert entry["MESSAGE_ID"].decode() == MESSAGE_IDS[kind]
    for name in ("comm", "thread_comm"):
        assert entry[f"TCPMON_{name.upper()}"] == field(of, name).partition(b"\0")[0]
    assert int(entry["TCPMON_PID"]) == int.from_bytes(field(of, "pid"), "little")
    assert len(entry["MESSAGE"].decode().splitlines()) == 1
    read = _entry({**entry, "__REALTIME_TIMESTAMP": 0})
    assert len(table.line(read).splitlines()) == 1
    assert json.loads(table.json_line(read))["pid"] == int(entry["TCPMON_PID"])


@fuzz(150, values=st.dictionaries(st.sampled_from([each.name for each in FIELDS]), st.binary(max_size=80)))
def test_entries_that_others_wrote(values: dict[str, bytes]) -> None:
    """Anyone can write to the journal."""
    for time_us in (0, 10**19 - 1):
        line = table.line(Entry(time_us, values))
        assert not any(character < " " or "\x7f" <= character < "\xa0" for character in line)
    raw = {f"{PREFIX}{name}": [value, value] for name, value in values.items()} | {"__REALTIME_TIMESTAMP": 7}
    entry = _entry(raw)
    assert set(json.loads(table.json_line(entry))) == {name.lower() for name in values}


@fuzz(150, comm=COMMS, other=COMMS)
def test_names(comm: bytes, other: bytes) -> None:
    """Different ones stay different in the metrics, and none has a line's end or a command for a terminal."""
    ends = [name.partition(b"\0")[0] for name in (comm, other)]
    assert (snapshot.comm_text(ends[0]) == snapshot.comm_text(ends[1])) == (ends[0] == ends[1])
    for shown in (comm_text(comm), comm_bytes(comm).decode("latin-1")):
        assert not any(character < " " or character == "\x7f" for character in shown)


@fuzz(60, records=st.lists(WHOLE, min_size=1, max_size=5))
def test_lines_of_a_tool(records: list[bytes]) -> None:
    """Of a ring of a tool's own, which has no other kinds."""
    parser = ArgumentParser()
    TOOL.add_to(parser)
    kinds = [each for each in records if field(each, "kind")[0] in TOOL.kinds]
    printer = TOOL.printer(parser.parse_args(["-tv"]), EVENT, None)  # type: ignore[arg-type]
    if kinds:
        assert printer.render(b"".join(kinds)).count(b"\n") == len(kinds)


SIZE = mmap.PAGESIZE


@pytest.fixture(scope="module")
def memory() -> Iterator[int]:
    fd = os.memfd_create("ring")
    os.truncate(fd, 2 * mmap.PAGESIZE + 2 * SIZE)
    yield fd
    os.close(fd)


WORDS = st.one_of(
    st.integers(0, 2**32 - 1), st.sampled_from([12, 12 | 1 << 31, 12 | 1 << 30, 24, 0, 1 << 30, 3 << 30])
)


@fuzz(150, data=st.lists(WORDS, max_size=80), consumed=st.integers(0, 200), produced=st.integers(0, 2 * SIZE))
def test_a_ring_with_anything_in_it(memory: int, data: list[int], consumed: int, produced: int) -> None:
    """Records, or that they are none of ours: no crash, and no turning round for ever."""
    content = b"".join(word.to_bytes(4, "little") for word in data).ljust(SIZE, b"\0")
    os.pwrite(memory, struct.pack("=Q", consumed * 8), 0)
    os.pwrite(memory, struct.pack("=Q", produced // 8 * 8), mmap.PAGESIZE)
    os.pwrite(memory, content * 2, 2 * mmap.PAGESIZE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ring, "_size", lambda fd: SIZE)  # a BPF map says it, a file in memory does not
        reader = Ring(memory, 12)
    found: list[bytes] = []
    refused = refusal(ValueError, lambda: found.extend(iter(reader.read, b"")))
    assert "a record of" in refused or not reader.look()
    assert not any(len(records) % stride(12) for records in found)


@pytest.mark.skipif(os.geteuid() != 0 and os.environ.get("CI") != "true", reason="filling a ring needs root")
def test_what_cannot_be_told_is_lost(tmp_path: Path) -> None:
    """Found by fuzzing: the thread ended at a kind that it did not know."""
    writer, journald, counts = RingWriter(1 << 16, EVENT.size), JournalSocket(tmp_path / "socket"), Counts()
    for kind in (Kind.CONNECT, 77, Kind.ACCEPT, Kind.CLOSING, Kind.CLOSE):
        assert writer.write(record(kind=kind)[HEADER_BYTES:])
    journal = Journal(Table(writer.fd, Layout(0, {}), EVENT), counts, str(journald.path))
    journal.start()
    told = [entry["TCPMON_EVENT"] for entry in journald.take(3)]
    assert eventually(lambda: (counts.written, counts.lost) == (3, 2))
    journal.stop()
    assert told == [b"connect", b"accept", b"close"]
    assert journald.is_empty()
    journald.close()
    writer.close()
