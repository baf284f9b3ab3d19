"""What --since and --until take for a time; systemd-analyze has the same opinion, where it is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime, timezone

import pytest

from tcpmon.events.when import microseconds

NOW = datetime(2026, 11, 21, 14, 30, 15, 250_000, timezone.utc).timestamp()
AT = {
    "now": "2026-11-21 14:30:15.25",
    "  now ": "2026-11-21 14:30:15.25",
    "today": "2026-11-20 23:00",
    "yesterday": "2026-11-19 23:00",
    "tomorrow": "2026-11-21 23:00",
    "2026-11-21": "2026-11-20 23:00",
    "2026-11-21 10:00": "2026-11-21 09:00",
    "2026-11-21T10:00": "2026-11-21 09:00",
    "2026-11-21 10:00:07": "2026-11-21 09:00:07",
    "2026-11-21 10:00:07.25": "2026-11-21 09:00:07.25",
    "2026-11-21T10:00:07.123456": "2026-11-21 09:00:07.123456",
    "2026-07-01 10:00": "2026-07-01 08:00",
    "10:00": "2026-11-21 09:00",
    "1:02:03": "2026-11-21 00:02:03",
    "2026-11-21 10:00 UTC": "2026-11-21 10:00",
    "10:00 UTC": "2026-11-21 10:00",
    "2026-11-21T10:00Z": "2026-11-21 10:00",
    "2026-11-21 10:00+05:30": "2026-11-21 04:30",
    "2026-11-21 10:00 -0230": "2026-11-21 12:30",
    "2026-11-21 UTC": "2026-11-21 00:00",
    "@1795271415.25": "2026-11-21 14:30:15.25",
    "@0": "1970-01-01 00:00",
    "-1h": "2026-11-21 13:30:15.25",
    "+1h": "2026-11-21 15:30:15.25",
    "- 90": "2026-11-21 14:28:45.25",
    "-1h30min": "2026-11-21 13:00:15.25",
    "-1h 30min 5s": "2026-11-21 13:00:10.25",
    "-0.5h": "2026-11-21 14:00:15.25",
    "-250ms": "2026-11-21 14:30:15",
    "1 hour ago": "2026-11-21 13:30:15.25",
    "1h ago": "2026-11-21 13:30:15.25",
    "2 days ago": "2026-11-19 14:30:15.25",
    "1 week 2 days ago": "2026-11-12 14:30:15.25",
    "5min left": "2026-11-21 14:35:15.25",
    "5 minutes ago": "2026-11-21 14:25:15.25",
}
NOT = (
    "",
    "noon",
    "1",
    "1h",
    "10",
    "-1h ago",
    "-",
    "ago",
    "1 parsec ago",
    "-1x",
    "25:00",
    "10:60",
    "2026-02-30",
    "2026-13-01",
    "21.11.2026",
    "2026-11-2110:00",
    "2026-11-21 10",
    "UTC",
    "@",
    "@-1",
    "-99999999999y",
    "2026-11-21 10:00 CET",
    "１０:00",
)


@pytest.fixture(autouse=True)
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def utc(text: str) -> int:
    form = "%Y-%m-%d %H:%M" + ":%S" * (text.count(":") > 1) + ".%f" * ("." in text)
    return round(datetime.strptime(text, form).replace(tzinfo=timezone.utc).timestamp() * 1e6)


@pytest.mark.parametrize("text, at", AT.items())
def test_times(text: str, at: str) -> None:
    assert microseconds(text, NOW) == utc(at)


@pytest.mark.parametrize("text", NOT)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match="is no time; write it like") as raised:
        microseconds(text, NOW)
    assert repr(text) in str(raised.value)


def test_now_is_now() -> None:
    before = time.time_ns() // 1000
    assert before - 1 <= microseconds("now") <= time.time_ns() // 1000 + 1


# What of it depends on the clock cannot be compared to the unit; and systemd 252 knows no zones as offsets
FIXED = [text for text in AT if re.match(r"2026|@", text) and not re.search(r"\d[+-]\d\d:\d|-0230|T|Z", text)]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("text", FIXED)
def test_systemd_agrees(text: str) -> None:
    command = ["systemd-analyze", "timestamp", text]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TZ": "CET-1CEST"})
    match = re.search(r"UNIX seconds: @([0-9.]+)", done.stdout)
    if not match:
        pytest.skip(f"systemd-analyze cannot read it: {done.stderr}")
    if "07-01" not in text:  # its TZ has no rule for summer
        assert round(float(match[1]) * 1e6) == microseconds(text, NOW)
