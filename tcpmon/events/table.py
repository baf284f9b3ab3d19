"""An entry of the journal as a line: of a table, or of JSON. Whatever is in it, a line is one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from time import localtime, strftime

from tcpmon.events.columns import MAX_KEPT, comm_text
from tcpmon.events.fields import FIELDS
from tcpmon.events.reader import Entry
from tcpmon.events.when import SECOND_US
from tcpmon.metrics import snapshot

_NUMBERS = frozenset(field.name for field in FIELDS if field.is_number)
_MAX_DIGITS = 20  # of 64 bits
_MAX_SHOWN = 64  # bytes of a value: an event's are shorter


@dataclass(frozen=True)
class Shown:
    """A column: its heading, how wide it is at least, and what stands in it."""

    heading: str
    width: int
    text: Callable[[Entry], str]


def header() -> str:
    return _line([column.heading for column in COLUMNS])


def line(entry: Entry) -> str:
    return _line([column.text(entry) for column in COLUMNS])


def json_line(entry: Entry) -> str:
    """An object of the fields in their table's order, their names without prefix in lower case. Bytes of a
    name that are no UTF-8 as \\xNN, as in the metrics' labels."""
    found = {field.name.lower(): _json(field.name, entry) for field in FIELDS if field.name in entry.values}
    return json.dumps(found, separators=(",", ":"))


def _json(name: str, entry: Entry) -> int | str:
    value = entry.values[name]
    if name in _NUMBERS and value.isdigit() and len(value) <= _MAX_DIGITS:
        return int(value)
    return snapshot.comm_text(value)


def _line(cells: list[str]) -> str:
    padded = [f"{cell:<{column.width}}" for cell, column in zip(cells, COLUMNS, strict=True)]
    return " ".join(padded).rstrip()


def _time(entry: Entry) -> str:
    second, us = divmod(entry.time_us, SECOND_US)
    return f"{_local(second)}.{us // 1000:03d}"


@lru_cache(MAX_KEPT)
def _local(second: int) -> str:
    return strftime("%Y-%m-%dT%H:%M:%S", localtime(second))


_text = lru_cache(MAX_KEPT)(comm_text)


def _value(name: str) -> Callable[[Entry], str]:
    return lambda entry: _text(entry.values.get(name, b"")[:_MAX_SHOWN])


def _address(name: str) -> Callable[[Entry], str]:
    value = _value(name)

    def text(entry: Entry) -> str:
        found = value(entry)
        return f"[{found}]" if ":" in found else found

    return text


_reason, _duration_us, _sent, _received, _retransmits = map(
    _value, ("REASON", "DURATION_US", "SENT_BYTES", "RECEIVED_BYTES", "RETRANSMITS")
)


def _detail(entry: Entry) -> str:
    if "DURATION_US" not in entry.values:
        return _reason(entry)
    return (
        f"{_seconds(_duration_us(entry))} sent={_sent(entry)} received={_received(entry)} "
        f"retransmits={_retransmits(entry)}"
    )


def _seconds(us: str) -> str:
    return f"{int(us) / SECOND_US:.6f}s" if us.isdecimal() and len(us) <= _MAX_DIGITS else us


COLUMNS = (
    Shown("TIME", 23, _time),
    Shown("TYPE", 14, _value("EVENT")),
    Shown("PID", 6, _value("PID")),
    Shown("COMM", 16, _value("COMM")),
    Shown("IP", 2, _value("IP")),
    Shown("SADDR", 16, _address("SADDR")),
    Shown("DADDR", 16, _address("DADDR")),
    Shown("SPORT", 6, _value("SPORT")),
    Shown("DPORT", 6, _value("DPORT")),
    Shown("NETNS", 10, _value("NETNS")),
    Shown("DETAIL", 0, _detail),
)
