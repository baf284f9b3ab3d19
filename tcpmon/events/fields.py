"""What a journal entry says of an event: the table of its fields, and entries of many records made at once.

An entry is as journald's native protocol has it: field after field, one a line, but for values with a line's
end in them, which their length precedes (https://systemd.io/JOURNAL_NATIVE_PROTOCOL).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tcpmon.events.columns import Column, Lines, address_text, ip_version
from tcpmon.events.message import Told, sentence
from tcpmon.events.record import JOURNALED, Kind
from tcpmon.kernel.load import Layout
from tcpmon.metrics.families import REASONS, ROLES

IDENTIFIER = "tcpmon"
PREFIX = "TCPMON_"
# Of each kind of event its own, for ever: the catalog goes by them, and whoever looks for events
MESSAGE_IDS = {
    Kind.CONNECT: "4e41da78ee784203bcf8542cce94f7d4",
    Kind.CONNECT_FAILED: "c052fda10ca24689a443f3315d693dbb",
    Kind.ACCEPT: "3f7eda95fd4443deb8548e995f4c62ca",
    Kind.CLOSE: "56b5d51ee1e84cf3b78b5bca73257761",
}
UNTOLD = b""
_INFORMATIONAL = 6  # of syslog's priorities
_NS_PER_US = 1000
_ANY, _FAILED, _CLOSED = tuple(MESSAGE_IDS), (Kind.CONNECT_FAILED,), (Kind.CLOSE,)
_EVENTS = {kind: name for name, kind in JOURNALED.items()}


def _comm(comm: bytes) -> bytes:
    """As the kernel has it."""
    return comm.partition(b"\0")[0]


@dataclass(frozen=True)
class Field:
    """A field of an entry: its name without the prefix; the field of struct event that it is made of, and
    how; whether what comes of it is a number; and the kinds of events that have it.

    `again`: the same values come again, so that their texts are kept.
    """

    name: str
    source: str
    meaning: str
    value: Callable[[Any], object] = int
    is_number: bool = True
    kinds: tuple[Kind, ...] = _ANY
    again: bool = True

    @property
    def text(self) -> str:
        """The meaning, and which kinds have it."""
        of = "" if self.kinds == _ANY else f" (of {', '.join(_EVENTS[kind] for kind in self.kinds)})"
        return f"{self.meaning}{of}"


TIMESTAMP = "TIMESTAMP"
FIELDS = (
    Field("EVENT", "kind", f"`{'`, `'.join(JOURNALED)}`", _EVENTS.__getitem__, is_number=False),
    Field(
        TIMESTAMP,
        "ns",
        "when it happened, in microseconds since the epoch; the entry is written a moment later",
        again=False,
    ),
    Field("PID", "pid", "the process that connected or accepted: its thread group's id"),
    Field("TID", "tid", "the thread that did"),
    Field("UID", "uid", "the user that it ran as"),
    Field("COMM", "comm", "the process's name, the bytes as the kernel has them", _comm, is_number=False),
    Field("THREAD_COMM", "thread_comm", "the thread's name, likewise", _comm, is_number=False),
    Field("IP", "remote", "4 or 6; IPv4-mapped IPv6 addresses are shown as IPv4, which they are", ip_version),
    Field("SADDR", "local", "the local address", address_text, is_number=False),
    Field("SPORT", "local_port", "the local port; 0 where a connect failed before it had one"),
    Field("DADDR", "remote", "the remote address", address_text, is_number=False),
    Field("DPORT", "remote_port", "the remote port"),
    Field("NETNS", "netns", "the inum of the socket's network namespace"),
    Field(
        "ROLE",
        "role",
        f"`{ROLES[0]}`: opened by connect; `{ROLES[1]}`: accepted",
        ROLES.__getitem__,
        is_number=False,
    ),
    Field(
        "CONNECTION",
        "connection",
        "joins the events of a connection: 16 hexadecimal digits, unique since the machine was started",
        "{:016x}".format,
        is_number=False,
        again=False,
    ),
    Field("REASON", "reason", f"`{'`, `'.join(REASONS)}`", REASONS.__getitem__, False, _FAILED),
    Field(
        "DURATION_US",
        "duration_ns",
        "from established to closed, in microseconds",
        lambda ns: ns // _NS_PER_US,
        kinds=_CLOSED,
    ),
    Field("SENT_BYTES", "sent_bytes", "payload that was sent and acknowledged", kinds=_CLOSED),
    Field("RECEIVED_BYTES", "received_bytes", "payload that was received", kinds=_CLOSED),
    Field("RETRANSMITS", "retransmits", "segments that were sent again", kinds=_CLOSED),
)


class Entries:
    """Makes entries of records; of one thread."""

    def __init__(self, layout: Layout) -> None:
        self._epoch_ns = 0  # what the clocks of records and of the world are apart
        self._lines = Lines(layout, [_constant(), _message(), *map(self._column, FIELDS)])

    def of(self, records: bytes) -> list[bytes]:
        """The entry of each record; of records as Ring.read gives them. UNTOLD for one that holds what no
        event does."""
        self._epoch_ns = time.time_ns() - time.monotonic_ns()
        try:
            return self._lines.each(records)
        except LookupError:
            return [self._entry(record) for record in self._lines.apart(records)]

    def _entry(self, record: bytes) -> bytes:
        try:
            return self._lines.each(record)[0]
        except LookupError:  # a kind, role or reason that is not in the tables
            return UNTOLD

    def _column(self, field: Field) -> Column:
        if field.name != TIMESTAMP:
            return _column(field)
        name = _encoded_name(field)
        return Column("", (field.source,), lambda ns: _field(name, b"%d" % self._us(ns)), keep=False)

    def _us(self, ns: int) -> int:
        return (self._epoch_ns + ns) // _NS_PER_US


def _column(field: Field) -> Column:
    name, kinds, value = _encoded_name(field), frozenset(field.kinds), field.value

    def text(found: Any) -> bytes:
        made = value(found)
        return _field(name, made if isinstance(made, bytes) else str(made).encode())

    if field.kinds == _ANY:
        return Column("", (field.source,), text, field.again)
    return Column(
        "", ("kind", field.source), lambda kind, found: text(found) if kind in kinds else b"", keep=False
    )


def _constant() -> Column:
    """What all entries of a kind have in common."""
    texts = {
        kind: _field(b"MESSAGE_ID", number.encode())
        + _field(b"PRIORITY", b"%d" % _INFORMATIONAL)
        + _field(b"SYSLOG_IDENTIFIER", IDENTIFIER.encode())
        for kind, number in MESSAGE_IDS.items()
    }
    return Column("", ("kind",), texts.__getitem__)


def _message() -> Column:
    def text(*values: Any) -> bytes:
        return _field(b"MESSAGE", sentence(Told(*values)).encode())

    return Column("", Told._fields, text, keep=False)


def _encoded_name(field: Field) -> bytes:
    return f"{PREFIX}{field.name}".encode()


def _field(name: bytes, value: bytes) -> bytes:
    if b"\n" in value:
        return b"%b\n%b%b\n" % (name, len(value).to_bytes(8, "little"), value)
    return b"%b=%b\n" % (name, value)
