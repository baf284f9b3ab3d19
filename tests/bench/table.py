"""The report, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isnan
from pathlib import Path
from statistics import median

from tests.bench.figures import Row, spread
from tests.bench.rounds import Life, Race, Turn

REACHED = {None: "", True: "yes", False: "**no**"}
HOW = """\
Each contestant traces for about a second, and just before and just after nobody does: a ratio is that of its
second to the mean of these two. What stands here is the median of such ratios, with the quartiles in
brackets. On a machine that others use too the throughput of both may change by half within minutes; what one
thread takes on one CPU for a connection (the median of chunks of 20 connections, shorter than the scheduler's
turns) is the steadier measure.
"""
LINKS = "As `make bench` writes it. On many CPUs: [hot-keys.md](hot-keys.md)."
KERNELS_LINK = (
    " On other kernels, beside the tools that run there only: [bench-kernels.md](bench-kernels.md)."
)
KERNELS = Path(__file__).parents[2] / "docs" / "bench-kernels.md"  # `python -m tests.vm bench` makes it
COLUMNS = """\
- **throughput**: connections a second of a loop of two threads on two CPUs (one connects and closes, the
  other accepts and closes; the median of five pieces), by those untraced. User space of a tracer takes its
  part of these CPUs. tcpmon and the naive script are scraped once a second.
- **nginx**: requests a second that it answers to `ab`, for 4 KiB and with a connection for each, by those
  untraced; one worker, one client, two CPUs.
- **one CPU, more**: what the tracer adds to a connection's time in a loop of one thread on one CPU, in µs,
  and as a part of the untraced time: the kernel's side only, the tracepoints' own overhead and that of the
  ring included.
- **BPF**: time in the tracer's BPF programs for a connection's whole life, both ends, as the kernel measures
  it (`kernel.bpf_stats_enabled`), and the runs in it.
- **user CPU**: CPU time of the tracer's processes, for a connection; tcpmon's without a scrape.
- **RSS**: of its processes, in the last turn.
- **lost**: of the events that it should have told or counted: those that it said it lost, and those that are
  missing besides.
"""


def markdown(about: dict[str, str], rows: list[Row], race: Race) -> str:
    first = next(iter(race.lives))
    parts = [
        "# What tcpmon costs",
        LINKS + KERNELS_LINK * KERNELS.exists(),
        table(("", ""), about.items()),
        "## Figures",
        figures(rows),
        "## The contest",
        *contest(race),
        "### Columns",
        COLUMNS.rstrip(),
        f"### BPF programs of {first}, for a connection",
        programs(race.lives[first]),
    ]
    return "\n\n".join(parts)


def figures(rows: list[Row]) -> str:
    return "\n\n".join([table(("what", "measured", "reach", "reached"), map(cells, rows)), summary(rows)])


def contest(race: Race) -> list[str]:
    """The contestants' table; who cannot run, and why."""
    header = ("", "turns", "throughput", "nginx", "one CPU, more", "BPF", "user CPU", "RSS", "lost")
    untraced = ("untraced", str(len(race.untraced)), *_base(race), "", "", "", "")
    parts = [
        HOW.rstrip(),
        table(header, [untraced, *(_entry(name, race) for name in race.turns)]),
        f"Of the BPF time {race.empty_ns:.0f} ns a run are the measuring's own.",
    ]
    if race.cannot:
        reasons = ((name, f"`{reason.replace('|', ' ')}`") for name, reason in race.cannot.items())
        parts += ["Cannot run on this kernel, each in its own words:", table(("", "why"), reasons)]
    return parts


def _base(race: Race) -> tuple[str, str, str]:
    rates = spread([one.rate for one in race.untraced], ",.0f")
    served = _served([one.served for one in race.untraced], ",.0f", " a second")
    alone = spread([one.alone_us for one in race.untraced], ".1f")
    return f"{rates} a second", served, f"{alone} µs, of itself"


def _served(found: list[float], form: str, unit: str = "") -> str:
    """Of the web server; nothing where it was not asked."""
    return "" if any(map(isnan, found)) else spread(found, form) + unit


def _entry(name: str, race: Race) -> tuple[str, ...]:
    turns, life = race.turns[name], race.lives[name]
    ratios = spread([turn.rate_ratio for turn in turns], ".3f")
    return (
        name,
        str(len(turns)),
        ratios,
        _served([turn.served_ratio for turn in turns], ".3f"),
        _more(turns),
        f"{life.ns:,.0f} ns, {life.runs:.1f} runs",
        f"{life.user_cpu_us:.1f} µs",
        f"{turns[-1].mib:.0f} MiB",
        _lost(turns),
    )


def _more(turns: Sequence[Turn]) -> str:
    more = spread([turn.alone_more_us for turn in turns], ".1f")
    return f"{more} µs, {median(turn.alone_ratio for turn in turns) - 1:.1%}"


def _lost(turns: Sequence[Turn]) -> str:
    events = sum(turn.loss.events for turn in turns)
    told, silent = sum(turn.loss.told for turn in turns), sum(turn.loss.silent for turn in turns)
    return f"{told:,} told, {silent:,} silently, of {events:,}" if told or silent else f"0 of {events:,}"


def programs(life: Life) -> str:
    rows = (
        (name, f"{runs:.2f}", f"{ns:.0f}", f"{ns / runs:.0f}") for name, runs, ns in life.programs if runs
    )
    return table(("program", "runs", "ns", "ns a run"), rows)


def cells(row: Row) -> tuple[str, str, str, str]:
    return row.what, row.measured, row.reach, REACHED[row.reached]


def table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def summary(rows: list[Row]) -> str:
    judged = [row for row in rows if row.reached is not None]
    missed = [row.what for row in judged if not row.reached]
    if not missed:
        return f"All {len(judged)} figures are reached."
    return f"{len(missed)} of {len(judged)} figures are not reached: {'; '.join(missed)}."
