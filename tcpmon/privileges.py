"""Giving up privilege once the descriptors are held. Sources: capabilities(7), prctl(2), bpf(2)."""

from __future__ import annotations

import ctypes as ct
import errno
import logging
import os
import pwd
from collections.abc import Callable

from tcpmon.errors import KernelError

log = logging.getLogger(__name__)

USER = "tcpmon"
_CAP_SETPCAP, _CAP_SYS_ADMIN, _CAP_PERFMON, _CAP_BPF = 8, 21, 38, 39
_NEEDED = {"CAP_BPF": _CAP_BPF, "CAP_PERFMON": _CAP_PERFMON, "CAP_SYS_ADMIN": _CAP_SYS_ADMIN}
_LAST_POSSIBLE_CAP = 63
_PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 4, 8, 24, 38
_VERSION_3 = 0x20080522
_LIBC = ct.CDLL(None, use_errno=True)


class _Header(ct.Structure):
    _fields_ = [("version", ct.c_uint32), ("pid", ct.c_int)]


class _Data(ct.Structure):
    _fields_ = [("effective", ct.c_uint32), ("permitted", ct.c_uint32), ("inheritable", ct.c_uint32)]


def require() -> None:
    """KernelError unless this process may load and attach BPF programs."""
    if lacking := missing("CAP_BPF", "CAP_PERFMON"):
        who = "not root, and without" if os.geteuid() else "root without"
        raise KernelError(
            f"too little privilege to trace: {who} {' and '.join(lacking)}",
            "run as root; a service needs CAP_BPF and CAP_PERFMON, for kprobes or tracepoints CAP_SYS_ADMIN, "
            "and CAP_DAC_READ_SEARCH to find these",
        )


def missing(*names: str) -> list[str]:
    """Of some capabilities those that this process does not have; CAP_SYS_ADMIN stands for all of them."""
    held = _capabilities()[0]
    return [name for name in names if not held & (1 << _NEEDED[name] | 1 << _CAP_SYS_ADMIN)]


def drop(still_works: Callable[[], object]) -> None:
    """Gives up root (where a `tcpmon` user exists) and every capability, for good.

    `still_works` reads a BPF map, and raises PermissionError where the kernel (before 5.19) asks for CAP_BPF
    even to read through a descriptor: that one is kept there. To be called before a thread is started.
    """
    permitted = _capabilities()[1]
    _drop_bounding_set(permitted)
    _become_user()
    _set_capabilities(effective=0, permitted=permitted)
    keep = 0
    try:
        still_works()
    except PermissionError:
        keep = permitted & 1 << _CAP_BPF
        log.info("this kernel reads BPF maps only with CAP_BPF: keeping it, and nothing else")
    _set_capabilities(effective=keep, permitted=keep)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    # Changing the user makes /proc/self unreadable, which process_open_fds needs
    _prctl(_PR_SET_DUMPABLE, 1)


def _become_user() -> None:
    if os.geteuid() != 0:
        return
    try:
        user = pwd.getpwnam(USER)
    except KeyError:
        return
    _prctl(_PR_SET_KEEPCAPS, 1)
    try:
        os.setgroups([])
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    except PermissionError:
        raise KernelError(
            f"root may not become the user {USER} here: that takes CAP_SETUID and CAP_SETGID",
            f"run as {USER} (a unit: User={USER}), or grant these two",
        ) from None


def _drop_bounding_set(permitted: int) -> None:
    if not permitted & 1 << _CAP_SETPCAP:
        return  # nothing can be regained without it anyway: no_new_privs follows
    for capability in range(_LAST_POSSIBLE_CAP + 1):
        if _LIBC.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) < 0 and ct.get_errno() == errno.EINVAL:
            return  # past the last one that this kernel knows


def _capabilities() -> tuple[int, int]:
    """Effective and permitted."""
    header, data = _Header(_VERSION_3, 0), (_Data * 2)()
    _check(_LIBC.capget(ct.byref(header), data), "capget")
    low, high = data
    return low.effective | high.effective << 32, low.permitted | high.permitted << 32


def _set_capabilities(effective: int, permitted: int) -> None:
    header, data = _Header(_VERSION_3, 0), (_Data * 2)()
    for word in (0, 1):
        data[word].effective = effective >> 32 * word & 0xFFFFFFFF
        data[word].permitted = permitted >> 32 * word & 0xFFFFFFFF
    _check(_LIBC.capset(ct.byref(header), data), "capset")


def _prctl(option: int, argument: int) -> None:
    _check(_LIBC.prctl(option, ct.c_ulong(argument), ct.c_ulong(0), ct.c_ulong(0), ct.c_ulong(0)), "prctl")


def _check(result: int, what: str) -> None:
    if result < 0:
        raise OSError(ct.get_errno(), f"{what}: {os.strerror(ct.get_errno())}")
