"""Where the log goes: stderr, each line's priority in front where the journal reads it (sd-daemon(3))."""

from __future__ import annotations

import logging
import os
import socket
import sys

_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7))


def begin() -> None:
    """Sets the root logger up, at level info. A line that a full disk does not take is no program's fault."""
    logging.raiseExceptions = False
    handler = _ToJournal() if _read_by_journal() else logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def prefix(level: int) -> str:
    """What goes before a line of this level."""
    if not _read_by_journal():
        return "tcpmon: "
    return next((f"<{number}>" for least, number in _PRIORITIES if level >= least), "<7>")


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        start = prefix(record.levelno)
        text = super().format(record)
        return start + text.replace("\n", "\n" + start if start.startswith("<") else "\n")


class _ToJournal(logging.Handler):
    """Never waits: while the journal takes nothing, lines are dropped, and their number is told after."""

    def __init__(self) -> None:
        super().__init__()
        self._sock = socket.socket(fileno=os.dup(sys.stderr.fileno()))
        self._dropped = 0
        self._torn = b""

    def emit(self, record: logging.LogRecord) -> None:
        told = f"{prefix(logging.WARNING)}{self._dropped} lines were dropped\n" if self._dropped else ""
        line = self._torn + (told + self.format(record) + "\n").encode(errors="backslashreplace")
        try:
            sent = self._sock.send(line, socket.MSG_DONTWAIT)
        except OSError:
            self._dropped += 1
            return
        self._dropped = 0
        self._torn = b"\n" if sent < len(line) else b""


def _read_by_journal() -> bool:
    if not sys.stderr:  # closed from the start
        return False
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
