"""PromQL for the panels: from tcpmon's own metrics, so that no recording rule need be installed."""

from __future__ import annotations

RATE_WINDOW = "$__rate_interval"
SHOWN = "$__range"  # tables and totals are about all that is shown

# Which hosts; which namespaces there; which label sets. A label that metrics.labels leaves out matches .* too
HOSTS = 'job=~"$job",instance=~"$instance"'
NAMESPACES = f'{HOSTS},netns=~"$netns"'
SETS = f'{NAMESPACES},comm=~"$comm",port=~"$port"'
# An inum names a namespace on its own host only
NAMESPACE = "job, instance, netns"

# Losses after which a count is short; the other stages lose what is told of single events only
_COUNTED_ALL_THE_SAME = "event_ring|journal|rate_limit"
LOST = f'tcpmon_lost_events_total{{{HOSTS},stage!~"{_COUNTED_ALL_THE_SAME}"}}'


def total(metric: str, by: str = "", where: str = SETS) -> str:
    """A gauge, added up."""
    return f"sum{_by(by)}({metric}{{{where}}})"


def rate(metric: str, by: str = "", where: str = SETS, window: str = RATE_WINDOW) -> str:
    """A counter's increase a second, added up."""
    return f"sum{_by(by)}(rate({metric}{{{where}}}[{window}]))"


def quantile(share: float, histogram: str, by: str = "", where: str = SETS, window: str = RATE_WINDOW) -> str:
    """The value that this share of the histogram's observations does not exceed."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {rate(f'{histogram}_bucket', labels, where, window)})"


def buckets(histogram: str) -> str:
    """For a heatmap."""
    return rate(f"{histogram}_bucket", "le")


def failed_share(by: str = "", where: str = SETS, window: str = RATE_WINDOW) -> str:
    """Of the connects, how many failed; nothing where there was none."""
    failures = rate("tcpmon_connect_failures_total", by, where, window)
    return f"{failures} / ({rate('tcpmon_connect_attempts_total', by, where, window)} > 0)"


def busiest(by: str, where: str = SETS, these: str = "", count: int = 15) -> str:
    """The label values that opened most connections in the time shown, and those that accepted most; `these`
    is a condition on both, beginning with and."""
    opened = rate("tcpmon_connect_attempts_total", by, where, SHOWN)
    accepted = rate("tcpmon_accepts_total", by, where, SHOWN)
    return f"topk({count}, {opened}{these}) or topk({count}, {accepted}{these})"


def first(counter: str, by: str, where: str = SETS, count: int = 10) -> str:
    """The counter's rate of the few that count most over all the time shown: the same ones at each moment."""
    ranked = f"sum by ({by}) (rate({counter}{{{where}}}[{SHOWN}] @ end()))"
    return among(rate(counter, by, where), by, f"topk({count}, {ranked})")


def among(expr: str, by: str, these: str) -> str:
    """What of expr has label values that are among these."""
    return f"{expr} and on ({by}) ({these})"


def names(where: str = HOSTS) -> str:
    """1 for each namespace, with its name, or "unnamed"."""
    known = f"group by ({NAMESPACE}, name) (tcpmon_netns_info{{{where}}})"
    seen = f"group by ({NAMESPACE}) (tcpmon_open_connections{{{where}}})"
    return f'{known} or on ({NAMESPACE}) label_replace({seen}, "name", "unnamed", "", "")'


def named(expr: str) -> str:
    """With the name of the namespace; expr has the labels NAMESPACE."""
    return f"{expr} * on ({NAMESPACE}) group_left (name) ({names()})"


def _by(labels: str) -> str:
    return f" by ({labels}) " if labels else " "
