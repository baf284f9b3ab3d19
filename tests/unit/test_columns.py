"""Values to text: addresses, names, times; and that what is kept of texts is bounded."""

from __future__ import annotations

import pytest
from eventrecords import EVENT, address, record

from tcpmon.events import columns
from tcpmon.events.columns import Column, Lines, column


@pytest.mark.parametrize(
    "text, version",
    [("127.0.0.1", 4), ("0.0.0.0", 4), ("255.255.255.255", 4), ("::1", 6), ("::", 6), ("fe80::1:2", 6)],
)
def test_addresses(text: str, version: int) -> None:
    assert columns.address_text(address(text)) == text
    assert columns.ip_version(address(text)) == version


def test_a_mapped_address_is_an_ipv4_one_and_only_that() -> None:
    assert columns.address_text(address("::ffff:192.0.2.7")) == "192.0.2.7"
    assert columns.ip_version(address("::ffff:192.0.2.7")) == 4
    assert columns.ip_version(address("::192.0.2.7")) == 6  # IPv4-compatible, long gone
    assert columns.ip_version(address("::fffe:ffff:192.0.2.7")) == 6


@pytest.mark.parametrize(
    "comm, text, raw",
    [
        (b"curl\0\0\0", "curl", b"curl"),
        (b"fifteen_chars_x\0", "fifteen_chars_x", b"fifteen_chars_x"),
        (b"short\0left over", "short", b"short"),  # from an older, longer name
        (b"\0" * 16, "", b""),
        (b"16 bytes, no end", "16 bytes, no end", b"16 bytes, no end"),
        ("gr\xf6\xdfe".encode(), "gr\xf6\xdfe", "gr\xf6\xdfe".encode()),
        (b"\xff\xfe", "\ufffd\ufffd", b"\xff\xfe"),
        (b"a\nb\tc\rd\x1b[2J\x7f", "a?b?c?d?[2J?", b"a?b?c?d?[2J?"),
        (b"a\xc2\x9b2J", "a?2J", b"a\xc2\x9b2J"),  # the bytes stay: what they are is the terminal's affair
    ],
)
def test_names(comm: bytes, text: str, raw: bytes) -> None:
    assert columns.comm_text(comm) == text
    assert columns.comm_bytes(comm) == raw


def test_seconds_since_the_first() -> None:
    since = columns.seconds_since_first("%-9.3f")
    start = 86_400_000_000_001
    passed = (0, 1_000_000, 999_500_001, 3_600_000_000_000, 123_456_789_000_000)
    texts = [since(start + ns) for ns in passed]
    assert texts == [b"0.000    ", b"0.001    ", b"1.000    ", b"3600.000 ", b"123456.789"]


def test_nanoseconds_since_the_first() -> None:
    since = columns.nanoseconds_since_first("%-14d")
    assert [since(2**63 + ns) for ns in (0, 1)] == [b"0".ljust(14), b"1".ljust(14)]


def test_time_does_not_run_backwards() -> None:
    """Two CPUs can get into the ring in another order than they looked at the clock."""
    since = columns.seconds_since_first("%-9.3f")
    assert [since(ns) for ns in (1000, 999, 1001)] == [b"0.000    "] * 3


def test_the_first_is_the_first_even_at_0() -> None:
    since = columns.seconds_since_first("%.3f")
    assert [since(0), since(1_000_000_000)] == [b"0.000", b"1.000"]


def test_a_column_pads_its_heading_like_its_rows() -> None:
    made = column("PID", "%-7d ", "pid")
    assert (made.heading, made.text(12)) == ("PID     ", b"12      ")
    assert column("DPORT", "%-6d", "remote_port", heading="%-7s").heading == "DPORT  "


def test_texts_are_made_once_and_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "MAX_KEPT", 3)
    made: list[int] = []

    def text(pid: int) -> bytes:
        made.append(pid)
        return b"%d" % pid

    lines = Lines(EVENT, [Column("", ("pid",), text)])
    pids = (1, 1, 2, 3, 1, 4, 1)
    assert lines.render(b"".join(record(pid=pid) for pid in pids)) == b"1\n1\n2\n3\n1\n4\n1\n"
    assert made == [1, 2, 3, 4, 1]  # the fourth found no room: all began anew


def test_a_column_that_is_not_to_be_kept_is_made_each_time() -> None:
    made: list[tuple[int, int]] = []

    def text(pid: int, uid: int) -> bytes:
        made.append((pid, uid))
        return b"%d/%d" % (pid, uid)

    lines = Lines(EVENT, [Column("", ("pid", "uid"), text, keep=False), column("", " %d", "pid")])
    assert lines.render(record(pid=1, uid=2) * 2) == b"1/2 1\n1/2 1\n"
    assert made == [(1, 2)] * 2
