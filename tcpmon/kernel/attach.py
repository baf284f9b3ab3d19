"""Attaching a BPF program to a hook, for each kind of hook, and the minimal programs that try one out.

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

from tcpmon import privileges
from tcpmon.errors import KernelError
from tcpmon.kernel import btf, libbpf

RAW_TRACEPOINT, FENTRY, FEXIT, FPROBE, FPROBE_RETURN, KPROBE, KRETPROBE, TRACEPOINT = (
    "raw_tracepoint",
    "fentry",
    "fexit",
    "fprobe",
    "fprobe_return",
    "kprobe",
    "kretprobe",
    "tracepoint",
)

# bpf_prog_type and bpf_attach_type; an fprobe's is BPF_TRACE_KPROBE_MULTI
_PROGRAM_TYPES = {
    RAW_TRACEPOINT: (17, 0),
    FENTRY: (26, 24),
    FEXIT: (26, 25),
    FPROBE: (2, 42),
    FPROBE_RETURN: (2, 42),
    KPROBE: (2, 0),
    KRETPROBE: (2, 0),
    TRACEPOINT: (5, 0),
}
_SYSCALLS = {"x86_64": {"bpf": 321, "perf_event_open": 298}, "aarch64": {"bpf": 280, "perf_event_open": 241}}
_BPF_PROG_LOAD, _BPF_RAW_TRACEPOINT_OPEN, _BPF_LINK_CREATE = 5, 17, 28
_KPROBE_MULTI_RETURN = 1
_INSTRUCTION_BYTES = 8
_PERF_IOC_ENABLE, _PERF_IOC_SET_BPF = 0x2400, 0x40042408
PERF_TYPE_TRACEPOINT = 2
# Since 6.14 (commit 4346ba160409) an fprobe notes each call in a stack of its task: as many as there are
_SAFE_FPROBE = "fprobe_fgraph_entry"
_PERF_FLAG_FD_CLOEXEC = 8
RETURN_0 = struct.pack("<QQ", 0xB7, 0x95)  # r0 = 0; exit
_LIBC = ct.CDLL(None, use_errno=True)
TRACEFS = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))


def attach(kind: str, hook: str, program_fd: int) -> int:
    """Attaches a program; returns the descriptor that keeps it attached. OSError where the kernel refuses."""
    if kind == RAW_TRACEPOINT:
        return libbpf.attach_raw_tracepoint(hook, program_fd)
    if kind in (FENTRY, FEXIT):
        return _bpf(_BPF_RAW_TRACEPOINT_OPEN, struct.pack("<QI4x", 0, program_fd))
    if kind in (FPROBE, FPROBE_RETURN):
        return _fprobe(hook, program_fd, _KPROBE_MULTI_RETURN if kind == FPROBE_RETURN else 0)
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
        function = function_id(kind, hook, types)
        if kind in (FENTRY, FEXIT) and not function:
            return f"the kernel's BTF has no function {hook}"
        if kind in (FPROBE, FPROBE_RETURN) and types.find(_SAFE_FPROBE, btf.KIND_FUNC) is None:
            return "this kernel has no fprobe, or one that may drop returns (before 6.14)"
        program = load(kind, "tcpmon_try", RETURN_0, function)
        try:
            os.close(attach(kind, hook, program))
        finally:
            os.close(program)
    except (OSError, KernelError) as error:
        return _reason(kind, error)
    return None


def function_id(kind: str, function: str, types: btf.Btf) -> int:
    """The BTF id of the function that an fentry or fexit is loaded for; 0 for the other kinds."""
    return types.find(function, btf.KIND_FUNC) or 0 if kind in (FENTRY, FEXIT) else 0


def _reason(kind: str, error: OSError | KernelError) -> str:
    if isinstance(error, KernelError):
        return "; ".join(filter(None, (error.message, error.hint)))
    name = errno.errorcode.get(error.errno or 0, "?")
    by_perf = kind in (TRACEPOINT, KPROBE, KRETPROBE)
    missing = privileges.missing("CAP_BPF", "CAP_PERFMON", *(["CAP_SYS_ADMIN"] if by_perf else []))
    if error.errno in (errno.EPERM, errno.EACCES) and missing:
        return f"{name}: grant {' and '.join(missing)}, or run as root"
    return f"the kernel refuses {kind} ({name})"


def load(
    kind: str, name: str, instructions: bytes, function: int = 0, log: ct.Array[ct.c_char] | None = None
) -> int:
    """Loads a program into the kernel; its descriptor. OSError where the verifier refuses it: `log` says why.

    `function` is as function_id has it.
    """
    program_type, attach_type = _PROGRAM_TYPES[kind]
    code = ct.create_string_buffer(instructions, len(instructions))
    license_text = ct.create_string_buffer(b"GPL")
    # union bpf_attr for BPF_PROG_LOAD: the log's level, size and place are at 24, prog_name at 48,
    # expected_attach_type at 68, attach_btf_id at 108
    attr = bytearray(112)
    count = len(instructions) // _INSTRUCTION_BYTES
    struct.pack_into("<IIQQ", attr, 0, program_type, count, ct.addressof(code), ct.addressof(license_text))
    if log is not None:
        struct.pack_into("<IIQ", attr, 24, 1, len(log), ct.addressof(log))
    struct.pack_into("<15s", attr, 48, name.encode())
    struct.pack_into("<I", attr, 68, attach_type)
    struct.pack_into("<I", attr, 108, function)
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


def _fprobe(function: str, program_fd: int, flags: int) -> int:
    name = ct.create_string_buffer(function.encode())
    names = (ct.c_void_p * 1)(ct.addressof(name))
    # union bpf_attr for BPF_LINK_CREATE: prog_fd, target_fd, attach_type, flags; at 16 are, of kprobe_multi,
    # flags, the number of names and where they are
    _, attach_type = _PROGRAM_TYPES[FPROBE]
    attr = struct.pack(
        "<IIIIIIQQQ", program_fd, 0, attach_type, 0, flags, len(names), ct.addressof(names), 0, 0
    )
    return _bpf(_BPF_LINK_CREATE, attr)


def _kprobe_event(function: str, on_return: bool) -> int:
    source = Path("/sys/bus/event_source/devices/kprobe/type")
    if not source.exists():
        raise KernelError("this kernel has no kprobes (CONFIG_KPROBE_EVENTS)")
    name = ct.create_string_buffer(function.encode())
    return perf_event(int(source.read_text()), int(on_return), ct.addressof(name))
