"""What happened, and what was counted, in the same shape: how often what, by label set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from harness.metrics import parse

from tcpmon.events.record import JOURNALED

# (netns, comm, port, what): how often
Key = tuple[str, str, str, str]
Ledger = Counter[Key]

ATTEMPT, CONNECT, ACCEPT, FAILURE = "attempts", "connects", "accepts", "failures"
ROLES = ("client", "server")
OTHER = "_other"

# What each sample is a count of. A histogram's count is what its event's counter is.
_SAMPLES = {
    "tcpmon_connect_attempts_total": ATTEMPT,
    "tcpmon_connects_total": CONNECT,
    "tcpmon_accepts_total": ACCEPT,
    "tcpmon_connect_failures_total": FAILURE + " {reason}",
    "tcpmon_closes_total": "closes {role}",
    "tcpmon_open_connections": "open {role}",
    "tcpmon_connect_latency_seconds_count": "latencies",
    "tcpmon_connection_duration_seconds_count": "durations {role}",
    "tcpmon_accept_wait_seconds_count": "waits",
}


def counted(text: str) -> Ledger:
    """A scrape's."""
    lines = [line for line in text.splitlines() if line.partition("{")[0] in _SAMPLES]
    found: Ledger = Counter()
    for name, rows in parse("\n".join(lines)).samples.items():
        for labels, value in rows:
            what = _SAMPLES[name].format_map(labels)
            found[labels["netns"], labels["comm"], labels["port"], what] += int(value)
    return found


def told(entries: Iterable[Mapping[str, bytes]]) -> Ledger:
    """Of entries of the journal; no attempts are told."""
    found: Ledger = Counter()
    for entry in entries:
        text = {name.removeprefix("TCPMON_"): value.decode() for name, value in entry.items()}
        port = text["DPORT"] if text["ROLE"] == ROLES[0] else text["SPORT"]
        what = {
            "connect": CONNECT,
            "accept": ACCEPT,
            "close": f"closes {text['ROLE']}",
            "connect_failed": f"{FAILURE} {text.get('REASON')}",
        }[text["EVENT"]]
        found[text["NETNS"], text["COMM"], port, what] += 1
    assert set(JOURNALED) == {"connect", "connect_failed", "accept", "close"}
    return found


def to_be_told(done: Ledger) -> Ledger:
    """What the journal has to say of it."""
    return Counter({key: count for key, count in done.items() if key[3] != ATTEMPT})


def to_be_counted(done: Ledger) -> Ledger:
    """With what follows from it: what is open, and a histogram's sample for each event."""
    found = Counter(done)
    for (*labels, what), count in done.items():
        netns, comm, port = labels
        opens = {CONNECT: ("open client", "latencies"), ACCEPT: ("open server", "waits")}
        for each in opens.get(what, ()):
            found[netns, comm, port, each] += count
        if what.startswith("closes "):
            role = what.removeprefix("closes ")
            found[netns, comm, port, f"durations {role}"] += count
            found[netns, comm, port, f"open {role}"] -= count
    return found


def difference(got: Ledger, want: Ledger) -> Ledger:
    """By how much more was counted than happened; nothing where that is the same."""
    found = Counter(got)
    found.subtract(want)
    return Counter({key: count for key, count in found.items() if count})


def summed(of: Ledger) -> Ledger:
    """Over all label sets."""
    found: Ledger = Counter()
    for (*_labels, what), count in of.items():
        found["", "", "", what] += count
    return found


def folded(got: Ledger, want: Ledger) -> Ledger:
    """The difference where label sets may have gone into _other: of the sums; and what a label set has
    besides more than happened."""
    beyond = {
        key: count - want[key]
        for key, count in got.items()
        if key[1] != OTHER and count > want[key] and not key[3].startswith("open ")
    }
    found = difference(summed(got), summed(want))
    found.update(beyond)
    return found


def unbalanced(got: Ledger) -> list[str]:
    """The label sets of a scrape, or their sum, of which an identity does not hold."""
    by_set: dict[tuple[str, ...], Counter[str]] = {}
    for (*labels, what), count in [*got.items(), *summed(got).items()]:
        name = FAILURE if what.startswith(FAILURE) else what
        by_set.setdefault(tuple(labels), Counter())[name] += count
    return [" ".join(labels) for labels, of in by_set.items() if not _balanced(of)]


def _balanced(of: Counter[str]) -> bool:
    return (
        of[ATTEMPT] == of[CONNECT] + of[FAILURE]
        and of[CONNECT] == of["closes client"] + of["open client"]
        and of[ACCEPT] == of["closes server"] + of["open server"]
    )


def lines(of: Ledger, most: int = 10) -> list[str]:
    """In words, the largest first."""
    rows = sorted(of.items(), key=lambda row: -abs(row[1]))
    said = [
        f"{count:+d} {what} of {comm or 'all'} port {port} in {netns}"
        for (netns, comm, port, what), count in rows
    ]
    return said[:most] + [f"and {len(said) - most} more"] * (len(said) > most)
