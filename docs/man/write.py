"""Writes the manual pages beside itself: `python docs/man/write.py`."""

from __future__ import annotations

from pathlib import Path

from tcpmon import cli
from tcpmon.tools import man

if __name__ == "__main__":
    for name, text in man.pages(cli.parser()).items():
        Path(__file__).with_name(name).write_text(text)
