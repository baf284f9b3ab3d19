"""Maps to rows: raw keys as the kernel has them, names as text, label sets merged; the maps are real."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tcpmon.kernel import attach, libbpf
from tcpmon.kernel.load import Layout, Table
from tcpmon.metrics import snapshot
from tcpmon.metrics.snapshot import LabelSet, comm_text, label_set, label_values, merge, possible_cpus

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 and os.environ.get("CI") != "true", reason="making BPF maps needs root"
)
HASH, PERCPU_ARRAY = 1, 6  # enum bpf_map_type
NO_PREALLOC = 1
KEY_BYTES = 24
MakeTable = Callable[..., Table]


def raw_key(comm: bytes, netns: int = 0, port: int = 0, kind: int = 0) -> bytes:
    """struct series_key: comm[16], u32 netns, u16 port, u16 kind."""
    return (
        comm.ljust(16, b"\0")
        + netns.to_bytes(4, "little")
        + port.to_bytes(2, "little")
        + kind.to_bytes(2, "little")
    )


@pytest.fixture
def make_table() -> Iterator[MakeTable]:
    """make_table(type, key size, value size, entries, flags): a BPF map."""
    made: list[int] = []

    def make(kind: int, key_size: int, value_size: int, entries: int, flags: int = 0) -> Table:
        made.append(attach._bpf(0, struct.pack("<IIIII", kind, key_size, value_size, entries, flags)))
        return Table(made[-1], Layout(key_size, {}), Layout(value_size, {}))

    yield make
    for fd in made:
        os.close(fd)


KEYS = {
    "all labels": (raw_key(b"nginx", 4026531840, 443), LabelSet("nginx", "4026531840", "443")),
    "the largest": (raw_key(b"x", 2**32 - 1, 65535), LabelSet("x", "4294967295", "65535")),
    "15 bytes": (raw_key(b"fifteen-bytes-x", 1, 1), LabelSet("fifteen-bytes-x", "1", "1")),
    "no comm": (raw_key(b"", 7, 80), LabelSet("", "7", "80")),
    "no netns": (raw_key(b"curl", 0, 80), LabelSet("curl", "", "80")),
    "no port": (raw_key(b"curl", 7, 0), LabelSet("curl", "7", "")),
    "no label": (raw_key(b""), LabelSet("", "", "")),
    "other": (raw_key(b"", kind=1), LabelSet("_other", "_other", "_other")),
    "an impostor": (raw_key(b"_other", 7, 80), LabelSet("_other", "7", "80")),
    "rest of a name": (raw_key(b"sh\0ightly older", 7, 80), LabelSet("sh", "7", "80")),
    "not UTF-8": (raw_key(b"caf\xe9", 7, 80), LabelSet("caf\\xe9", "7", "80")),
    "UTF-8 cut off": (
        raw_key("12345678901234é".encode()[:15], 7, 80),
        LabelSet("12345678901234\\xc3", "7", "80"),
    ),
}


@pytest.mark.parametrize("case", KEYS)
def test_label_set(case: str) -> None:
    key, expected = KEYS[case]
    assert len(key) == KEY_BYTES
    assert label_set(key) == expected


@pytest.mark.parametrize(
    "comm, text",
    [
        (b"nginx", "nginx"),
        ("żółw".encode(), "żółw"),
        (b"\xff", "\\xff"),
        (b"\\xff", "\\\\xff"),
        (b"a\\b", "a\\b"),
        (b"a\\b\xff", "a\\\\b\\xff"),
        (b"a\\\\b", "a\\\\b"),
        (b"\xed\xa0\x80", "\\xed\\xa0\\x80"),  # half of a surrogate pair, which no text can hold
        (b'a\nb\t"', 'a\nb\t"'),
    ],
)
def test_comm_text(comm: bytes, text: str) -> None:
    assert comm_text(comm) == text
    assert comm_text(comm).encode()  # it can be written


def test_different_names_stay_different() -> None:
    """10,000 names made of what could be mistaken for something else."""
    dice = random.Random(20260)
    alphabet = (b"\\", b"\\x", b"x", b"f", b"ff", b"\xff", b"\xc3", b"\xa9", "é".encode(), b"5c", b"n", b"\n")
    names = {b"".join(dice.choices(alphabet, k=dice.randrange(1, 9)))[:15] for _ in range(30_000)}
    names |= {dice.randbytes(dice.randrange(1, 16)) for _ in range(1009)}
    assert len(names) > 10_000
    assert len({comm_text(name) for name in names}) == len(names)


def row(comm: str, netns: int, port: int, *words: int) -> snapshot.Row:
    return raw_key(comm.encode(), netns, port), struct.pack(f"={len(words)}Q", *words)


def by(labels: list[str], found: list[snapshot.Row]) -> dict[tuple[str, ...], list[int]]:
    """What merge() makes of it, by the labels in force."""
    names = {key: label_values(key, labels) for key, _words in found}
    return {name: words_of(numbers) for name, numbers in merge(found, names).items()}


def words_of(numbers: snapshot.Numbers) -> list[int]:
    return list(memoryview(numbers).cast("Q"))


FOUND = [
    row("b", 2, 80, 3, 5),
    row("a", 2, 443, 7, 11),
    row("b", 1, 80, 13, 17),
    (raw_key(b"", kind=1), struct.pack("=2Q", 2, 1)),
    row("b", 0, 80, 29, 31),  # from before netns was a label
    (raw_key(b"", kind=1), struct.pack("=2Q", 17, 22)),  # what was folded
]


@pytest.mark.parametrize(
    "labels, expected",
    [
        (
            ["comm", "netns", "port"],
            {
                ("_other", "_other", "_other"): [19, 23],
                ("a", "2", "443"): [7, 11],
                ("b", "", "80"): [29, 31],
                ("b", "1", "80"): [13, 17],
                ("b", "2", "80"): [3, 5],
            },
        ),
        (["comm"], {("_other",): [19, 23], ("a",): [7, 11], ("b",): [45, 53]}),
        (["netns"], {("",): [29, 31], ("1",): [13, 17], ("2",): [10, 16], ("_other",): [19, 23]}),
        (["port", "comm"], {("443", "a"): [7, 11], ("80", "b"): [45, 53], ("_other", "_other"): [19, 23]}),
        ([], {(): [71, 87]}),
    ],
)
def test_merge_adds_up(labels: list[str], expected: dict[tuple[str, ...], list[int]]) -> None:
    assert by(labels, FOUND) == expected


def test_merge_keeps_the_names_order() -> None:
    names = {raw_key(b"a", 1): "z", raw_key(b"b", 1): "a", raw_key(b"c", 1): "m"}
    found = [(key, bytes(8)) for key in sorted(names, reverse=True)]
    assert list(merge(found, names)) == ["z", "a", "m"]


def test_merge_wraps_as_the_kernel_does() -> None:
    assert by([], [row("a", 1, 1, 2**64 - 1), row("b", 1, 1, 3)]) == {(): [2]}


def test_other_is_no_named_one() -> None:
    assert raw_key(b"", kind=1) == snapshot.OTHER_KEY
    assert snapshot.named([*FOUND, row("_other", 7, 80, 1, 1)]) == 5


@pytest.mark.parametrize(
    "text, expected", [("0", 1), ("0-3", 4), ("0-127", 128), ("0,2-5", 5), ("0,2,4-6,9", 6)]
)
def test_possible_cpus(tmp_path: Path, text: str, expected: int) -> None:
    """The kernel copies a value for each possible CPU, packed: those that are not possible have none."""
    (tmp_path / "possible").write_text(text + "\n")
    assert possible_cpus(tmp_path / "possible") == expected


@needs_root
def test_rows_reads_all_of_a_real_map(make_table: MakeTable) -> None:
    """More than two batches, in a hash of few buckets, so that buckets hold several."""
    table = make_table(HASH, KEY_BYTES, 16, 1283, NO_PREALLOC)
    expected = {}
    for number in range(1, 1283):
        libbpf.update(
            table.fd, raw_key(b"c%d" % number, number, number), struct.pack("=QQ", number, 2**63 + number)
        )
        expected[LabelSet(f"c{number}", str(number), str(number))] = [number, 2**63 + number]
    found = snapshot.rows(table)
    assert len(found) == 1282
    assert {label_set(key): words_of(numbers) for key, numbers in found} == expected


@needs_root
def test_rows_of_an_empty_map(make_table: MakeTable) -> None:
    assert snapshot.rows(make_table(HASH, KEY_BYTES, 16, 8)) == []


def test_keys_that_cannot_be_listed_are_no_end() -> None:
    with pytest.raises(OSError, match="listing the keys of a BPF map: Bad file descriptor"):
        list(libbpf.keys(-1, KEY_BYTES))


@needs_root
def test_counters_are_summed_over_all_cpus(make_table: MakeTable) -> None:
    """A connection may be born on one CPU and end on another: one CPU's `tracked` can be negative."""
    cpus = possible_cpus()
    table = make_table(PERCPU_ARRAY, 4, 8, len(snapshot.COUNTERS))
    for index in range(len(snapshot.COUNTERS)):
        values = [-(10**6), *[1009 * (index + 1)] * (cpus - 1)]
        libbpf.update(table.fd, struct.pack("=I", index), struct.pack(f"={cpus}q", *values))
    counters = snapshot.counters(table)
    assert list(counters) == list(snapshot.COUNTERS)
    assert list(counters.values()) == [
        -(10**6) + 1009 * (index + 1) * (cpus - 1) for index in range(len(snapshot.COUNTERS))
    ]
