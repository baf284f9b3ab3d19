"""Those who forbid a process to connect before TCP hears of it: a security module, a cgroup's BPF program."""

from __future__ import annotations

import ctypes as ct
import os
import struct
from pathlib import Path

from tcpmon.kernel import attach

_LIBC = ct.CDLL(None, use_errno=True)
_PR_SET_NO_NEW_PRIVS = 38
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446
_LANDLOCK_ACCESS_NET_CONNECT_TCP = 1 << 1
_BPF_PROG_LOAD, _BPF_PROG_ATTACH = 5, 8
_CGROUP_SOCK_ADDR = 18
_CONNECTS = {"connect4": 10, "connect6": 11}  # enum bpf_attach_type


def by_landlock() -> None:
    """The calling thread, and what it starts, may connect nowhere: EACCES. Since Linux 6.7."""
    rules = struct.pack("<QQ", 0, _LANDLOCK_ACCESS_NET_CONNECT_TCP)
    ruleset = _call(_LIBC.syscall(_LANDLOCK_CREATE_RULESET, rules, ct.c_size_t(len(rules)), 0))
    _call(_LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _call(_LIBC.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def by_cgroup(group: Path) -> None:
    """Who is in this cgroup may connect nowhere: EPERM. The program goes with the cgroup."""
    folder = os.open(group, os.O_RDONLY | os.O_DIRECTORY)
    for kind in _CONNECTS.values():
        program = _load(kind)
        attach._bpf(_BPF_PROG_ATTACH, struct.pack("<IIII", folder, program, kind, 0))
        os.close(program)
    os.close(folder)


def _load(kind: int) -> int:
    """A program that says no to all; its descriptor."""
    code, license_text = ct.create_string_buffer(attach.RETURN_0), ct.create_string_buffer(b"GPL")
    attr = bytearray(112)  # as in attach.load
    struct.pack_into("<IIQQ", attr, 0, _CGROUP_SOCK_ADDR, 2, ct.addressof(code), ct.addressof(license_text))
    struct.pack_into("<I", attr, 68, kind)
    return attach._bpf(_BPF_PROG_LOAD, bytes(attr))


def _call(result: int) -> int:
    if result < 0:
        raise OSError(ct.get_errno(), os.strerror(ct.get_errno()))
    return result
