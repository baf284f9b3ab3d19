"""Which slot a duration falls in: the BPF module's own C, compiled for this machine and called."""

from __future__ import annotations

import ctypes as ct
import subprocess
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tcpmon import config, daemon
from tcpmon.kernel import source
from tcpmon.kernel.source import Module

HISTOGRAMS = ("connect_latency", "accept_wait", "connection_duration")
MECHANISMS = {"state": "raw_tracepoint", "connect": "tracepoint", "accept": "tracepoint"}
_DEFAULT = config.load(None)
_BUCKETS = _DEFAULT.metrics.buckets
# In seconds, as the configuration has them
BOUNDS: Mapping[str, Mapping[str, Sequence[float]]] = {
    "default": {name: getattr(_BUCKETS, name) for name in HISTOGRAMS},
    "one each": {
        "connect_latency": (0.000001,),
        "accept_wait": (1.0,),
        "connection_duration": (315_360_000.0,),
    },
    "odd": {
        "connect_latency": (0.000001, 0.0000010010, 0.1 + 0.2, 4.294967295, 4.294967296, 10.1),
        "accept_wait": (0.3, 1 / 3, 2 / 3),
        "connection_duration": tuple(number / 7 for number in range(1, 65)),
    },
}
Slot = Callable[[int], int]

# Stands in for the kernel's headers; the functions are inline, so they are given a symbol here.
TEXT = """
#include "linux/types.h"
#include "histogram.h"
u32 connect_latency(u64 ns) { return connect_latency_slot(ns); }
u32 accept_wait(u64 ns) { return accept_wait_slot(ns); }
u32 connection_duration(u64 ns) { return connection_duration_slot(ns); }
u32 slots[] = { CONNECT_LATENCY_SLOTS, ACCEPT_WAIT_SLOTS, CONNECTION_DURATION_SLOTS };
"""


def module(which: str) -> Module:
    """As the daemon makes it of the configuration."""
    buckets = replace(_BUCKETS, **BOUNDS[which])
    return daemon.module(replace(_DEFAULT, metrics=replace(_DEFAULT.metrics, buckets=buckets)))


def compile_library(found: Module, path: Path) -> ct.CDLL:
    flags = [flag for flag in source.definitions(found, MECHANISMS, None) if flag.startswith("-D")]
    folders = ["-nostdinc", "-I", str(source.FOLDER / "include"), "-I", str(source.FOLDER)]
    command = ["gcc", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", *flags, *folders, "-x", "c", "-"]
    subprocess.run([*command, "-o", str(path)], input=TEXT, text=True, check=True)
    return ct.CDLL(str(path))


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, ct.CDLL]:
    folder = tmp_path_factory.mktemp("histograms")
    return {
        which: compile_library(module(which), folder / f"{number}.so") for number, which in enumerate(BOUNDS)
    }


@pytest.fixture(params=[(which, name) for which in BOUNDS for name in HISTOGRAMS], ids=" ".join)
def case(request: pytest.FixtureRequest, libraries: Mapping[str, ct.CDLL]) -> tuple[Slot, tuple[int, ...]]:
    """The function of a histogram, and its bounds in nanoseconds."""
    which, name = request.param
    function = getattr(libraries[which], name)
    function.argtypes, function.restype = [ct.c_uint64], ct.c_uint32
    return function, tuple(round(bound * 10**9) for bound in BOUNDS[which][name])


def test_on_a_bound_and_beside_it(case: tuple[Slot, tuple[int, ...]]) -> None:
    slot, bounds = case
    for number, bound in enumerate(bounds):
        assert [slot(bound - 1), slot(bound), slot(bound + 1)] == [
            bisect_left(bounds, bound - 1),
            number,
            bisect_left(bounds, bound + 1),
        ]


def test_one_ns_more_is_in_the_next(case: tuple[Slot, tuple[int, ...]]) -> None:
    slot, bounds = case
    assert [slot(bound + 1) for bound in bounds] == [number + 1 for number in range(len(bounds))]


def test_the_ends(case: tuple[Slot, tuple[int, ...]]) -> None:
    slot, bounds = case
    assert slot(0) == slot(1) == 0
    assert [slot(bounds[-1] + 1), slot(2**63), slot(2**64 - 1)] == [len(bounds)] * 3


@pytest.mark.parametrize("which", BOUNDS)
def test_there_are_as_many_slots_as_bounds_and_one(which: str, libraries: Mapping[str, ct.CDLL]) -> None:
    slots = (ct.c_uint32 * 3).in_dll(libraries[which], "slots")
    assert list(slots) == [len(BOUNDS[which][name]) + 1 for name in HISTOGRAMS]


def test_bounds_come_in_whole_nanoseconds() -> None:
    """Doubles that cannot say a bound exactly are rounded, not cut: 0.3 s is 300,000,000 ns, not one less."""
    assert module("odd").bounds["accept_wait"] == (300_000_000, 333_333_333, 666_666_667)
    assert module("default").bounds["connect_latency"][:4] == (100_000, 250_000, 500_000, 1_000_000)
    assert module("default").bounds["connection_duration"][-1] == 86_400 * 10**9
