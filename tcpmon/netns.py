"""Names for network namespaces, by inum: those that `ip netns` keeps, and the one that tcpmon is in."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

NAMED = Path("/run/netns")
OWN = Path("/proc/self/ns/net")


def names(folder: Path = NAMED, own: Path = OWN) -> Mapping[int, str]:
    """Inum to name. A namespace without a name is not in it; of several names the alphabet's first counts.
    Where the folder may not be read, nobody has a name."""
    found: dict[int, str] = {}
    device = None
    if own.exists():
        device = own.stat().st_dev
        found[own.stat().st_ino] = "self"
    try:
        entries = sorted(os.listdir(folder), reverse=True)
    except OSError:
        return found
    for name in entries:
        with contextlib.suppress(OSError):  # deleted meanwhile
            stat = (folder / name).stat()
            if device in (None, stat.st_dev):  # else a mere file, on which no namespace is mounted (any more)
                found[stat.st_ino] = os.fsencode(name).decode(errors="backslashreplace")
    return found
