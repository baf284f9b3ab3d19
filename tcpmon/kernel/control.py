"""Filters and labels in force: the configuration written into maps, switched as a whole and without a gap.

There are two slots: the idle one is filled, then `active` is pointed at it. A birth reads that once.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network

from tcpmon.config import Config, Filters, Selection
from tcpmon.kernel import libbpf, quiescence
from tcpmon.kernel.load import Table

# As in bpf/types.h: OFF and the slots, enum dimension, enum label, the FILTER_ bits, enum series_kind.
_OFF, _SLOT_A, _SLOT_B = 0, 1, 2
_PID, _PORT, _NETNS, _COMM, _UID, _REMOTE = range(6)
_LABEL_BITS = {"comm": 1, "netns": 2, "port": 4}
_FAMILY_BITS = {"both": 0, "ipv4": 1 << 30, "ipv6": 1 << 31}
_OTHER_SERIES = 1
_PORT_WORDS = 1024
_PRESENT = b"\x01"


def apply(tables: Mapping[str, Table], config: Config, events: int = 0, rate_limit: int = 0) -> None:
    """Puts filters and labels of the configuration in force. `events`: which kinds are put into the ring, as
    bits of enum event_kind, and at most how many a second (0: all)."""
    current = _active(tables)
    if current == _OFF:
        _make_other(tables["series"])
    slot = _SLOT_B if current == _SLOT_A else _SLOT_A
    # No program looks any more into the slot that was in force before the last switch
    quiescence.wait(tables)
    _clear(tables, slot)
    _write_values(tables["filter_values"], slot, config.filters)
    _write_ports(tables["filter_ports"], slot, config.filters.port)
    _write_remotes(tables["filter_remotes"], slot, config.filters.remote)
    _write_settings(tables["settings"], slot, config, events, rate_limit)
    libbpf.update(tables["active"].fd, _u32(0), _u32(slot))


def _make_other(series: Table) -> None:
    """The label set that takes in what finds no room has its place before any other."""
    key = bytearray(series.key.size)
    start, size = series.key.fields["kind"]
    key[start : start + size] = _OTHER_SERIES.to_bytes(size, "little")
    with contextlib.suppress(FileExistsError):  # by a daemon that was killed before anything was in force
        libbpf.update(series.fd, bytes(key), bytes(series.value.size), libbpf.NOEXIST)


def _u32(number: int) -> bytes:
    return struct.pack("=I", number)


def _active(tables: Mapping[str, Table]) -> int:
    value = libbpf.lookup(tables["active"].fd, _u32(0), 4) or _u32(_OFF)
    return int.from_bytes(value, "little")


def _list(slot: int, dimension: int, exclude: int) -> int:
    return slot << 8 | 2 * dimension + exclude


def _clear(tables: Mapping[str, Table], slot: int) -> None:
    values, remotes, ports = tables["filter_values"], tables["filter_remotes"], tables["filter_ports"]
    # The keys first: deleting while walking a hash starts the walk anew
    for key in list(libbpf.keys(values.fd, values.key.size)):
        if int.from_bytes(key[:4], "little") >> 8 == slot:
            libbpf.delete(values.fd, key)
    for key in list(libbpf.keys(remotes.fd, remotes.key.size)):
        if key[4] >> 1 == slot:
            libbpf.delete(remotes.fd, key)
    libbpf.write_array(ports.fd, slot * 2 * _PORT_WORDS, 8, bytes(2 * _PORT_WORDS * 8))


def _write_values(table: Table, slot: int, filters: Filters) -> None:
    numbers = {_PID: filters.pid, _NETNS: filters.netns, _UID: filters.uid}
    encoded: list[tuple[int, bytes]] = [
        (_list(slot, dimension, exclude), struct.pack("=I12x", number))
        for dimension, selection in numbers.items()
        for exclude, listed in enumerate((selection.include, selection.exclude))
        for number in listed
    ]
    for exclude, comms in enumerate((filters.comm.include, filters.comm.exclude)):
        encoded += [(_list(slot, _COMM, exclude), comm.ljust(16, b"\0")) for comm in comms]
    for number, value in encoded:
        libbpf.update(table.fd, _u32(number) + value, _PRESENT)


def _write_ports(table: Table, slot: int, selection: Selection[tuple[int, int]]) -> None:
    for exclude, ranges in enumerate((selection.include, selection.exclude)):
        if ranges:
            libbpf.write_array(table.fd, (slot * 2 + exclude) * _PORT_WORDS, 8, _port_bits(ranges))


def _port_bits(ranges: Iterable[tuple[int, int]]) -> bytes:
    bits = 0
    for first, last in ranges:
        bits |= ((1 << (last - first + 1)) - 1) << first
    return bits.to_bytes(_PORT_WORDS * 8, "little")


def _write_remotes(table: Table, slot: int, selection: Selection[IPv4Network | IPv6Network]) -> None:
    for exclude, networks in enumerate((selection.include, selection.exclude)):
        for network in networks:
            prefix, address = _mapped(network)
            key = struct.pack("=IB16s", 8 + prefix, slot << 1 | exclude, address)
            libbpf.update(table.fd, key.ljust(table.key.size, b"\0"), _PRESENT)


def _mapped(network: IPv4Network | IPv6Network) -> tuple[int, bytes]:
    """Prefix length and address, IPv4 as IPv4-mapped IPv6."""
    if network.version == 4:
        return 96 + network.prefixlen, b"\0" * 10 + b"\xff\xff" + network.network_address.packed
    return network.prefixlen, network.network_address.packed


def _filter_bits(filters: Filters) -> int:
    bits = _FAMILY_BITS[filters.family]
    dimensions: dict[int, Selection[object]] = {
        _PID: filters.pid,  # type: ignore[dict-item]  # only emptiness is looked at
        _PORT: filters.port,  # type: ignore[dict-item]
        _NETNS: filters.netns,  # type: ignore[dict-item]
        _COMM: filters.comm,  # type: ignore[dict-item]
        _UID: filters.uid,  # type: ignore[dict-item]
        _REMOTE: filters.remote,  # type: ignore[dict-item]
    }
    for dimension, selection in dimensions.items():
        bits |= bool(selection.include) << (2 * dimension) | bool(selection.exclude) << (2 * dimension + 1)
    return bits


def _write_settings(table: Table, slot: int, config: Config, events: int, rate_limit: int) -> None:
    labels = sum(_LABEL_BITS[label] for label in config.metrics.labels)
    thread = config.metrics.comm == "thread"
    words = (_filter_bits(config.filters), labels, thread, events, rate_limit)
    libbpf.update(table.fd, _u32(slot), struct.pack("=5I", *words))
