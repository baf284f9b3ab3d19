"""The kernel's own measuring of BPF programs: whose they are, how often they ran and for how long."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass

from tcpmon.kernel import attach
from tests.bench.world import output


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
    program = attach.load(attach.RAW_TRACEPOINT, "bench_empty", attach.RETURN_0)
    try:
        link = attach.attach(attach.RAW_TRACEPOINT, tracepoint, program)
        try:
            yield
        finally:
            os.close(link)
    finally:
        os.close(program)
