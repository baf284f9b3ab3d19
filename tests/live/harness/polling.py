"""Waiting for counts that arrive later: deadlines with polling, never a bare sleep."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
EVERY_S = 0.03
# How many times longer than on a real machine: tests/vm runs on emulated ones
PATIENCE = float(os.environ.get("TCPMON_PATIENCE", "1"))


def eventually(check: Callable[[], T], deadline_s: float = 10.0) -> T:
    """Call `check` until it raises no AssertionError; its value. After the deadline its last error stands."""
    end = time.monotonic() + deadline_s * PATIENCE
    while True:
        try:
            return check()
        except AssertionError:
            if time.monotonic() > end:
                raise
        time.sleep(EVERY_S)


def settled(check: Callable[[], T], deadline_s: float = 10.0, hold_s: float = 0.15) -> T:
    """Like `eventually`, and `check` must then hold for `hold_s`: a count that overshoots is wrong too."""
    value = eventually(check, deadline_s)
    end = time.monotonic() + hold_s
    while time.monotonic() < end:
        time.sleep(EVERY_S)
        value = check()
    return value
