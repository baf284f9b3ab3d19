"""Filters and labels written into maps: those of a module loaded as the daemon loads it, read back."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from tcpmon import config as configuration
from tcpmon import daemon
from tcpmon.config import Config
from tcpmon.config.kinds import MAX_ITEMS
from tcpmon.kernel import control, libbpf, load, source
from tcpmon.kernel.load import Loaded, Table

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 and os.environ.get("CI") != "true", reason="loading BPF programs needs root"
)
PID, PORT, NETNS, COMM, UID, REMOTE = range(6)
INCLUDE, EXCLUDE = 0, 1
IPV4_ONLY, IPV6_ONLY = 1 << 30, 1 << 31
SLOT_A, SLOT_B = 1, 2
OTHER_KEY = bytes(22) + (1).to_bytes(2, "little")  # struct series_key of kind OTHER_SERIES
DEFAULT = configuration.load(None)

FILTERS = """
filters:
  pid: {include: [1009, 4194304], exclude: [1]}
  port: {include: [1, 63, 64, 443, "8000-8099", 65535], exclude: ["8050-8059"]}
  netns: {exclude: [4026531840]}
  comm: {include: [nginx, fifteen-bytes-x], exclude: [!!binary "Y2Fm6Q=="]}
  uid: {include: [0, 4294967294]}
  remote: {include: [10.0.0.0/8, "fd00::/8", "::ffff:192.0.2.0/120"], exclude: [10.1.2.3, "fd00::7"]}
  family: ipv4
metrics:
  labels: [comm, port]
  comm: thread
"""


def configured(tmp_path: Path, text: str) -> Config:
    (tmp_path / "tcpmon.yaml").write_text(text)
    return configuration.load(str(tmp_path / "tcpmon.yaml"))


# What needs no kernel


def ports_in(bits: bytes) -> set[int]:
    """As the BPF code looks a port up: bit (port & 63) of 64-bit word (port >> 6)."""
    words = struct.unpack(f"={len(bits) // 8}Q", bits)
    return {port for port in range(65536) if words[port >> 6] >> (port & 63) & 1}


@pytest.mark.parametrize(
    "ranges",
    [
        [(1, 1)],
        [(63, 64)],
        [(65535, 65535)],
        [(1, 65535)],
        [(80, 80), (443, 443), (8000, 8099)],
        [(8000, 8099), (8050, 9000), (8050, 8050)],
        [],
    ],
)
def test_port_bits(ranges: list[tuple[int, int]]) -> None:
    bits = control._port_bits(ranges)
    assert len(bits) == 65536 // 8
    assert ports_in(bits) == {port for first, last in ranges for port in range(first, last + 1)}


@pytest.mark.parametrize(
    "network, prefix, address",
    [
        ("0.0.0.0/0", 96, "::ffff:0:0"),
        ("10.0.0.0/8", 104, "::ffff:10.0.0.0"),
        ("192.0.2.7/32", 128, "::ffff:192.0.2.7"),
        ("::/0", 0, "::"),
        ("fd00::/8", 8, "fd00::"),
        ("2001:db8::1/128", 128, "2001:db8::1"),
        ("::ffff:0:0/96", 96, "::ffff:0:0"),
    ],
)
def test_networks_are_ipv6_for_the_kernel(network: str, prefix: int, address: str) -> None:
    assert control._mapped(ip_network(network)) == (prefix, ip_address(address).packed)


@pytest.mark.parametrize(
    "text, bits",
    [
        ("", 0),
        ("filters: {pid: [1]}", 1 << 2 * PID),
        ("filters: {pid: {exclude: [1]}}", 1 << 2 * PID + EXCLUDE),
        ("filters: {port: {include: [1], exclude: [2]}}", 0b11 << 2 * PORT),
        ("filters: {netns: [7]}", 1 << 2 * NETNS),
        ("filters: {comm: [sh]}", 1 << 2 * COMM),
        ("filters: {uid: {exclude: [0]}}", 1 << 2 * UID + EXCLUDE),
        ("filters: {remote: [10.0.0.0/8]}", 1 << 2 * REMOTE),
        ("filters: {family: ipv4}", IPV4_ONLY),
        ("filters: {family: ipv6, pid: [1]}", IPV6_ONLY | 1 << 2 * PID),
        ("filters: {pid: {include: [], exclude: []}}", 0),
    ],
)
def test_filter_bits(tmp_path: Path, text: str, bits: int) -> None:
    assert control._filter_bits(configured(tmp_path, text or "{}").filters) == bits


# What needs the maps


@contextmanager
def small_module() -> Iterator[Loaded]:
    running = load.load(replace(daemon.module(DEFAULT), max_tracked=1009, max_series=7), {})
    try:
        yield running
    finally:
        running.close()


@pytest.fixture(scope="module")
def module() -> Iterator[Loaded]:
    with small_module() as running:
        yield running


@pytest.fixture
def loaded(module: Loaded) -> Iterator[Loaded]:
    """The module as it was when just loaded, but for what stands in its slots."""
    yield module
    libbpf.update(module.tables["active"].fd, bytes(4), bytes(4))
    libbpf.delete(module.tables["series"].fd, OTHER_KEY)


def number(table: Table, index: int = 0) -> int:
    return int.from_bytes(libbpf.lookup(table.fd, struct.pack("=I", index), 4) or b"", "little")


def settings(loaded: Loaded, slot: int) -> tuple[int, ...]:
    """filters, labels, thread_comm, pad."""
    return struct.unpack(
        "=4I", libbpf.lookup(loaded.tables["settings"].fd, struct.pack("=I", slot), 16) or b""
    )


def values(loaded: Loaded, slot: int) -> set[tuple[int, int, bytes]]:
    """(dimension, exclude, value) of the lists of a slot."""
    table = loaded.tables["filter_values"]
    found = set()
    for key in libbpf.keys(table.fd, table.key.size):
        listed = int.from_bytes(key[:4], "little")
        if listed >> 8 == slot:
            found.add(((listed & 0xFF) >> 1, listed & 1, key[4:]))
    return found


def listed_ports(loaded: Loaded, slot: int, exclude: int) -> set[int]:
    fd, first = loaded.tables["filter_ports"].fd, (slot * 2 + exclude) * 1024
    words = (libbpf.lookup(fd, struct.pack("=I", first + word), 8) or b"" for word in range(1024))
    return ports_in(b"".join(words))


def lists_remote(loaded: Loaded, slot: int, exclude: int, address: str) -> bool:
    """As the BPF code asks: the whole address, for which the kernel finds the longest prefix."""
    table = loaded.tables["filter_remotes"]
    packed = ip_address(f"::ffff:{address}" if "." in address else address).packed
    key = struct.pack("=IB16s", 8 + 128, slot << 1 | exclude, packed).ljust(table.key.size, b"\0")
    return libbpf.lookup(table.fd, key, 1) is not None


def remote_lists(loaded: Loaded) -> set[int]:
    table = loaded.tables["filter_remotes"]
    return {key[4] >> 1 for key in libbpf.keys(table.fd, table.key.size)}


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little") + bytes(12)


@needs_root
def test_nothing_counts_before_the_switch(loaded: Loaded) -> None:
    assert number(loaded.tables["active"]) == 0


@needs_root
def test_the_default_lets_everything_through(loaded: Loaded) -> None:
    control.apply(loaded.tables, DEFAULT)
    assert number(loaded.tables["active"]) == SLOT_A
    assert settings(loaded, SLOT_A) == (0, 0b111, 0, 0)
    assert values(loaded, SLOT_A) == set()
    assert listed_ports(loaded, SLOT_A, INCLUDE) | listed_ports(loaded, SLOT_A, EXCLUDE) == set()


@needs_root
def test_every_filter_is_written(loaded: Loaded, tmp_path: Path) -> None:
    control.apply(loaded.tables, configured(tmp_path, FILTERS))
    assert settings(loaded, SLOT_A) == (
        IPV4_ONLY
        | 0b11 << 2 * PID
        | 0b11 << 2 * PORT
        | 0b10 << 2 * NETNS
        | 0b11 << 2 * COMM
        | 0b01 << 2 * UID
        | 0b11 << 2 * REMOTE,
        0b101,
        1,
        0,
    )
    assert values(loaded, SLOT_A) == {
        (PID, INCLUDE, u32(1009)),
        (PID, INCLUDE, u32(4194304)),
        (PID, EXCLUDE, u32(1)),
        (NETNS, EXCLUDE, u32(4026531840)),
        (COMM, INCLUDE, b"nginx".ljust(16, b"\0")),
        (COMM, INCLUDE, b"fifteen-bytes-x\0"),
        (COMM, EXCLUDE, b"caf\xe9".ljust(16, b"\0")),
        (UID, INCLUDE, u32(0)),
        (UID, INCLUDE, u32(4294967294)),
    }
    assert listed_ports(loaded, SLOT_A, INCLUDE) == {1, 63, 64, 443, *range(8000, 8100), 65535}
    assert listed_ports(loaded, SLOT_A, EXCLUDE) == set(range(8050, 8060))


@needs_root
def test_remotes_are_found_by_prefix(loaded: Loaded, tmp_path: Path) -> None:
    control.apply(loaded.tables, configured(tmp_path, FILTERS))
    for address in ("10.0.0.0", "10.255.255.255", "10.1.2.3", "192.0.2.9", "fd00::1", "fdff::"):
        assert lists_remote(loaded, SLOT_A, INCLUDE, address), address
    for address in ("9.255.255.255", "11.0.0.0", "192.0.3.1", "fe00::1", "::1", "a00::"):
        assert not lists_remote(loaded, SLOT_A, INCLUDE, address), address
    assert lists_remote(loaded, SLOT_A, EXCLUDE, "10.1.2.3")
    assert lists_remote(loaded, SLOT_A, EXCLUDE, "fd00::7")
    assert not lists_remote(loaded, SLOT_A, EXCLUDE, "10.1.2.4")
    assert not lists_remote(loaded, SLOT_B, INCLUDE, "10.1.2.3")


@needs_root
def test_slots_take_turns_and_start_empty(loaded: Loaded, tmp_path: Path) -> None:
    """The slot that was in force stays as it was until the next change."""
    control.apply(loaded.tables, configured(tmp_path, FILTERS))
    before = values(loaded, SLOT_A), settings(loaded, SLOT_A), listed_ports(loaded, SLOT_A, INCLUDE)
    control.apply(loaded.tables, configured(tmp_path, "filters: {uid: [7], port: [80]}"))
    assert number(loaded.tables["active"]) == SLOT_B
    assert values(loaded, SLOT_B) == {(UID, INCLUDE, u32(7))}
    assert listed_ports(loaded, SLOT_B, INCLUDE) == {80}
    assert settings(loaded, SLOT_B) == (1 << 2 * UID | 1 << 2 * PORT, 0b111, 0, 0)
    assert (values(loaded, SLOT_A), settings(loaded, SLOT_A), listed_ports(loaded, SLOT_A, INCLUDE)) == before
    control.apply(loaded.tables, DEFAULT)
    assert number(loaded.tables["active"]) == SLOT_A
    assert values(loaded, SLOT_A) == set()
    assert listed_ports(loaded, SLOT_A, INCLUDE) == set()
    assert SLOT_A not in remote_lists(loaded)
    assert values(loaded, SLOT_B) == {(UID, INCLUDE, u32(7))}


@needs_root
def test_every_list_full_twice(loaded: Loaded, tmp_path: Path) -> None:
    """The tables have room for two such configurations, the one in force and the next."""
    numbers = list(range(1, MAX_ITEMS + 1))
    networks = [f"10.{number >> 8}.{number & 255}.0/24" for number in numbers]
    comms = [f"c{number}" for number in numbers]
    lists = {
        "pid": numbers,
        "netns": numbers,
        "uid": numbers,
        "port": numbers,
        "comm": comms,
        "remote": networks,
    }
    lines = [f"  {name}: {{include: {items}, exclude: {items}}}" for name, items in lists.items()]
    full = configured(tmp_path, "filters:\n" + "\n".join(lines))
    for slot in (SLOT_A, SLOT_B, SLOT_A):
        control.apply(loaded.tables, full)
        assert number(loaded.tables["active"]) == slot
        assert len(values(loaded, slot)) == 2 * 4 * MAX_ITEMS == source.FILTER_VALUES // 2
    assert remote_lists(loaded) == {SLOT_A, SLOT_B}
    for _ in range(2):
        control.apply(loaded.tables, DEFAULT)
    assert remote_lists(loaded) == set()


@needs_root
def test_other_has_its_place_and_keeps_its_numbers(tmp_path: Path) -> None:
    """It is made at the first switch, and later ones do not reset it."""
    nobody = configured(tmp_path, "filters: {pid: [4194304]}")  # whatever else goes on here is not counted
    with small_module() as loaded:  # nor is what was born before that filter
        series = loaded.tables["series"]
        assert len(OTHER_KEY) == series.key.size
        control._make_other(series)  # by one that was killed before anything was in force
        control.apply(loaded.tables, nobody)
        assert libbpf.lookup(series.fd, OTHER_KEY, series.value.size) == bytes(series.value.size)
        counted = struct.pack("=Q", 1009).ljust(series.value.size, b"\0")
        libbpf.update(series.fd, OTHER_KEY, counted)
        control.apply(loaded.tables, nobody)
        assert libbpf.lookup(series.fd, OTHER_KEY, series.value.size) == counted
