"""What is going on, a line each, with the seconds since the start; commands that must succeed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_start = time.monotonic()


class VmError(Exception):
    """Something around the tests failed: a download, an image, a boot. The message is for people."""


def say(what: str) -> None:
    print(f"vm [{time.monotonic() - _start:5.0f} s] {what}", file=sys.stderr, flush=True)


def run(command: Sequence[str | Path], **how: object) -> str:
    """Runs it to its end; its output. VmError with the end of what it said where it fails."""
    try:
        done = subprocess.run(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            **how,  # type: ignore[call-overload]
        )
    except FileNotFoundError:
        raise VmError(f"{command[0]} is not installed: run deploy/packages.sh vm") from None
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-20:])
        raise VmError(f"{' '.join(map(str, command[:6]))} … ended with {done.returncode}\n{tail}")
    return str(done.stdout)
