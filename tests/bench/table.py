"""The report, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from tests.bench.figures import Row
from tests.bench.measure import Program

REACHED = {None: "", True: "yes", False: "**no**"}


def markdown(about: dict[str, str], rows: list[Row], programs: list[Program]) -> str:
    return "\n\n".join(
        [
            "# What tcpmon costs",
            "As `make bench` prints it. Medians of interleaved runs, with the range in brackets.",
            table(("", ""), about.items()),
            table(("what", "measured", "reach", "reached"), map(cells, rows)),
            summary(rows),
            "## BPF programs, per connection",
            table(
                ("program", "runs", "µs"),
                ((p.name, f"{p.runs:.2f}", f"{p.microseconds:.3f}") for p in programs),
            ),
        ]
    )


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
