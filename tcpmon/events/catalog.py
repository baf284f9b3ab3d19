"""Writes deploy/systemd/tcpmon.catalog, what journalctl -x explains events with (systemd's message catalog):
`python -m tcpmon.events.catalog`, in a checkout."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path

from tcpmon.events.fields import MESSAGE_IDS
from tcpmon.events.record import Kind
from tcpmon.metrics.doc import REASON_MEANINGS
from tcpmon.metrics.families import REASONS

TARGET = Path(__file__).parents[2] / "deploy" / "systemd" / "tcpmon.catalog"

_HEAD = """\
# Written by `python -m tcpmon.events.catalog` from tcpmon/: change it there.
# The message catalog of tcpmon's events; see https://systemd.io/CATALOG
"""
_WIDTH = 75
# Without its name: journalctl would pass on what control characters are in that
_WHO = "process @TCPMON_PID@ of user @TCPMON_UID@"
_WHERE = "in the network namespace @TCPMON_NETNS@"
_LOCAL = "@TCPMON_SADDR@, port @TCPMON_SPORT@"
_REMOTE = "@TCPMON_DADDR@, port @TCPMON_DPORT@"
_OTHERS = """\
All events of this connection:
    journalctl _BOOT_ID=@_BOOT_ID@ TCPMON_CONNECTION=@TCPMON_CONNECTION@"""

_SUBJECTS = {
    Kind.CONNECT: f"Connected to {_REMOTE}",
    Kind.CONNECT_FAILED: f"Could not connect to {_REMOTE}: @TCPMON_REASON@",
    Kind.ACCEPT: f"Accepted a connection from {_REMOTE}",
    Kind.CLOSE: f"Connection with {_REMOTE} closed",
}
_TEXTS = {
    Kind.CONNECT: (
        f"The {_WHO} has established a TCP connection to {_REMOTE}, from {_LOCAL}, {_WHERE}.",
        _OTHERS,
    ),
    Kind.CONNECT_FAILED: (f"The {_WHO} tried to open a TCP connection to {_REMOTE}, {_WHERE}, and failed.",),
    Kind.ACCEPT: (
        f"The {_WHO} has accepted a TCP connection from {_REMOTE}, on {_LOCAL}, {_WHERE}.",
        _OTHERS,
    ),
    Kind.CLOSE: (
        f"A TCP connection of the {_WHO}, {_WHERE}, has closed: between {_LOCAL}, here, and {_REMOTE}, "
        "there. It may have ended in any way: closed by either side, reset, or with its process. The process "
        "was its @TCPMON_ROLE@: a client has opened it by connect, a server has accepted it.",
        "From established to closed it took @TCPMON_DURATION_US@ microseconds. @TCPMON_SENT_BYTES@ bytes "
        "were sent and acknowledged, @TCPMON_RECEIVED_BYTES@ were received, and @TCPMON_RETRANSMITS@ "
        "segments were sent again. Many of those, for the bytes that were sent, mean that packets are lost "
        "on the way.",
        _OTHERS,
    ),
}
# What to look at
_ADVICE = {
    "refused": "Does the service run there, and listen on that address and port (ss -ltn)?",
    "timeout": "Is the address right? Does a firewall drop packets? Is the service's accept queue full?",
    "unreachable": "Where does the route go: ip route get @TCPMON_DADDR@",
    "reset": "What does the other side's log say? Is there a load balancer or a firewall between?",
    "canceled": "Is the program's own time limit shorter than connecting takes? See the metric "
    "tcpmon_connect_latency_seconds.",
    "no_port": "How many connections are there (ss -s)? Is net.ipv4.ip_local_port_range wide enough?",
    "denied": "What do the firewall's rules (nft list ruleset), ip rule, the audit log, and the unit's "
    "IPAddressDeny= say?",
    "other": "What does the program say? Its system calls: strace -f -e trace=connect -p @TCPMON_PID@",
}


def text() -> str:
    return "\n".join([_HEAD, *(_entry(kind) for kind in MESSAGE_IDS)])


def _entry(kind: Kind) -> str:
    head = (
        f"-- {MESSAGE_IDS[kind]}",
        f"Subject: {_SUBJECTS[kind]}",
        "Defined-By: tcpmon",
        "Support: man:tcpmon(8)",
        "Documentation: man:tcpmon-events(8)",
    )
    paragraphs = [_wrapped(paragraph) for paragraph in _TEXTS[kind]]
    if kind == Kind.CONNECT_FAILED:
        paragraphs += ["The reason is @TCPMON_REASON@. Of these:", *_reasons()]
    return "\n".join([*head, "", "\n\n".join(paragraphs), ""])


def _reasons() -> Iterable[str]:
    for reason in REASONS:
        said = f"{reason}: {REASON_MEANINGS[reason]}. {_ADVICE[reason]}"
        yield textwrap.fill(said, _WIDTH, subsequent_indent="    ", break_long_words=False)


def _wrapped(paragraph: str) -> str:
    if "\n" in paragraph:
        return paragraph  # a command
    return textwrap.fill(paragraph, _WIDTH, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
