"""The kernel's own count of a namespace's connections: what the daemon's numbers are compared with."""

from __future__ import annotations

from dataclasses import astuple, dataclass

from .netns import Netns, sh


@dataclass(frozen=True)
class Snmp:
    """/proc/net/snmp's TCP line, or the difference of two of them."""

    active_opens: int
    passive_opens: int
    attempt_fails: int
    estab_resets: int
    curr_estab: int
    retransmitted: int

    def __sub__(self, before: Snmp) -> Snmp:
        pairs = zip(astuple(self), astuple(before), strict=True)
        return Snmp(*(now - then for now, then in pairs))


_FIELDS = ("ActiveOpens", "PassiveOpens", "AttemptFails", "EstabResets", "CurrEstab", "RetransSegs")


def snmp(ns: Netns) -> Snmp:
    """The counters since the namespace was made (in a fresh one they are the test's own)."""
    table = sh(f"ip netns exec {ns.name} cat /proc/net/snmp").splitlines()
    names, values = (line.split()[1:] for line in table if line.startswith("Tcp:"))
    row = dict(zip(names, map(int, values), strict=True))
    return Snmp(*(row[field] for field in _FIELDS))


def sockets(ns: Netns, state: str = "all") -> list[str]:
    """ss(8)'s lines for the namespace's TCP sockets in a state: `established`, `time-wait`, ..."""
    return sh(f"ip netns exec {ns.name} ss -Htan state {state}").splitlines()


def time_waits(ns: Netns) -> int:
    """How many of the namespace's connections have been in TIME_WAIT. Not those in it now: where the last FIN
    finds its socket just being replaced, it is answered with a reset, and that ends TIME_WAIT at once."""
    lines = sh(f"ip netns exec {ns.name} cat /proc/net/netstat").splitlines()
    names, values = (line.split() for line in lines if line.startswith("TcpExt:"))
    return int(dict(zip(names, values, strict=True))["TW"])
