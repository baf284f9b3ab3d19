"""Where the log goes: stderr, each line's priority in front where the journal reads it (sd-daemon(3))."""

from __future__ import annotations

import logging
import os
import sys

_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7))


def begin() -> None:
    """Sets the root logger up, at level info."""
    handler = logging.StreamHandler(sys.stderr)
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


def _read_by_journal() -> bool:
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
