"""The kernel's own measuring of BPF programs: whose they are, how often they ran and for how long."""

from __future__ import annotations

import contextlib
import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from tcpmon.kernel import libbpf
from tests.bench.world import output

RAW_TRACEPOINT = 17  # linux/bpf.h
# r0 = 0; exit
NOTHING = struct.pack("=BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0)


@dataclass(frozen=True)
class Ran:
    """One program so far."""

    name: str
    runs: int
    ns: int


def programs() -> dict[int, Ran]:
    """All that are loaded, by the kernel's number; runs are counted while the statistics are on."""
    shown = json.loads(output("bpftool", "--json", "prog", "show"))
    return {p["id"]: Ran(p.get("name", "?"), p.get("run_cnt", 0), p.get("run_time_ns", 0)) for p in shown}


def since(before: dict[int, Ran], others: set[int]) -> list[Ran]:
    """What each program but `others` did since `before`."""
    now = programs()
    return [
        Ran(ran.name, ran.runs - was.runs, ran.ns - was.ns)
        for number, ran in now.items()
        if number not in others
        for was in [before.get(number, Ran(ran.name, 0, 0))]
    ]


@contextlib.contextmanager
def empty_program(tracepoint: str) -> Iterator[None]:
    """A program that does nothing, on a raw tracepoint: its time is the measuring's own."""
    lib = libbpf.library()
    program = lib.bpf_prog_load(RAW_TRACEPOINT, b"bench_empty", b"GPL", NOTHING, len(NOTHING) // 8, None)
    if program < 0:
        raise OSError("a program that does nothing cannot be loaded")
    try:
        link = libbpf.attach_raw_tracepoint(tracepoint, program)
        try:
            yield
        finally:
            os.close(link)
    finally:
        os.close(program)
