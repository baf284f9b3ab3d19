"""From records to journal entries: every field of every kind, and names that are no plain text."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

import pytest
from eventrecords import EVENT, address, record
from journalsocket import fields

from tcpmon.events.fields import FIELDS, MESSAGE_IDS, PREFIX, Entries
from tcpmon.events.message import span
from tcpmon.events.record import Kind
from tcpmon.metrics.families import REASONS

CLIENT, SERVER = 0, 1
COMMON = {
    "pid": 2810,
    "tid": 2811,
    "uid": 1000,
    "comm": b"curl",
    "thread_comm": b"resolver",
    "local": address("192.168.1.7"),
    "remote": address("93.184.216.34"),
    "local_port": 41822,
    "remote_port": 443,
    "netns": 4026531840,
    "connection": 0xABCDEF0123456789,
}
ENDED = {"duration_ns": 1_234_567_890, "sent_bytes": 517, "received_bytes": 2**64 - 1, "retransmits": 3}
SHOWN = {
    "PRIORITY": b"6",
    "SYSLOG_IDENTIFIER": b"tcpmon",
    "TCPMON_PID": b"2810",
    "TCPMON_TID": b"2811",
    "TCPMON_UID": b"1000",
    "TCPMON_COMM": b"curl",
    "TCPMON_THREAD_COMM": b"resolver",
    "TCPMON_IP": b"4",
    "TCPMON_SADDR": b"192.168.1.7",
    "TCPMON_SPORT": b"41822",
    "TCPMON_DADDR": b"93.184.216.34",
    "TCPMON_DPORT": b"443",
    "TCPMON_NETNS": b"4026531840",
    "TCPMON_ROLE": b"client",
    "TCPMON_CONNECTION": b"abcdef0123456789",
}
ROUTE = "93.184.216.34:443 from 192.168.1.7:41822"


def entry(**of: int | bytes) -> Mapping[str, bytes]:
    (made,) = Entries(EVENT).of(record(**(COMMON | of)))
    return fields(made)


def message(**of: int | bytes) -> str:
    return entry(**of)["MESSAGE"].decode()


def without(found: Mapping[str, bytes], *names: str) -> Mapping[str, bytes]:
    return {name: value for name, value in found.items() if name not in names}


@pytest.mark.parametrize(
    "kind, more, own",
    [
        (Kind.CONNECT, {}, {"MESSAGE": f"curl[2810] connected to {ROUTE}"}),
        (
            Kind.CONNECT_FAILED,
            {"reason": 5},
            {
                "MESSAGE": f"curl[2810] failed to connect to {ROUTE}: no port",
                "TCPMON_REASON": "no_port",
            },
        ),
        (
            Kind.ACCEPT,
            {"role": SERVER},
            {
                "MESSAGE": "curl[2810] accepted a connection from 93.184.216.34:443 on 192.168.1.7:41822",
                "TCPMON_ROLE": "server",
            },
        ),
        (
            Kind.CLOSE,
            ENDED,
            {
                "MESSAGE": f"curl[2810]: connection to {ROUTE} closed after 1.234s, 517 bytes sent, "
                "18446744073709551615 received, 3 segments retransmitted",
                "TCPMON_DURATION_US": "1234567",
                "TCPMON_SENT_BYTES": "517",
                "TCPMON_RECEIVED_BYTES": "18446744073709551615",
                "TCPMON_RETRANSMITS": "3",
            },
        ),
    ],
    ids=lambda value: value.name.lower() if isinstance(value, Kind) else "",
)
def test_every_field(kind: Kind, more: Mapping[str, int], own: Mapping[str, str]) -> None:
    found = without(entry(kind=kind, **more), "TCPMON_TIMESTAMP")
    expected = {name: value.encode() for name, value in own.items()}
    assert found == SHOWN | expected | {
        "MESSAGE_ID": MESSAGE_IDS[kind].encode(),
        "TCPMON_EVENT": kind.name.lower().encode(),
    }


@pytest.mark.parametrize("kind", MESSAGE_IDS)
def test_the_table_says_which_fields_a_kind_has(kind: Kind) -> None:
    shown = {name.removeprefix(PREFIX) for name in entry(kind=kind) if name.startswith(PREFIX)}
    assert shown == {field.name for field in FIELDS if kind in field.kinds}


@pytest.mark.parametrize("field", [field for field in FIELDS if field.is_number], ids=lambda of: of.name)
def test_what_is_called_a_number_is_one(field: object) -> None:
    assert entry(kind=Kind.CLOSE)[PREFIX + getattr(field, "name", "")].isdigit()


def test_message_ids_are_as_they_ever_were() -> None:
    """Entries that were written long ago, and what looks for them, go by these."""
    assert MESSAGE_IDS == {
        Kind.CONNECT: "4e41da78ee784203bcf8542cce94f7d4",
        Kind.CONNECT_FAILED: "c052fda10ca24689a443f3315d693dbb",
        Kind.ACCEPT: "3f7eda95fd4443deb8548e995f4c62ca",
        Kind.CLOSE: "56b5d51ee1e84cf3b78b5bca73257761",
    }


def test_many_kinds_in_turn() -> None:
    kinds = [Kind.CONNECT, Kind.CLOSE, Kind.CONNECT_FAILED, Kind.ACCEPT] * 251
    batch = b"".join(record(**COMMON, kind=kind, reason=number % 8) for number, kind in enumerate(kinds))
    found = [fields(made) for made in Entries(EVENT).of(batch)]
    assert [made["TCPMON_EVENT"].decode() for made in found] == [kind.name.lower() for kind in kinds]
    assert [made.get("TCPMON_REASON", b"").decode() for made in found] == [
        REASONS[number % 8] if kind == Kind.CONNECT_FAILED else "" for number, kind in enumerate(kinds)
    ]


def test_no_records_no_entries() -> None:
    assert Entries(EVENT).of(b"") == []


def test_the_time_is_the_events_own() -> None:
    """However long it waited in the ring."""
    before, then, after = time.time_ns(), time.monotonic_ns(), time.time_ns()
    hour_ago = int(entry(kind=Kind.CONNECT, ns=then - 3_600_000_000_000)["TCPMON_TIMESTAMP"])
    assert before // 1000 - 2000 <= hour_ago + 3_600_000_000 <= after // 1000 + 2000


def test_ipv6() -> None:
    ends = {"local": address("2001:db8::7"), "remote": address("::1")}
    found = entry(kind=Kind.CONNECT, **ends)
    assert found["TCPMON_IP"] == b"6"
    assert (found["TCPMON_SADDR"], found["TCPMON_DADDR"]) == (b"2001:db8::7", b"::1")
    assert found["MESSAGE"] == b"curl[2810] connected to [::1]:443 from [2001:db8::7]:41822"


def test_a_failure_before_there_was_a_local_end() -> None:
    nowhere = {"local": address("0.0.0.0"), "local_port": 0, "reason": 2}
    found = entry(kind=Kind.CONNECT_FAILED, **nowhere)
    assert found["MESSAGE"] == b"curl[2810] failed to connect to 93.184.216.34:443: unreachable"
    assert found["TCPMON_SPORT"] == b"0"


def test_a_servers_close_in_the_singular() -> None:
    assert message(kind=Kind.CLOSE, role=SERVER, sent_bytes=1, received_bytes=0, retransmits=1) == (
        "curl[2810]: connection from 93.184.216.34:443 on 192.168.1.7:41822 closed after 0us, "
        "1 byte sent, 0 received, 1 segment retransmitted"
    )


@pytest.mark.parametrize(
    "comm, shown",
    [
        (b"a\nTCPMON_UID=0", "a?TCPMON_UID=0"),
        (b"\n", "?"),
        (b"", ""),
        (b"\xff\xfebad", "\ufffd\ufffdbad"),
        ("größe-wörker".encode(), "größe-wörker"),
        (b"=", "="),
        (b"a\x1b[31mc", "a?[31mc"),
        (b"16 bytes, no end", "16 bytes, no end"),
    ],
)
def test_names_of_any_bytes(comm: bytes, shown: str) -> None:
    """The bytes in the field, whatever they are; and a message that forges and steers nothing."""
    found = entry(kind=Kind.CONNECT, comm=comm, thread_comm=comm)
    assert found["TCPMON_COMM"] == found["TCPMON_THREAD_COMM"] == comm
    assert found["TCPMON_UID"] == b"1000"
    assert found["MESSAGE"].decode() == f"{shown}[2810] connected to {ROUTE}"


def test_what_is_behind_a_names_end_is_left_out() -> None:
    assert entry(kind=Kind.CONNECT, comm=b"short\0left over")["TCPMON_COMM"] == b"short"


def test_names_of_fields_are_as_journald_wants_them() -> None:
    """It drops others without a word: at most 64 of A-Z, 0-9 and _, and not beginning with one of these."""
    assert all(re.fullmatch(r"[A-Z][A-Z0-9_]{0,63}", name) for name in entry(kind=Kind.CLOSE))


@pytest.mark.parametrize(
    "ns, text",
    [
        (0, "0us"),
        (999, "0us"),
        (412_999, "412us"),
        (1_000_000, "1ms"),
        (4_125_000, "4.125ms"),
        (999_999_999, "999.999ms"),
        (1_500_000_000, "1.5s"),
        (59_999_999_999, "59.999s"),
        (60_000_000_000, "1min"),
        (90_000_000_000, "1min 30s"),
        (7_384_000_000_000, "2h 3min"),
        (86_405_000_000_000, "1d 5s"),
        (2**63, "106751d 23h"),
    ],
)
def test_spans(ns: int, text: str) -> None:
    assert span(ns) == text
