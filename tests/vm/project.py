"""The second disk: the project as it is in the work tree, its package, and what starts the tests."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

from tests.vm.console import VmError, run, say
from tests.vm.image import ext4
from tests.vm.parts import PARTS

ROOT = Path(__file__).parents[2]
# The guest's side of UNIT (image.py)
START = """\
#!/bin/sh
# The loader looks for tcpmon where python itself looks; a package that is installed goes first
echo /srv/project >/usr/lib/python3/dist-packages/tcpmon-tests.pth
cd /srv/project && exec python3 -m tests.vm.guest
"""

_building = threading.Lock()  # for all machines in one place


def disk(folder: Path, machine: str, debian: str, parts: list[str]) -> Path:
    """Makes the image in `folder`; it is mounted at /srv."""
    tree = folder / "srv"
    _copy(tree / "project")
    if any(PARTS[part].with_package for part in parts):
        _package(tree / "debs")
    order = {"machine": machine, "debian": debian, "parts": parts}
    (tree / "order.json").write_text(json.dumps(order))
    (tree / "start").write_text(START)
    (tree / "start").chmod(0o755)
    return ext4(tree, folder / "srv.img", free_mib=512)


def _copy(into: Path) -> None:
    """What git knows of, and what is new and not ignored."""
    listed = run(["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"])
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, into / name)


def _package(into: Path) -> None:
    into.mkdir(parents=True)
    with _building:
        say("building the package")
        run([ROOT / "deploy/build-deb.sh"], cwd=ROOT)
        built = sorted((ROOT / "dist").glob("tcpmon_*_all.deb"), key=lambda path: path.stat().st_mtime)
        if not built:
            raise VmError("deploy/build-deb.sh left no dist/tcpmon_*_all.deb")
        shutil.copy(built[-1], into)


def limit_s(parts: list[str]) -> int:
    """How long a machine may take for these, its start included."""
    return 300 + sum(PARTS[part].limit_s + 30 for part in parts)
