"""Prints CHANGELOG.md as a Debian changelog: `python3 deploy/changelog.py VERSION`.

VERSION is that of what is not released yet; its date is SOURCE_DATE_EPOCH, or now.
"""

from __future__ import annotations

import os
import re
import sys
import textwrap
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from email.utils import format_datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
_UNRELEASED = "Unreleased"


def main() -> None:
    control = (ROOT / "deploy" / "debian" / "control").read_text()
    maintainer = re.findall(r"^Maintainer: (.*)$", control, re.MULTILINE)[0]
    now = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", time.time())), timezone.utc)
    sections = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[1:]
    print("\n".join(_entry(section, sys.argv[1], now, maintainer) for section in sections))


def _entry(section: str, version: str, now: datetime, maintainer: str) -> str:
    """One release. Its title is `Unreleased`, or `[VERSION] - YYYY-MM-DD`, brackets or not."""
    title, _, body = section.partition("\n")
    number, _, date = title.strip().replace("[", "").replace("]", "").partition(" - ")
    unreleased = number == _UNRELEASED
    day = now if unreleased or not date else datetime.fromisoformat(date).replace(tzinfo=timezone.utc)
    head = f"tcpmon ({version if unreleased else number}) unstable; urgency=medium"
    return "\n".join([head, "", *_items(body), "", f" -- {maintainer}  {format_datetime(day)}", ""])


def _items(body: str) -> Iterator[str]:
    for item in re.findall(r"^- (.*(?:\n  .*)*)", body, re.MULTILINE):
        words = " ".join(item.replace("`", "").split())
        yield textwrap.fill(words, 78, initial_indent="  * ", subsequent_indent="    ")


if __name__ == "__main__":
    main()
