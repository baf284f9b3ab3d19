"""Points in time, as systemd.time(7) has them: "2026-11-21 10:00", "-1h", "2 days ago", "yesterday"."""

from __future__ import annotations

import re
import time as clock
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta, timezone, tzinfo

SECOND_US = 1_000_000
_DAY_S = 86_400
_UNITS_S = {
    ("us", "usec"): 1e-6,
    ("ms", "msec"): 1e-3,
    ("", "s", "sec", "second", "seconds"): 1,
    ("m", "min", "minute", "minutes"): 60,
    ("h", "hr", "hour", "hours"): 3600,
    ("d", "day", "days"): _DAY_S,
    ("w", "week", "weeks"): 7 * _DAY_S,
    ("M", "month", "months"): 30.44 * _DAY_S,
    ("y", "year", "years"): 365.25 * _DAY_S,
}
_SECONDS = {name: seconds for names, seconds in _UNITS_S.items() for name in names}
_DAYS = {"yesterday": -1, "today": 0, "tomorrow": 1}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*")
_EPOCH = re.compile(r"@([0-9]+(?:\.[0-9]+)?)")
_RELATIVE = re.compile(r"(?P<sign>[+-])?\s*(?P<span>[0-9][0-9a-zA-Z.\s]*?)\s*(?P<which>\s(?:ago|left))?")
_DATED = re.compile(
    r"(?:(?P<date>[0-9]{4}-[0-9]{1,2}-[0-9]{1,2})(?:(?:T|\s+)(?=[0-9]+:)|(?![0-9])))?"
    r"(?P<time>[0-9]{1,2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?)?"
    r"\s*(?P<zone>UTC|Z|[+-][0-9]{2}:?[0-9]{2})?"
)
_END_US = 1 << 63
_MAX_CHARACTERS = 128
_LIKE = 'write it like "2026-11-21 10:00", "10:00", "-1h", "2 days ago", "yesterday" or "now"'


def microseconds(text: str, now: float | None = None) -> int:
    """Since the epoch; in local time where no zone is named. `now` is as time.time() has it. ValueError says
    what is wrong, for an operator."""
    now = clock.time() if now is None else now
    given = text.strip()
    try:
        found = round(_seconds(given, now) * SECOND_US) if len(given) <= _MAX_CHARACTERS else -1
    except (ValueError, OverflowError):
        found = -1
    if not 0 <= found < _END_US:
        raise ValueError(f"{text!r} is no time; {_LIKE}")
    return found


def _seconds(given: str, now: float) -> float:
    """Since the epoch, as a float good for microseconds."""
    today = datetime.fromtimestamp(now).date()
    if given == "now":
        return now
    if given in _DAYS:
        return datetime.combine(today + timedelta(days=_DAYS[given]), time()).timestamp()
    if found := _EPOCH.fullmatch(given):
        return float(found[1])
    if (found := _RELATIVE.fullmatch(given)) and bool(found["sign"]) != bool(found["which"]):
        before = found["sign"] == "-" or (found["which"] or "").strip() == "ago"
        return now - _span(found["span"]) if before else now + _span(found["span"])
    return _dated(given, today)


def _span(text: str) -> float:
    """Seconds of such as 1h 30min. A number alone is seconds."""
    try:
        return sum(float(number) * _SECONDS[unit] for number, unit in _parts(text))
    except KeyError:
        raise ValueError(text) from None


def _parts(text: str) -> Iterator[tuple[str, str]]:
    """One behind the other: a pattern for all of them has, for digits alone, more ways than can be tried."""
    at = 0
    while at < len(text):
        found = _PART.match(text, at)
        if not found:
            raise ValueError(text)
        yield found[1], found[2]
        at = found.end()


def _dated(given: str, today: date) -> float:
    found = _DATED.fullmatch(given)
    if not found or not (found["date"] or found["time"]):
        raise ValueError(given)
    day = date(*map(int, found["date"].split("-"))) if found["date"] else today
    hour, minute, second = (*(found["time"] or "0:0").split(":"), "0")[:3]
    return _of(day, int(hour), int(minute), second, _zone(found["zone"]))


def _of(day: date, hour: int, minute: int, second: str, zone: tzinfo | None) -> float:
    whole, _, fraction = second.partition(".")
    at = time(hour, minute, int(whole), int(fraction.ljust(6, "0")), zone)
    return datetime.combine(day, at).timestamp()


def _zone(text: str | None) -> tzinfo | None:
    """None for local time."""
    if text is None:
        return None
    if text in ("UTC", "Z"):
        return timezone.utc
    sign = -1 if text[0] == "-" else 1
    return timezone(sign * timedelta(hours=int(text[1:3]), minutes=int(text[-2:])))
