"""The running module, kept by systemd while no daemon runs: it traces on, and the next one takes it back.

The file descriptor store holds every map, program and link under a name of its own, and a manifest: a file in
memory that says what they are and of what they were made.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from typing import Any

from tcpmon.kernel import load
from tcpmon.kernel.load import MAX_FDS, Loaded
from tcpmon.kernel.source import Module, changes, identity
from tcpmon.service.manager import Manager

log = logging.getLogger(__name__)

MANIFEST = "manifest"
# One of ours has a few KB
_MAX_MANIFEST_BYTES = 1 << 20
_KINDS = ("map.", "program.", "link.")


def is_ours(name: str) -> bool:
    """Whether a descriptor of this name is one of the store's."""
    return name == MANIFEST or name.startswith(_KINDS)


def keep(manager: Manager, loaded: Loaded, module: Module, mechanisms: Mapping[str, str]) -> None:
    """Gives copies of all descriptors away. The manifest last: with it, all are there."""
    if not manager.present:
        return
    answer = load.describe(loaded)
    for name, fd in zip(_expected(answer), load.descriptors(loaded), strict=True):
        manager.keep(name, fd)
    text = json.dumps({"identity": identity(module, mechanisms), "answer": answer})
    fd = os.memfd_create("tcpmon-manifest")
    os.write(fd, text.encode())
    manager.keep(MANIFEST, fd)
    manager.wait()
    os.close(fd)


def take_back(
    manager: Manager, kept: Mapping[str, int], module: Module, mechanisms: Mapping[str, str]
) -> Loaded | None:
    """The module that was kept, or None: there is none, or not the one that this start would load. That is
    given up then, and the log says why."""
    if not kept:
        return None
    try:
        manifest = _read(kept[MANIFEST])
        differing = changes(manifest["identity"], identity(module, mechanisms))
        reason = " and ".join(differing) + " changed"
        if not differing:
            descriptors = [kept[name] for name in _expected(manifest["answer"])]
            loaded = load.described(manifest["answer"], descriptors)
            os.close(kept[MANIFEST])
            log.info("the BPF programs went on counting meanwhile: taken over")
            return loaded
    except (LookupError, TypeError, ValueError, AttributeError, OSError, RecursionError) as error:
        log.debug("the manifest: %r", error)
        reason = "they are not complete"
    log.warning("counting starts afresh; the counts that were kept cannot be taken over: %s", reason)
    _give_up(manager, kept)
    return None


def _expected(answer: Mapping[str, Any]) -> list[str]:
    """The names of a module's descriptors, in the loader's order."""
    return [
        *(f"map.{name}" for name in answer["maps"]),
        *(f"program.{name}" for name in answer["programs"]),
        *(f"link.{number}" for number in range(min(answer["links"], MAX_FDS))),
    ]


def _read(fd: int) -> Any:
    return json.loads(os.pread(fd, _MAX_MANIFEST_BYTES, 0))


def _give_up(manager: Manager, kept: Mapping[str, int]) -> None:
    """Links first: tracing ends before its maps go. The manifest before all, for a start that is cut off."""
    for name in sorted(kept, key=lambda name: (name != MANIFEST, not name.startswith("link."))):
        manager.forget(name)
        os.close(kept[name])
