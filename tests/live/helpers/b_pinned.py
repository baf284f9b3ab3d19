"""Pinned BPF maps and cgroups, made as an operator would make them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from harness.netns import sh
from harness.polling import eventually

BPFFS = Path("/sys/fs/bpf")


def _bytes(number: int, size: int) -> str:
    return " ".join(map(str, number.to_bytes(size, "little")))


class PinnedMap:
    """A hash with 8-byte keys pinned at `path`, unpinned at the end."""

    def __init__(self, path: Path, *, key_size: int = 8, value_size: int = 8) -> None:
        self.path, self._key_size, self._value_size = path, key_size, value_size
        sizes = f"key {key_size} value {value_size}"
        sh(f"bpftool map create {path} type hash {sizes} entries 64 name tcpmon_test")

    def add(self, number: int) -> None:
        value = _bytes(0, self._value_size)
        sh(f"bpftool map update pinned {self.path} key {_bytes(number, self._key_size)} value {value}")

    def remove(self, number: int) -> None:
        sh(f"bpftool map delete pinned {self.path} key {_bytes(number, self._key_size)}")

    def __enter__(self) -> PinnedMap:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.path.unlink()


@contextmanager
def bpffs() -> Iterator[Path]:
    """A folder of a BPF file system, which is mounted for the while if it is not."""
    mounted = os.path.ismount(BPFFS)
    if not mounted:
        sh(f"mount -t bpf bpf {BPFFS}")
    try:
        yield BPFFS
    finally:
        if not mounted:
            sh(f"umount -l {BPFFS}")


def _cgroup2() -> Path:
    mounts = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    return next(Path(where) for _, where, kind, *_ in mounts if kind == "cgroup2")


@contextmanager
def cgroup(name: str) -> Iterator[Path]:
    """A cgroup (version 2) of its own; its inode number is its id."""
    group = _cgroup2() / f"tcpmon-{os.getpid()}-{name}"
    group.mkdir()
    try:
        yield group
    finally:
        eventually(lambda: _remove(group))


def _remove(group: Path) -> None:
    """Fails while the last processes in it are on their way out."""
    try:
        group.rmdir()
    except OSError as error:
        raise AssertionError(f"{group}: {error}") from error
