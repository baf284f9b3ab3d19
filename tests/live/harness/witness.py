"""Events of the kernel that no BPF program was shown: they excuse a test that has failed, and nothing else.

On the kernel that these tests were written on (6.18, a hypervisor's), softirqs that run on top of certain
threads of the host reach the probes of perf, and no BPF program; nor are they counted as skipped. The witness
counts changes of state twice: by perf, and by a BPF program of a few instructions that does nothing else.
Where the two agree, what tcpmon did not count is tcpmon's error. Debian's kernels, 5.10 to 7.x, hide none.
"""

from __future__ import annotations

import ctypes as ct
import os
import struct
from contextlib import ExitStack
from pathlib import Path

from tcpmon.kernel import attach, libbpf

from .polling import eventually

EVENT = "inet_sock_set_state"
_ARRAY = 2  # linux/bpf.h


def _instruction(code: int, to: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return struct.pack("=BBhi", code, source << 4 | to, offset, value)


def _counting(map_fd: int) -> bytes:
    """A program that adds 1, atomically, to the first value of an array."""
    return b"".join(
        (
            _instruction(0x18, to=1, source=2, value=map_fd),  # r1 = where the array's values are
            _instruction(0),  # the second half of that
            _instruction(0xB7, to=2, value=1),  # r2 = 1
            _instruction(0xDB, to=1, source=2),  # lock *(u64 *)(r1 + 0) += r2
            _instruction(0xB7, to=0),  # return 0
            _instruction(0x95),
        )
    )


def _open(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ct.get_errno(), f"{what}: {os.strerror(ct.get_errno())}")
    return result


def _counter(cpu: int) -> int:
    number = attach.tracepoint_id(f"sock:{EVENT}")
    return attach.perf_event(attach.PERF_TYPE_TRACEPOINT, number, cpu=cpu, sample_period=0)


class Witness:
    """Counts from its making to `close`."""

    def __init__(self) -> None:
        lib = libbpf.library()
        with ExitStack() as made:
            self._map = _open(lib.bpf_map_create(_ARRAY, b"witness", 4, 8, 1, None), "a map")
            made.callback(os.close, self._map)
            code = _counting(self._map)
            self._program = attach.load(attach.RAW_TRACEPOINT, "witness", code)
            made.callback(os.close, self._program)
            self._counters = [_counter(cpu) for cpu in sorted(_online())]
            for counter in self._counters:
                made.callback(os.close, counter)
            made.callback(os.close, libbpf.attach_raw_tracepoint(EVENT, self._program))
            self._made = made.pop_all()
        self._from_start = self._difference()

    def hidden(self) -> int:
        """How many events BPF was not shown so far."""
        return self._difference() - self._from_start

    def close(self) -> None:
        self._made.close()

    def _happened(self) -> int:
        return sum(int.from_bytes(os.read(counter, 8), "little") for counter in self._counters)

    def _difference(self) -> int:
        def once() -> int:
            before = self._happened()
            seen = libbpf.lookup(self._map, bytes(4), 8)
            misses = int(libbpf.program_info(self._program).recursion_misses)
            assert self._happened() == before  # in the midst of events the two cannot be compared
            assert seen is not None
            return before - int.from_bytes(seen, "little") - misses

        return eventually(once)


def _online() -> set[int]:
    cpus: set[int] = set()
    for part in Path("/sys/devices/system/cpu/online").read_text().strip().split(","):
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return cpus
