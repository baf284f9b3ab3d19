"""From measurements to rows: what was measured, what is to be reached, and whether it was."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from tests.bench.measure import EVENTS_PER_CONNECTION, Idle, Loaded, Plan, Program, Round
from tests.bench.tool import Run

MIN_RATIO = 0.95
MAX_LIFE_MICROSECONDS = 2.0
MAX_START_MIB, MAX_LOADED_MIB = 32.0, 96.0
MAX_START_SECONDS = 1.5
MAX_IDLE_TICKS = 0
MIN_TOOL_RATIO = 3.0
MIN_RENDERING_RATIO = 10.0
MAX_WAIT_MS = 100.0


@dataclass(frozen=True)
class Row:
    """One figure. `reach` is empty and `reached` None where there is nothing to reach."""

    what: str
    measured: str
    value: float
    reach: str = ""
    reached: bool | None = None


def at_least(what: str, measured: str, value: float, bound: float, unit: str = "") -> Row:
    return judged(what, measured, value, "≥", operator.ge, bound, unit)


def at_most(what: str, measured: str, value: float, bound: float, unit: str = "") -> Row:
    return judged(what, measured, value, "≤", operator.le, bound, unit)


def judged(
    what: str,
    measured: str,
    value: float,
    sign: str,
    holds: Callable[[float, float], bool],
    bound: float,
    unit: str,
) -> Row:
    return Row(what, measured, value, f"{sign} {bound:g}{unit}", holds(value, bound))


def spread(values: Sequence[float], form: str) -> str:
    """The median, and the range where there is one."""
    low, high = format(min(values), form), format(max(values), form)
    return format(median(values), form) + (f" ({low} to {high})" if len(values) > 1 else "")


def throughput_rows(rounds: list[Round], plan: Plan) -> list[Row]:
    traced = [r.tcpmon / r.untraced for r in rounds]
    naive = [r.naive / r.untraced for r in rounds]
    lost = [r.naive_lost for r in rounds]
    silently = median(r.naive_lost_silently for r in rounds)
    events = EVENTS_PER_CONNECTION * plan.connections
    rates = spread([r.untraced for r in rounds], ",.0f")
    starts = [r.start_seconds for r in rounds]
    made = len(rounds) * plan.connections
    reported = sum(r.lost for r in rounds)
    return [
        Row("loop untraced, connections a second", rates, median(r.untraced for r in rounds)),
        at_least("loop under tcpmon, of untraced", spread(traced, ".3f"), median(traced), MIN_RATIO),
        Row("the same under the naive script", spread(naive, ".3f"), median(naive)),
        Row("connections made under tcpmon, all counted but for what the next line tells", f"{made:,}", made),
        at_most("events of the whole machine it reports as lost, in all", f"{reported:,}", reported, 0),
        Row(
            f"events the naive script lost, of {events:,}",
            f"{spread(lost, ',.0f')}; {silently:,.0f} of them silently",
            median(lost),
        ),
        at_most(
            "start to first counted event",
            spread(starts, ".2f") + " s",
            median(starts),
            MAX_START_SECONDS,
            " s",
        ),
    ]


def bpf_row(programs: list[Program]) -> Row:
    total = sum(p.microseconds for p in programs)
    what = "BPF run time of a connection's whole life, both ends"
    return at_most(what, f"{total:.2f} µs", total, MAX_LIFE_MICROSECONDS, " µs")


def idle_rows(idle: Idle, plan: Plan) -> list[Row]:
    what = f"CPU of the idle daemon in {plan.idle_seconds} s, no scrapes"
    return [
        at_most(
            "daemon's RSS after start", f"{idle.start_mib:.1f} MiB", idle.start_mib, MAX_START_MIB, " MiB"
        ),
        at_most(
            what, f"{idle.ticks} ticks, woken {idle.switches} times", idle.ticks, MAX_IDLE_TICKS, " ticks"
        ),
    ]


def loaded_rows(loaded: Loaded) -> list[Row]:
    what = f"daemon's RSS after {loaded.series:,} label sets and {loaded.scrapes:,} scrapes"
    one = f"{loaded.scrape_seconds:.2f} s, {loaded.scrape_bytes / 1e6:.1f} MB as sent"
    return [
        at_most(
            what, f"{loaded.mib:.1f} MiB (peak {loaded.peak_mib:.1f})", loaded.mib, MAX_LOADED_MIB, " MiB"
        ),
        Row("one such scrape, as Prometheus makes it", one, loaded.scrape_seconds),
        *(rendering_row(name, against.ratios) for name, against in loaded.against.items()),
        *(wait_row(number, seconds) for number, seconds in loaded.waits.items()),
    ]


def rendering_row(name: str, ratios: list[float]) -> Row:
    what = f"generate_latest's CPU time for the same families, to that of one such scrape, {name}"
    return at_least(what, spread(ratios, ".1f"), median(ratios), MIN_RENDERING_RATIO)


def wait_row(number: int, seconds: float) -> Row:
    what = f"longest that another request waits while {number} such are answered at once"
    return at_most(what, f"{seconds * 1000:.0f} ms", seconds * 1000, MAX_WAIT_MS, " ms")


def tool_rows(runs: list[tuple[Run, Run]]) -> list[Row]:
    """Pairs of tcptracer and the naive script."""
    tools, scripts = zip(*runs, strict=True)
    ratios = [tool.per_cpu_second / script.per_cpu_second for tool, script in runs]
    events = f"of {tools[0].events:,}, at {median(tool.rate for tool in tools):,.0f} a second"
    return [
        Row(
            f"events that tcptracer lost, {events}",
            spread([tool.lost for tool in tools], ",.0f"),
            median(tool.lost for tool in tools),
        ),
        Row(
            "events that tcptracer prints to a file in a second of CPU",
            spread([tool.per_cpu_second for tool in tools], ",.0f"),
            median(tool.per_cpu_second for tool in tools),
        ),
        Row(
            "events that the naive script counts in a second of CPU",
            spread([script.per_cpu_second for script in scripts], ",.0f"),
            median(script.per_cpu_second for script in scripts),
        ),
        at_least("the one to the other", spread(ratios, ".1f"), median(ratios), MIN_TOOL_RATIO),
    ]
