"""From measurements to rows: what was measured, what is to be reached, and whether it was."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan
from statistics import median, quantiles

from tests.bench.contestants import EVERYTHING, METRICS
from tests.bench.loops import Plan
from tests.bench.measure import Idle, Loaded
from tests.bench.rendering import Rendering
from tests.bench.rounds import Race, Turn
from tests.bench.tool import Run

MIN_RATIO = 0.97
MAX_USER_CPU = 0.0
MAX_500_MIB, MAX_10_000_MIB = 32.0, 96.0
MAX_START_SECONDS, MAX_RESTART_SECONDS = 1.5, 0.5
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
    """The median, and the quartiles where there are enough for that, else the range."""
    if len(values) < 2:
        return format(median(values), form)
    low, _, high = quantiles(values, n=4, method="inclusive")
    return f"{median(values):{form}} ({low:{form}} to {high:{form}})"


def race_rows(race: Race) -> list[Row]:
    metrics, everything = race.turns[METRICS.name], race.turns[EVERYTHING.name]
    cpu = race.lives[METRICS.name].user_cpu_us
    return [
        *ratio_rows("everything on (metrics and journal)", everything),
        *ratio_rows("metrics only", metrics),
        at_most(
            "CPU of user space for an event in metrics-only mode, between scrapes",
            f"{cpu:.2f} µs",
            cpu,
            MAX_USER_CPU,
            " µs",
        ),
        losses_row([*metrics, *everything]),
    ]


def ratio_rows(how: str, turns: Sequence[Turn]) -> list[Row]:
    """Of the loop that does nothing but connect, accept and close, and of a web server."""
    ratios = {
        f"throughput with {how}, of untraced": [turn.rate_ratio for turn in turns],
        f"the same of nginx, a connection for each request, {how}": [turn.served_ratio for turn in turns],
    }
    return [
        at_least(what, spread(found, ".3f"), median(found), MIN_RATIO)
        for what, found in ratios.items()
        if not any(map(isnan, found))
    ]


def losses_row(turns: Sequence[Turn]) -> Row:
    events = sum(turn.loss.events for turn in turns)
    told, silent = (sum(getattr(turn.loss, name) for turn in turns) for name in ("told", "silent"))
    what = f"events lost in these turns, of {events:,}: told by tcpmon, and missing besides"
    return at_most(what, f"{told:,} and {silent:,}", told + silent, 0)


def idle_rows(idle: Idle, starts: list[float], plan: Plan) -> list[Row]:
    what = f"CPU of the idle daemon in {plan.idle_seconds} s, no scrapes"
    woken = f"{idle.ticks} ticks, woken {idle.switches} times"
    return [
        at_most(
            "start to first counted event",
            spread(starts, ".2f") + " s",
            median(starts),
            MAX_START_SECONDS,
            " s",
        ),
        at_most(what, woken, idle.ticks, MAX_IDLE_TICKS, " ticks"),
        Row("daemon's RSS after start", f"{idle.start_mib:.1f} MiB", idle.start_mib),
    ]


def loaded_rows(few: Loaded, many: Loaded) -> list[Row]:
    one = f"{many.scrape_seconds:.2f} s, {many.scrape_bytes / 1e6:.1f} MB as sent"
    return [
        _memory_row(few, MAX_500_MIB),
        _memory_row(many, MAX_10_000_MIB),
        Row(f"one scrape of {many.series:,} label sets, as Prometheus makes it", one, many.scrape_seconds),
    ]


def _memory_row(loaded: Loaded, bound: float) -> Row:
    what = f"daemon's RSS at {loaded.series:,} label sets, after {loaded.scrapes:,} scrapes"
    return at_most(what, f"{loaded.mib:.1f} MiB (peak {loaded.peak_mib:.1f})", loaded.mib, bound, " MiB")


def restart_row(seconds: list[float]) -> Row:
    what = "restart to READY, with the descriptors that systemd kept"
    return at_most(what, spread(seconds, ".2f") + " s", median(seconds), MAX_RESTART_SECONDS, " s")


def rendering_rows(found: Rendering) -> list[Row]:
    return [
        *(rendering_row(name, against.ratios) for name, against in found.against.items()),
        *(wait_row(number, seconds) for number, seconds in found.waits.items()),
    ]


def rendering_row(name: str, ratios: list[float]) -> Row:
    what = f"generate_latest's CPU time to that of a scrape of 10,000 label sets, {name}"
    return at_least(what, spread(ratios, ".1f"), median(ratios), MIN_RENDERING_RATIO)


def wait_row(number: int, seconds: float) -> Row:
    what = f"longest that another request waits while {number} of 10,000 label sets are answered at once"
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
