"""The C helpers of tests/live/helpers, compiled once a session."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).parent.parent / "helpers"


@dataclass(frozen=True)
class Helpers:
    """The folder of compiled helpers."""

    folder: Path

    def named(self, helper: str, comm: str) -> str:
        """A path that runs `helper` (its source's stem) as a process called `comm`: the path's basename."""
        path = self.folder / comm
        path.symlink_to(self.folder / "bin" / helper)
        return str(path)


def build(folder: Path) -> Helpers:
    """Compile each tests/live/helpers/*.c into `folder`/bin."""
    (folder / "bin").mkdir()
    for source in sorted(SOURCES.glob("*.c")):
        command = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread"]
        subprocess.run([*command, str(source), "-o", str(folder / "bin" / source.stem)], check=True)
    return Helpers(folder)
