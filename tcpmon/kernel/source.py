"""The BPF module's C text: the files of tcpmon/bpf one behind the other, and the definitions that size them.

bcc rewrites map accesses in the main file only, so the files are joined rather than included; #line keeps the
compiler's messages pointing at them.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tcpmon.config.kinds import MAX_ITEMS

FOLDER = Path(__file__).parent.parent / "bpf"
FILES = (
    "uapi.h",
    "types.h",
    "maps.h",
    "flow.h",
    "filter.h",
    "histogram.h",
    "task.h",
    "events.h",
    "connection.h",
    "closer.bpf.c",
    "connect.bpf.c",
    "accept.bpf.c",
    "close.bpf.c",
    "state.bpf.c",
)
# What compiles and attaches it
MAKERS = ("source.py", "headers.py", "loader.py", "probes.py", "attach.py")
# Room for two configurations with every list full: the one in force and the next
FILTER_VALUES = 2 * 4 * 2 * MAX_ITEMS  # pid, netns, comm, uid; include and exclude
FILTER_NETWORKS = 2 * 2 * MAX_ITEMS
LEAVING = 4096  # label sets that are folded at a time
_IN_CONFIG = {
    "bounds": "metrics.buckets",
    "max_series": "metrics.max_series",
    "max_tracked": "connections.max_tracked",
    "ring_bytes": "events.buffer",
    "cgroup_map": "filters.cgroup_map",
    "mntns_map": "filters.mntns_map",
    "pins": "the map that filters.cgroup_map or filters.mntns_map names",
}
_MECHANISM_NUMBERS = {"fexit": 1, "fprobe": 2, "kretprobe": 3, "tracepoint": 4, "raw_tracepoint": 5}


@dataclass(frozen=True)
class Module:
    """What is fixed when the module is compiled. Bounds in nanoseconds, by histogram."""

    bounds: dict[str, tuple[int, ...]]
    max_series: int
    max_tracked: int
    ring_bytes: int
    cgroup_map: str | None = None
    mntns_map: str | None = None
    events: int = 0  # bits of enum event_kind: what can be put into the ring


def text() -> str:
    parts = ["#include <kernel_types.h>"]
    for name in FILES:
        parts += [f'#line 1 "{name}"', (FOLDER / name).read_text()]
    return "\n".join(parts)


def identity(module: Module, mechanisms: Mapping[str, str]) -> dict[str, Any]:
    """What a loaded module was made of on this kernel, for JSON: the same gives the same."""
    code = re.sub(r"//[^\n]*|^#line.*$", "", text(), flags=re.MULTILINE).split()
    makers = [(Path(__file__).parent / name).read_text() for name in MAKERS]
    made_of = [code, makers, dict(mechanisms)]
    digest = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
    pins = [_inode(path) for path in (module.cgroup_map, module.mntns_map)]
    return {"program": digest, "pins": pins, **json.loads(json.dumps(asdict(module)))}


def _inode(path: str | None) -> int | None:
    """Of a pinned map: another one may be there under the same name."""
    try:
        return os.stat(path).st_ino if path else None
    except OSError:
        return None  # what is wrong with it, compiling will tell


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """In an operator's words, what differs between two identities."""
    names = sorted({*old, *new} - {"program"})
    found = [_IN_CONFIG.get(name, name) for name in names if old.get(name) != new.get(name)]
    return found + ["the BPF program"] * (old.get("program") != new.get("program"))


def definitions(module: Module, mechanisms: dict[str, str], accept_arguments: int | None) -> list[str]:
    """Compiler flags."""
    values: dict[str, object] = {
        "MAX_SERIES": module.max_series,
        "LEAVING": LEAVING,
        "MAX_TRACKED": module.max_tracked,
        "FILTER_VALUES": FILTER_VALUES,
        "FILTER_NETWORKS": FILTER_NETWORKS,
        "MECHANISM_FEXIT": _MECHANISM_NUMBERS["fexit"],
        "MECHANISM_FPROBE": _MECHANISM_NUMBERS["fprobe"],
        "MECHANISM_KPROBE": _MECHANISM_NUMBERS["kretprobe"],
        "MECHANISM_TRACEPOINT": _MECHANISM_NUMBERS["tracepoint"],
        "STATE_MECHANISM": _MECHANISM_NUMBERS[mechanisms["state"]],
        "CONNECT_MECHANISM": _MECHANISM_NUMBERS[mechanisms["connect"]],
        "ACCEPT_MECHANISM": _MECHANISM_NUMBERS[mechanisms["accept"]],
        "INET_CSK_ACCEPT_ARGS": accept_arguments or 0,
        "EVENTS": module.events,
        "RING_PAGES": module.ring_bytes // mmap.PAGESIZE,
    }
    for name, path in (("CGROUP_MAP", module.cgroup_map), ("MNTNS_MAP", module.mntns_map)):
        if path:
            values[name] = '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'
    flags = [f"-D{name}={value}" for name, value in values.items()]
    for histogram, bounds in module.bounds.items():
        steps = " ".join(f"X({slot}, {bound})" for slot, bound in enumerate(bounds))
        flags += [
            f"-D{histogram.upper()}_BOUNDS(X)={steps}",
            f"-D{histogram.upper()}_SLOTS={len(bounds) + 1}",
        ]
    # Linux 7 embeds tagged structs without a member name. Debug information, which bcc asks for, is a quarter
    # of the compiler's time, and nobody reads it.
    warnings = ["-Wno-microsoft-anon-tag", "-Wno-address-of-packed-member"]
    return [*flags, "-g0", "-fms-extensions", *warnings]
