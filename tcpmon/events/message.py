"""The sentence that a journal entry shows of an event."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import NamedTuple

from tcpmon.events.columns import MAX_KEPT, address_text, comm_text, is_ipv4
from tcpmon.events.record import Kind
from tcpmon.metrics.families import REASONS, ROLES, SERVER

_SERVER = ROLES.index(SERVER)
_UNITS_S = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_SECOND_US = 1_000_000


class Told(NamedTuple):
    """What it is made of: fields of struct event, by their names."""

    kind: int
    role: int
    reason: int
    pid: int
    comm: bytes
    local: bytes
    local_port: int
    remote: bytes
    remote_port: int
    duration_ns: int
    sent_bytes: int
    received_bytes: int
    retransmits: int


def sentence(told: Told) -> str:
    """One line, without control characters."""
    return f"{_name(told.comm)}[{told.pid}]{_SENTENCES[told.kind](told)}"


def _connect(told: Told) -> str:
    return f" connected to {_route(told)}"


def _connect_failed(told: Told) -> str:
    return f" failed to connect to {_route(told)}: {REASONS[told.reason].replace('_', ' ')}"


def _accept(told: Told) -> str:
    return f" accepted a connection from {_remote(told)} on {_local(told)}"


def _close(told: Told) -> str:
    which = f"from {_remote(told)} on {_local(told)}" if told.role == _SERVER else f"to {_route(told)}"
    return (
        f": connection {which} closed after {span(told.duration_ns)}, "
        f"{_count(told.sent_bytes, 'byte')} sent, {told.received_bytes} received, "
        f"{_count(told.retransmits, 'segment')} retransmitted"
    )


_SENTENCES: Mapping[int, Callable[[Told], str]] = {
    Kind.CONNECT: _connect,
    Kind.CONNECT_FAILED: _connect_failed,
    Kind.ACCEPT: _accept,
    Kind.CLOSE: _close,
}


def _route(told: Told) -> str:
    """From a connect's side. One that failed early has no local end."""
    return f"{_remote(told)} from {_local(told)}" if told.local_port else _remote(told)


def _local(told: Told) -> str:
    return f"{_host(told.local)}:{told.local_port}"


def _remote(told: Told) -> str:
    return f"{_host(told.remote)}:{told.remote_port}"


@lru_cache(MAX_KEPT)
def _host(address: bytes) -> str:
    text = address_text(address)
    return text if is_ipv4(address) else f"[{text}]"


_name = lru_cache(MAX_KEPT)(comm_text)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def span(ns: int) -> str:
    """A time, as systemd writes them: 412us, 4.125ms, 1.5s, 2h 3min; two units at most."""
    us = ns // 1000
    if us < 1000:
        return f"{us}us"
    if us < _SECOND_US:
        return f"{us / 1000:g}ms"
    if us < 60 * _SECOND_US:
        return f"{us // 1000 / 1000:g}s"
    parts, left = [], us // _SECOND_US
    for seconds, unit in _UNITS_S:
        count, left = divmod(left, seconds)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])
