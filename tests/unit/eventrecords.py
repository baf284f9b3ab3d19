"""Event records for tests, as the ring holds them, and the list that the golden outputs are made of."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import cycle
from socket import AF_INET, AF_INET6, inet_pton

from tcpmon.events.record import Kind
from tcpmon.kernel.load import Layout

# struct event of bpf/types.h as a 64-bit compiler lays it out
_SIZES = {
    **dict.fromkeys(("ns", "connection", "duration_ns", "sent_bytes", "received_bytes"), 8),
    **dict.fromkeys(("local", "remote"), 16),
    **dict.fromkeys(("netns", "pid", "tid", "uid", "retransmits"), 4),
    **dict.fromkeys(("local_port", "remote_port"), 2),
    **dict.fromkeys(("kind", "reason", "role", "pad"), 1),
    **dict.fromkeys(("comm", "thread_comm"), 16),
}
_OFFSETS = {name: sum(list(_SIZES.values())[:index]) for index, name in enumerate(_SIZES)}
EVENT = Layout(136, {name: (_OFFSETS[name], size) for name, size in _SIZES.items()})

# As a kernel has it that ran for a day; far beyond what a float's 24 bits hold
BOOT_NS = 86_400_123_456_789


def address(text: str) -> bytes:
    return inet_pton(AF_INET6, text) if ":" in text else bytes(10) + b"\xff\xff" + inet_pton(AF_INET, text)


def record(**fields: int | bytes) -> bytes:
    """One event behind its header. What is not given is 0, but for `comm`, which no tool shows."""
    event = bytearray(EVENT.size)
    for name, value in ({"comm": b"not shown"} | fields).items():
        offset, size = EVENT.fields[name]
        raw = value if isinstance(value, bytes) else value.to_bytes(size, "little")
        event[offset : offset + size] = raw.ljust(size, b"\0")
    return struct.pack("=II", EVENT.size, 0) + bytes(event)


def event(
    us: int,
    kind: Kind,
    pid: int,
    uid: int,
    comm: bytes,
    local: tuple[str, int],
    remote: tuple[str, int],
    netns: int,
) -> bytes:
    """`us` microseconds after BOOT_NS."""
    return record(
        ns=BOOT_NS + us * 1000,
        kind=kind,
        pid=pid,
        tid=pid + 1,
        uid=uid,
        thread_comm=comm,
        local=address(local[0]),
        remote=address(remote[0]),
        local_port=local[1],
        remote_port=remote[1],
        netns=netns,
    )


Row = tuple[int, int, int, bytes, tuple[str, int], tuple[str, int], int]

# Microseconds after BOOT_NS, pid, uid, comm, local end, remote end, netns
ROWS: tuple[Row, ...] = (
    (0, 1201, 0, b"curl", ("10.0.0.1", 41000), ("93.184.216.34", 443), 4026531840),
    (137, 1201, 1000, b"curl", ("10.0.0.1", 41002), ("127.0.0.1", 80), 4026531840),
    (999_600, 7, 33, b"fifteen_chars_x", ("192.168.100.200", 65535), ("192.168.100.201", 1), 4026532999),
    (1_234_567, 4194303, 4294967294, b"java", ("::1", 50000), ("::1", 8080), 1),
    (
        2_000_000,
        88,
        65534,
        b"dig",
        ("2001:db8:85a3:8d3:1319:8a2e:370:7348", 40001),
        ("2001:db8::2", 53),
        4026531840,
    ),
    (2_000_001, 88, 0, "größe-wörker".encode(), ("fe80::1", 1024), ("fe80::2", 1025), 4026531840),
    (9_999_499, 89, 0, b"\xff\xfebad", ("10.0.0.1", 41003), ("10.0.0.2", 22), 4026531840),
    (12_345_678_901, 90, 0, b"a\nb\x1b[31mc", ("10.0.0.1", 41004), ("10.0.0.2", 22), 4026531840),
    (123_456_789_012, 91, 0, b"", ("0.0.0.0", 0), ("10.0.0.2", 22), 4026531840),
)


def records(kinds: Sequence[Kind], rows: Iterable[Row] = ROWS) -> bytes:
    """A record for each row, with the kinds in turn."""
    return b"".join(event(row[0], kind, *row[1:]) for row, kind in zip(rows, cycle(kinds), strict=False))
