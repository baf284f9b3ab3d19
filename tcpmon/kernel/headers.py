"""The header tree that bcc compiles against, not the kernel's: stubs, and the running kernel's types."""

from __future__ import annotations

import itertools
import re
import shutil
from pathlib import Path

from tcpmon.errors import KernelError
from tcpmon.kernel import btf

STUBS = Path(__file__).parent.parent / "bpf" / "include"

# Each struct that the BPF code looks into, with the members that it uses.
USED: dict[str, tuple[str, ...]] = {
    "sock_common": (
        "skc_daddr",
        "skc_rcv_saddr",
        "skc_dport",
        "skc_num",
        "skc_family",
        "skc_state",
        "skc_net",
        "skc_v6_daddr",
        "skc_v6_rcv_saddr",
        "skc_flags",
    ),
    "sock": (
        "__sk_common",
        "sk_socket",
        "sk_protocol",
        "sk_err",
        "sk_err_soft",
        "sk_shutdown",
        "sk_lock.owned",
    ),
    "inet_sock": ("inet_sport",),
    "inet_connection_sock": ("icsk_retransmits",),
    "tcp_sock": (
        "bytes_acked",
        "bytes_received",
        "total_retrans",
        "snd_una",
        "write_seq",
        "packets_out",
        "segs_in",
    ),
    "socket": ("state", "sk", "file"),
    "file": ("private_data",),
    "fdtable": ("max_fds", "fd"),
    "files_struct": ("fdt",),
    "task_struct": ("group_leader", "comm", "files", "flags", "nsproxy"),
    "net": ("ns",),
    "nsproxy": ("mnt_ns",),
    "mnt_namespace": ("ns",),
    "ns_common": ("inum",),
    "sockaddr_in": ("sin_addr",),
    "sockaddr_in6": ("sin6_family", "sin6_port", "sin6_addr"),
    "syscall_trace_enter": ("args",),
    "syscall_trace_exit": ("ret",),
}
# What a kernel may be built without; each has its HAVE_… in the code.
OPTIONAL = {"mptcp_sock": ("first",)}
# A file's count of references: from 6.13 on, and before.
FILE_COUNTS = ("f_ref", "f_count")
_ENUMS = ("sock_flags",)


def write_tree(folder: Path, types: btf.Btf) -> None:
    """Makes a tree that bcc accepts as BCC_KERNEL_SOURCE, with the running kernel's types in kernel_types.h.

    Raises KernelError where the kernel has no BTF or lacks something in it.
    """
    include = folder / "include"
    shutil.copytree(STUBS, include)
    (include / "kernel_types.h").write_text(kernel_types(types))


def used_here(types: btf.Btf) -> dict[str, tuple[str, ...]]:
    """The structs and members that the BPF code looks into on this kernel."""
    optional = {name: members for name, members in OPTIONAL.items() if types.has_struct(name)}
    count = tuple(name for name in FILE_COUNTS if types.offset("file", name) is not None)
    return USED | optional | {"file": USED["file"] + count}


def kernel_types(types: btf.Btf) -> str:
    """C text: the types, and assertions that the compiler lays each used member out as the kernel has it.

    The assertions are a must: Linux 7 embeds tagged structs without a member name, which a compiler without
    -fms-extensions drops with a warning, and all that follows moves.
    """
    present = used_here(types)
    wanted = [(name, btf.KIND_STRUCT) for name in present] + [(name, btf.KIND_ENUM) for name in _ENUMS]
    parts = ["#pragma once", "#include <linux/types.h>", _plain_padding(types.c_text(wanted))]
    parts += [f"#define HAVE_{name.removesuffix('_sock').upper()}" for name in present if name in OPTIONAL]
    parts += [f"#define HAVE_{name.upper()}" for name in present["file"] if name in FILE_COUNTS]
    for struct, members in present.items():
        parts.append(f'_Static_assert(sizeof(struct {struct}) == {types.size(struct)}, "struct {struct}");')
        parts += [_assertion(types, struct, member) for member in members]
    return "\n".join(parts) + "\n"


def _plain_padding(text: str) -> str:
    """Padding as members, where libbpf writes unnamed bit fields of 64 bits, for their alignment.

    Of several `long: 64` in a row clang 14 makes one integer, aligned to 16: what follows moves in the code
    that it makes, though __builtin_offsetof says otherwise (task_struct of 5.10, behind sched_entity).
    """
    numbers = itertools.count(1)
    return re.sub(r"\blong: 64;", lambda _match: f"long __pad{next(numbers)};", text)


def _assertion(types: btf.Btf, struct: str, member: str) -> str:
    offset = types.offset(struct, member)
    if offset is None:
        raise KernelError(
            f"this kernel's struct {struct} has no {member}",
            "it is newer than tcpmon knows: please report it with `uname -r`",
        )
    return f'_Static_assert(__builtin_offsetof(struct {struct}, {member}) == {offset}, "{struct}.{member}");'
