"""Machines with too little room: wrappers that a command is run with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.netns import sh
from harness.require import require

Wrapper = list[str]
_CGROUPS = Path("/sys/fs/cgroup")
_READ_ONLY = "for d in /tmp /var/tmp; do mount --bind $d $d && mount -o remount,ro,bind $d; done; cd /proc"


def without_temporary_folders() -> Wrapper:
    """Nowhere can a temporary file be made."""
    return _within_mounts(_READ_ONLY)


def with_temporary_folder_of(size: str) -> Wrapper:
    """Temporary files go to a file system of that size."""
    return _within_mounts(f"mount -t tmpfs -o size={size} none /mnt; export TMPDIR=/mnt")


def _within_mounts(script: str) -> Wrapper:
    return ["unshare", "--mount", "sh", "-ec", f'{script}; exec "$@"', "sh"]


def with_address_space_of(size: int) -> Wrapper:
    return ["prlimit", f"--as={size}"]


@contextmanager
def with_memory_of(size: int) -> Iterator[Wrapper]:
    """In a cgroup of its own."""
    root, name = _memory_controller()
    group = root / "tcpmon-test"
    group.mkdir()
    try:
        (group / name).write_text(str(size))
        yield ["sh", "-ec", f'echo $$ >{group}/cgroup.procs; exec "$@"', "sh"]
    finally:
        group.rmdir()


def _memory_controller() -> tuple[Path, str]:
    """The folder for cgroups, and the name of the limit's file: of version 2, else of version 1."""
    controllers = _CGROUPS / "cgroup.subtree_control"
    if controllers.exists() and "memory" in controllers.read_text().split():
        return _CGROUPS, "memory.max"
    require((_CGROUPS / "memory").is_dir(), "no memory controller in /sys/fs/cgroup")
    return _CGROUPS / "memory", "memory.limit_in_bytes"


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A file system of that size, at a folder that is not there yet."""
    place.mkdir()
    sh(f"mount -t tmpfs -o size={size},mode=755 none {place}")
    try:
        yield place
    finally:
        sh(f"umount --lazy {place}")


def fill(place: Path) -> Path:
    """A file that takes all that is left."""
    path = place / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1))
        except OSError:
            return path
