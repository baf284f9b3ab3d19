"""The tests chosen for the virtual machines are there: one that was renamed shows before a machine starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.vm.parts import PARTS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("part", ["fexit", "live"])
def test_every_one_is_found(part: str) -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, *PARTS[part].tests], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
