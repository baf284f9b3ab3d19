"""The part of libbpf that tcpmon uses, through ctypes: maps by descriptor, links, object info.

Each function raises OSError with the kernel's errno. Nothing here needs a capability once a descriptor is
held (Linux 5.19 and later; before, reading a map asks for CAP_BPF).
"""

from __future__ import annotations

import ctypes as ct
import errno
import os
from collections.abc import Iterator
from functools import cache

from tcpmon.errors import KernelError

ANY, NOEXIST = 0, 1
_MAP_TYPE_HASH = 1
_FIRST_BATCH = 512


class _MapInfo(ct.Structure):
    """struct bpf_map_info of linux/bpf.h, as far as used."""

    _fields_ = [
        ("type", ct.c_uint32),
        ("id", ct.c_uint32),
        ("key_size", ct.c_uint32),
        ("value_size", ct.c_uint32),
        ("max_entries", ct.c_uint32),
        ("map_flags", ct.c_uint32),
        ("name", ct.c_char * 16),
    ]


class ProgramInfo(ct.Structure):
    """struct bpf_prog_info of linux/bpf.h up to recursion_misses (5.12); what a kernel lacks stays 0."""

    _fields_ = [
        ("type", ct.c_uint32),
        ("id", ct.c_uint32),
        ("tag", ct.c_uint8 * 8),
        ("jited_prog_len", ct.c_uint32),
        ("xlated_prog_len", ct.c_uint32),
        ("jited_prog_insns", ct.c_uint64),
        ("xlated_prog_insns", ct.c_uint64),
        ("load_time", ct.c_uint64),
        ("created_by_uid", ct.c_uint32),
        ("nr_map_ids", ct.c_uint32),
        ("map_ids", ct.c_uint64),
        ("name", ct.c_char * 16),
        ("ifindex", ct.c_uint32),
        ("flags", ct.c_uint32),
        ("netns_dev", ct.c_uint64),
        ("netns_ino", ct.c_uint64),
        ("nr_jited_ksyms", ct.c_uint32),
        ("nr_jited_func_lens", ct.c_uint32),
        ("jited_ksyms", ct.c_uint64),
        ("jited_func_lens", ct.c_uint64),
        ("btf_id", ct.c_uint32),
        ("func_info_rec_size", ct.c_uint32),
        ("func_info", ct.c_uint64),
        ("nr_func_info", ct.c_uint32),
        ("nr_line_info", ct.c_uint32),
        ("line_info", ct.c_uint64),
        ("jited_line_info", ct.c_uint64),
        ("nr_jited_line_info", ct.c_uint32),
        ("line_info_rec_size", ct.c_uint32),
        ("jited_line_info_rec_size", ct.c_uint32),
        ("nr_prog_tags", ct.c_uint32),
        ("prog_tags", ct.c_uint64),
        ("run_time_ns", ct.c_uint64),
        ("run_cnt", ct.c_uint64),
        ("recursion_misses", ct.c_uint64),
    ]


@cache
def library() -> ct.CDLL:
    """libbpf, of the series 1 or 0. KernelError where there is none."""
    for name in ("libbpf.so.1", "libbpf.so.0"):
        try:
            found = ct.CDLL(name, use_errno=True)
        except OSError:
            continue
        found.libbpf_set_print(None)  # what fails is told by who asked for it
        return found
    raise KernelError("libbpf is not installed", "install it: apt install libbpf1 (Ubuntu 22.04: libbpf0)")


def _check(result: int, what: str) -> int:
    """libbpf before 1.0 returns -1 and sets errno; from 1.0 on it returns -errno and sets errno."""
    if result >= 0:
        return result
    number = ct.get_errno() or -result
    raise OSError(number, f"{what}: {os.strerror(number)}")


def update(fd: int, key: bytes, value: bytes, flags: int = ANY) -> None:
    _check(library().bpf_map_update_elem(fd, key, value, ct.c_uint64(flags)), "updating a BPF map")


def lookup(fd: int, key: bytes, value_size: int) -> bytes | None:
    """The value of a key, or None. For a per-CPU map `value_size` is that of all CPUs' values together."""
    value = ct.create_string_buffer(value_size)
    if library().bpf_map_lookup_elem(fd, key, value) < 0:
        if ct.get_errno() == errno.ENOENT:
            return None
        _check(-1, "reading a BPF map")
    return value.raw


def delete(fd: int, key: bytes) -> bool:
    """Removes a key; False where there was none."""
    if library().bpf_map_delete_elem(fd, key) < 0:
        if ct.get_errno() == errno.ENOENT:
            return False
        _check(-1, "deleting from a BPF map")
    return True


def keys(fd: int, key_size: int) -> Iterator[bytes]:
    """The keys of a map. Deleting the one just given is safe."""
    following = ct.create_string_buffer(key_size)
    current: bytes | None = None
    while library().bpf_map_get_next_key(fd, current, following) == 0:
        previous, current = current, following.raw
        if previous == current:
            return
        yield current
    if ct.get_errno() != errno.ENOENT:
        _check(-1, "listing the keys of a BPF map")


def read_batches(fd: int, key_size: int, value_size: int) -> Iterator[tuple[bytes, bytes]]:
    """All entries of a hash: keys and values of a batch, packed one behind the other.

    A bucket larger than the batch answers ENOSPC (bcc #5273): the batch is then made larger and tried again.
    """
    size = _FIRST_BATCH
    token: ct.Array[ct.c_char] | None = None
    # The kernel puts a u32 bucket index, or a key, into the token.
    token_size = max(key_size, 4)
    while True:
        next_token = ct.create_string_buffer(token_size)
        key_buffer = ct.create_string_buffer(key_size * size)
        value_buffer = ct.create_string_buffer(value_size * size)
        count = ct.c_uint32(size)
        failed = library().bpf_map_lookup_batch(
            fd, token, next_token, key_buffer, value_buffer, ct.byref(count), None
        )
        number = ct.get_errno() if failed < 0 else 0
        if number == errno.ENOSPC:
            size *= 2
            continue
        if number not in (0, errno.ENOENT):
            _check(-1, "reading a BPF map in batches")
        if count.value:
            yield (
                ct.string_at(key_buffer, count.value * key_size),
                ct.string_at(value_buffer, count.value * value_size),
            )
        if number == errno.ENOENT:
            return
        token = next_token


def write_array(fd: int, first: int, value_size: int, values: bytes) -> None:
    """Writes consecutive entries of an array map, from index `first` on."""
    count = len(values) // value_size
    indexes = (ct.c_uint32 * count)(*range(first, first + count))
    number = ct.c_uint32(count)
    _check(
        library().bpf_map_update_batch(fd, indexes, values, ct.byref(number), None),
        "writing a BPF map in batches",
    )


def program_info(fd: int) -> ProgramInfo:
    info = ProgramInfo()
    size = ct.c_uint32(ct.sizeof(info))
    _check(library().bpf_obj_get_info_by_fd(fd, ct.byref(info), ct.byref(size)), "asking for a BPF program")
    return info


def attach_raw_tracepoint(name: str, program_fd: int) -> int:
    """Attaches, and returns the descriptor that keeps it attached."""
    what = f"attaching to the raw tracepoint {name}"
    return _check(library().bpf_raw_tracepoint_open(name.encode(), program_fd), what)


def pinned_map_problem(path: str) -> str | None:
    """What is wrong with a map pinned by others for use as a filter (a hash, 8-byte keys); else None."""
    fd = library().bpf_obj_get(os.fsencode(path))
    if fd < 0:
        why = os.strerror(ct.get_errno())
        return (
            f"cannot be opened as a pinned BPF map ({why}); those are on a BPF file system, as /sys/fs/bpf is"
        )
    try:
        info = _MapInfo()
        size = ct.c_uint32(ct.sizeof(info))
        if library().bpf_obj_get_info_by_fd(fd, ct.byref(info), ct.byref(size)) < 0:
            return f"is not a BPF map ({os.strerror(ct.get_errno())})"
    finally:
        os.close(fd)
    if info.type != _MAP_TYPE_HASH:
        return (
            f"is a BPF map of type {info.type}, not a hash (`bpftool map create … type hash key 8 value 8`)"
        )
    if info.key_size != 8:
        return f"has keys of {info.key_size} bytes; 8 are needed (`bpftool map create … key 8 value 8`)"
    return None
