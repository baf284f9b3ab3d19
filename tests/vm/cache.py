"""What is made once and kept: root images, kernels, compiled initial file systems."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from tests.vm.console import say


def folder() -> Path:
    """$TCPMON_VM_CACHE, or ~/.cache/tcpmon-vm."""
    chosen = os.environ.get("TCPMON_VM_CACHE")
    path = Path(chosen) if chosen else Path.home() / ".cache" / "tcpmon-vm"
    path.mkdir(parents=True, exist_ok=True)
    return path


def made(name: str, ingredients: object, make: Callable[[Path], None]) -> Path:
    """A folder of the cache with what `make(folder)` puts there, made anew where the ingredients are others.

    It is whole or not there at all; an older one of the same name is removed.
    """
    digest = hashlib.sha256(repr(ingredients).encode()).hexdigest()[:12]
    path = folder() / f"{name}-{digest}"
    with (folder() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return path
        for old in folder().glob(f"{name}-{'?' * 12}*"):
            shutil.rmtree(old)
        say(f"{name}: is not in {folder()}, making it")
        start = time.monotonic()
        unfinished = path.with_name(path.name + ".unfinished")
        unfinished.mkdir()
        make(unfinished)
        unfinished.rename(path)
        say(f"{name}: made in {time.monotonic() - start:.0f} s")
    return path
