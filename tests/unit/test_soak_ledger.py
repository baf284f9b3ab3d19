"""The soak's own arithmetic: that it sees one too many, one too few, and one elsewhere."""

from __future__ import annotations

from collections import Counter

from tests.soak import figures, ledger
from tests.soak.figures import Sample

SET = ("4026531840", "nginx", "80")
DONE = Counter({(*SET, "attempts"): 5, (*SET, "connects"): 4, (*SET, "failures refused"): 1})
DONE[(*SET, "closes client")] = 3

SCRAPE = """\
tcpmon_connect_attempts_total{comm="nginx",netns="4026531840",port="80"} 5
tcpmon_connects_total{comm="nginx",netns="4026531840",port="80"} 4
tcpmon_connect_failures_total{comm="nginx",netns="4026531840",port="80",reason="refused"} 1
tcpmon_connect_failures_total{comm="nginx",netns="4026531840",port="80",reason="timeout"} 0
tcpmon_closes_total{comm="nginx",netns="4026531840",port="80",role="client"} 3
tcpmon_open_connections{comm="nginx",netns="4026531840",port="80",role="client"} 1
tcpmon_connect_latency_seconds_bucket{comm="nginx",netns="4026531840",port="80",le="+Inf"} 4
tcpmon_connect_latency_seconds_count{comm="nginx",netns="4026531840",port="80"} 4
tcpmon_connection_duration_seconds_count{comm="nginx",netns="4026531840",port="80",role="client"} 3
process_open_fds 9
"""


def test_a_scrape_of_what_happened() -> None:
    counted = ledger.counted(SCRAPE)
    assert not ledger.difference(counted, ledger.to_be_counted(DONE))
    assert not ledger.unbalanced(counted)


def test_one_too_few_and_one_elsewhere() -> None:
    counted = ledger.counted(SCRAPE.replace('attempts_total{comm="nginx"', 'attempts_total{comm="redis"'))
    redis = ("4026531840", "redis", "80", "attempts")
    assert ledger.difference(counted, ledger.to_be_counted(DONE)) == {redis: 5, (*SET, "attempts"): -5}
    assert len(ledger.unbalanced(counted)) == 2, "both label sets, and not the sum"


def test_folded_into_other() -> None:
    """What a label set has lost, another has; what nobody has is missed, and so is what nobody did."""
    want = ledger.to_be_counted(DONE)
    moved = ledger.counted(SCRAPE.replace('comm="nginx"', 'comm="_other"'))
    assert not ledger.folded(moved, want)
    assert ledger.folded(moved - Counter({("4026531840", "_other", "80", "attempts"): 1}), want)
    assert ledger.folded(ledger.counted(SCRAPE.replace('comm="nginx"', 'comm="redis"')), want)


def test_entries_of_the_journal() -> None:
    entry = {"NETNS": b"4026531840", "COMM": b"nginx", "SPORT": b"40000", "DPORT": b"80", "ROLE": b"client"}
    kinds = [{"EVENT": b"connect"}] * 4 + [{"EVENT": b"close"}] * 3
    kinds.append({"EVENT": b"connect_failed", "REASON": b"refused"})
    entries = [{f"TCPMON_{name}": value for name, value in (entry | kind).items()} for kind in kinds]
    assert ledger.told(entries) == ledger.to_be_told(DONE)


def test_flat() -> None:
    """A warm-up is no leak, nor are new label sets; a page for each scrape is."""
    warm = [Sample(at, 40_000 - 5000 * (at < 60), 30, 2) for at in range(600)]
    leaks = [Sample(at, 40_000 + 4 * at, 30, 2) for at in range(600)]
    grows = [Sample(at, 40_000 + 4 * at, 30, 2, at) for at in range(600)]
    assert figures.size(warm).is_flat()
    assert figures.size(grows).is_flat()
    assert not figures.size(leaks).is_flat()
