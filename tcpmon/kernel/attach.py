"""Attaching a loaded BPF program to a hook, for each kind of hook, and the minimal programs that try one out.

Sources: bpf(2), perf_event_open(2), Documentation/trace/kprobetrace.rst.
"""

from __future__ import annotations

import ctypes as ct
import errno
import fcntl
import os
import platform
import struct
from pathlib import Path

from tcpmon.errors import KernelError
from tcpmon.kernel import btf, libbpf

RAW_TRACEPOINT, FENTRY, FEXIT, KPROBE, KRETPROBE, TRACEPOINT = (
    "raw_tracepoint",
    "fentry",
    "fexit",
    "kprobe",
    "kretprobe",
    "tracepoint",
)

# bpf_prog_type, and for tracing programs the attach type
_PROGRAM_TYPES = {
    RAW_TRACEPOINT: (17, 0),
    FENTRY: (26, 24),
    FEXIT: (26, 25),
    KPROBE: (2, 0),
    KRETPROBE: (2, 0),
    TRACEPOINT: (5, 0),
}
_SYSCALLS = {"x86_64": {"bpf": 321, "perf_event_open": 298}, "aarch64": {"bpf": 280, "perf_event_open": 241}}
_BPF_PROG_LOAD, _BPF_RAW_TRACEPOINT_OPEN = 5, 17
_PERF_IOC_ENABLE, _PERF_IOC_SET_BPF = 0x2400, 0x40042408
PERF_TYPE_TRACEPOINT = 2
_PERF_FLAG_FD_CLOEXEC = 8
_RETURN_0 = struct.pack("<QQ", 0xB7, 0x95)  # r0 = 0; exit
_LIBC = ct.CDLL(None, use_errno=True)
TRACEFS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))


def attach(kind: str, hook: str, program_fd: int) -> int:
    """Attaches a program; returns the descriptor that keeps it attached. OSError where the kernel refuses."""
    if kind == RAW_TRACEPOINT:
        return libbpf.attach_raw_tracepoint(hook, program_fd)
    if kind in (FENTRY, FEXIT):
        return _bpf(_BPF_RAW_TRACEPOINT_OPEN, struct.pack("<QI4x", 0, program_fd))
    if kind == TRACEPOINT:
        event = perf_event(PERF_TYPE_TRACEPOINT, tracepoint_id(hook))
    else:
        event = _kprobe_event(hook, kind == KRETPROBE)
    try:
        fcntl.ioctl(event, _PERF_IOC_SET_BPF, program_fd)
        fcntl.ioctl(event, _PERF_IOC_ENABLE, 0)
    except OSError:
        os.close(event)
        raise
    return event


def problem(kind: str, hook: str, types: btf.Btf) -> str | None:
    """Why a program of this kind cannot be attached to this hook here, found out by trying; else None."""
    try:
        if kind in (FENTRY, FEXIT) and types.find(hook, btf.KIND_FUNC) is None:
            return f"the kernel's BTF has no function {hook}"
        program = _load_minimal(kind, types.find(hook, btf.KIND_FUNC) or 0)
        try:
            os.close(attach(kind, hook, program))
        finally:
            os.close(program)
    except (OSError, KernelError) as error:
        return _reason(kind, error)
    return None


def _reason(kind: str, error: OSError | KernelError) -> str:
    if isinstance(error, KernelError):
        return error.message
    name = errno.errorcode.get(error.errno or 0, "?")
    if error.errno == errno.EPERM and os.geteuid() != 0:
        return (
            f"{name}: needs more capabilities (CAP_BPF, CAP_PERFMON; kprobes and tracepoints CAP_SYS_ADMIN)"
        )
    return f"the kernel refuses {kind} ({name})"


def _load_minimal(kind: str, function_id: int) -> int:
    program_type, attach_type = _PROGRAM_TYPES[kind]
    instructions, license_text = ct.create_string_buffer(_RETURN_0, 16), ct.create_string_buffer(b"GPL")
    # union bpf_attr for BPF_PROG_LOAD: prog_name is at 48, expected_attach_type at 68, attach_btf_id at 108
    attr = bytearray(112)
    struct.pack_into(
        "<IIQQ", attr, 0, program_type, 2, ct.addressof(instructions), ct.addressof(license_text)
    )
    struct.pack_into("<16s", attr, 48, b"tcpmon_try")
    struct.pack_into("<I", attr, 68, attach_type)
    struct.pack_into("<I", attr, 108, function_id if kind in (FENTRY, FEXIT) else 0)
    return _bpf(_BPF_PROG_LOAD, bytes(attr))


def _bpf(command: int, attr: bytes) -> int:
    buffer = ct.create_string_buffer(attr, len(attr))
    return _syscall("bpf", command, ct.byref(buffer), len(attr))


def _syscall(name: str, *arguments: object) -> int:
    numbers = _SYSCALLS.get(platform.machine())
    if numbers is None:
        raise KernelError(
            f"tcpmon does not know the machine {platform.machine()}", "x86_64 and aarch64 are supported"
        )
    result = int(_LIBC.syscall(ct.c_long(numbers[name]), *arguments))
    if result < 0:
        number = ct.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def perf_event(
    event_type: int, config: int, config1: int = 0, *, cpu: int = 0, sample_period: int = 1
) -> int:
    """A descriptor of an event of all processes on a CPU. OSError where the kernel refuses."""
    # struct perf_event_attr of 112 bytes (PERF_ATTR_SIZE_VER5): type, size, config, …, config1 at 56
    attr = ct.create_string_buffer(112)
    struct.pack_into("<IIQ", attr, 0, event_type, 112, config)
    struct.pack_into("<QQ", attr, 16, sample_period, 0)
    struct.pack_into("<Q", attr, 56, config1)
    return _syscall(
        "perf_event_open",
        ct.byref(attr),
        ct.c_int(-1),
        ct.c_int(cpu),
        ct.c_int(-1),
        ct.c_ulong(_PERF_FLAG_FD_CLOEXEC),
    )


def tracepoint_id(hook: str) -> int:
    """Its number for perf; `hook` is category:name. KernelError where there is none to be read."""
    category, name = hook.split(":")
    for root in TRACEFS:
        try:
            return int((root / "events" / category / name / "id").read_text())
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError:
            raise KernelError(f"{root} cannot be read", "run as root, or grant CAP_DAC_READ_SEARCH") from None
    raise KernelError(f"no tracepoint {hook}", "mount tracefs: mount -t tracefs tracefs /sys/kernel/tracing")


def _kprobe_event(function: str, on_return: bool) -> int:
    source = Path("/sys/bus/event_source/devices/kprobe/type")
    if not source.exists():
        raise KernelError("this kernel has no kprobes (CONFIG_KPROBE_EVENTS)")
    name = ct.create_string_buffer(function.encode())
    return perf_event(int(source.read_text()), int(on_return), ct.addressof(name))
