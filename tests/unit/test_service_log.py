"""The log's lines, in a terminal and for the journal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CODE = """
import logging
from tcpmon.service import log
log.begin()
logging.getLogger().setLevel(logging.DEBUG)
for level in ("debug", "info", "warning", "error"):
    getattr(logging, level)("%s\\nmore", level)
"""


def say(stderr: Path, **environment: str) -> str:
    with stderr.open("wb") as file:
        command = [sys.executable, "-c", CODE]
        subprocess.run(command, stderr=file, env={**os.environ, **environment}, check=True)
    return stderr.read_text()


def test_in_a_terminal(tmp_path: Path) -> None:
    lines = say(tmp_path / "stderr").splitlines()
    assert lines == [
        line for level in ("debug", "info", "warning", "error") for line in (f"tcpmon: {level}", "more")
    ]


def test_for_the_journal(tmp_path: Path) -> None:
    """Every line with its priority; the identifier is the journal's own affair."""
    stderr = tmp_path / "stderr"
    stderr.touch()
    status = stderr.stat()
    lines = say(stderr, JOURNAL_STREAM=f"{status.st_dev}:{status.st_ino}").splitlines()
    assert lines[:4] == ["<7>debug", "<7>more", "<6>info", "<6>more"]
    assert lines[4:] == ["<4>warning", "<4>more", "<3>error", "<3>more"]


def test_for_something_else_than_the_journal(tmp_path: Path) -> None:
    """A child's output that is redirected inherits the variable all the same."""
    assert say(tmp_path / "stderr", JOURNAL_STREAM="1:1").startswith("tcpmon: debug\n")
