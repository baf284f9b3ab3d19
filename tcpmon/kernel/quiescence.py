"""Waiting until no BPF program runs any more that has seen a map as it was before.

Whoever changes a map of maps, the kernel lets return only after all running programs are through, for this
very use (maybe_wait_bpf_programs in kernel/bpf/syscall.c, since 4.20). Unlike membarrier, which does nothing
on one CPU and is refused with nohz_full=, that holds everywhere, and it needs no privilege.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from tcpmon.kernel import libbpf
from tcpmon.kernel.load import Table

_LEAVING, _NOBODYS = struct.pack("=I", 0), struct.pack("=I", 1)  # the entries of leaving_now (bpf/maps.h)


def wait(tables: Mapping[str, Table]) -> None:
    """Some milliseconds."""
    _point(tables, _NOBODYS)


def divert(tables: Mapping[str, Table]) -> None:
    """From the return on nothing is born for a label set that `leaving` names: it is _other's."""
    _point(tables, _LEAVING)


def divert_no_more(tables: Mapping[str, Table]) -> None:
    libbpf.delete(tables["leaving_now"].fd, _LEAVING)


def _point(tables: Mapping[str, Table], entry: bytes) -> None:
    libbpf.update(tables["leaving_now"].fd, entry, struct.pack("=I", tables["leaving"].fd))
