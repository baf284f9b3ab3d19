"""The log's lines, in a terminal and for the journal."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

BEGIN = """
import logging
from tcpmon.service import log
log.begin()
logging.getLogger().setLevel(logging.DEBUG)
"""
EACH = (
    BEGIN
    + """
for level in ("debug", "info", "warning", "error"):
    getattr(logging, level)("%s\\nmore", level)
"""
)
# Until the first is dropped, then until one gets through again
FLOOD = (
    BEGIN
    + """
handler = logging.getLogger().handlers[0]
number = 0
while not handler._dropped:
    number += 1
    logging.info("line %d", number)
print(number, flush=True)
input()
logging.info("over")
"""
)
PATIENCE_S = 20


def stream_of(fd: int) -> dict[str, str]:
    """The environment in which this descriptor is the journal's."""
    status = os.fstat(fd)
    return {**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}


def test_in_a_terminal(tmp_path: Path) -> None:
    """A child's output that is redirected inherits the journal's variable all the same."""
    stderr = tmp_path / "stderr"
    with stderr.open("wb") as file:
        environment = {**os.environ, "JOURNAL_STREAM": "1:1"}
        subprocess.run([sys.executable, "-c", EACH], stderr=file, env=environment, check=True)
    levels = ("debug", "info", "warning", "error")
    assert stderr.read_text().splitlines() == [
        line for level in levels for line in (f"tcpmon: {level}", "more")
    ]


def test_for_the_journal() -> None:
    """Every line with its priority; the identifier is the journal's own affair."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-c", EACH]
        subprocess.run(command, stderr=theirs, env=stream_of(theirs.fileno()), check=True)
        lines = ours.recv(65536).decode().splitlines()
    assert lines[:4] == ["<7>debug", "<7>more", "<6>info", "<6>more"]
    assert lines[4:] == ["<4>warning", "<4>more", "<3>error", "<3>more"]


def test_a_journal_that_takes_nothing() -> None:
    """Nobody waits for it; what it missed is told when it is back, and no line is two in one."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(PATIENCE_S)
        child = subprocess.Popen(
            [sys.executable, "-c", FLOOD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=theirs,
            env=stream_of(theirs.fileno()),
            text=True,
        )
        theirs.close()
        assert child.stdout is not None
        written = int(child.stdout.readline())
        ours.setblocking(False)
        text = ours.recv(1 << 24).decode()
        while text.count("\n") < written - 1 and len(text) < 1 << 24:
            try:
                text += ours.recv(1 << 24).decode()
            except BlockingIOError:
                break
        ours.setblocking(True)
        child.communicate("\n", timeout=PATIENCE_S)
        while piece := ours.recv(1 << 24):
            text += piece.decode()
    lines = [line for line in text.splitlines() if line]
    assert lines[-2:] == ["<4>1 lines were dropped", "<6>over"]
    assert all(line.startswith("<6>") for line in lines[:-2])
