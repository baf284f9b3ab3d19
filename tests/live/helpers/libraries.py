"""Libraries that tests put before a program's own."""

from __future__ import annotations

from pathlib import Path


def faketime() -> Path | None:
    """Debian's libfaketime, if it is installed."""
    return next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
