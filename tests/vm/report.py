"""What the guest says, as results; the line for each as it comes, and the table at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.vm.console import say

# What is ours on a line that anything in the guest may write to
MARK = "tcpmon-vm "


@dataclass
class PartResult:
    """Of one part on one machine. `ended` says how, once it has: passed, or why not."""

    machine: str
    part: str
    outcomes: dict[str, int] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0
    ended: str = "not run"
    tables: list[str] = field(default_factory=list)  # Markdown

    @property
    def passed(self) -> bool:
        return self.ended == "passed"

    def counts(self) -> str:
        return ", ".join(f"{number} {outcome}" for outcome, number in sorted(self.outcomes.items()))


class Results:
    """Of one machine: takes the guest's lines, prints progress."""

    def __init__(self, machine: str, parts: Iterable[str]) -> None:
        self.machine = machine
        self.parts = {part: PartResult(machine, part) for part in parts}

    @property
    def complete(self) -> bool:
        return all(result.ended != "not run" for result in self.parts.values())

    def take(self, line: str) -> None:
        _, mark, text = line.partition(MARK)
        if not mark:
            return
        try:
            record = json.loads(text)
        except ValueError:
            say(f"{self.machine}: a garbled line: {line[:200]}")
            return
        takers: dict[str, Callable[..., None]] = {
            "test": self._test,
            "end": self._end,
            "note": self._note,
            "table": self._table,
        }
        takers[record.pop("kind")](**record)

    def _test(self, part: str, test: str, outcome: str, seconds: float, text: str) -> None:
        result = self.parts[part]
        result.outcomes[outcome] = result.outcomes.get(outcome, 0) + 1
        if outcome == "failed":
            result.failures.append((test, text))
        said = {"skipped": f" ({text})", "failed": f": {_reason(text)}"}.get(outcome, "")
        say(f"{self.machine}  {part}  {outcome}  {test}  {seconds:.1f} s{said}")

    def _end(self, part: str, ended: str, seconds: float, text: str) -> None:
        result = self.parts[part]
        result.ended, result.seconds = ended, seconds
        if not result.passed and not result.failures:
            result.failures.append((part, text))
        say(f"{self.machine}  {part}: {ended} in {seconds:.0f} s ({result.counts() or 'no tests'})")

    def _table(self, part: str, text: str) -> None:
        self.parts[part].tables.append(text)

    def _note(self, text: str) -> None:
        say(f"{self.machine}  {text}")


def _reason(text: str) -> str:
    """The first line that pytest marks as the error's."""
    return next((line[1:].strip() for line in text.splitlines() if line.startswith("E ")), "see below")


def table(results: Iterable[PartResult]) -> str:
    rows = [("kernel", "part", "result", "tests", "seconds")]
    rows += [(r.machine, r.part, r.ended, r.counts(), f"{r.seconds:.0f}") for r in results]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def failures(results: Iterable[PartResult]) -> str:
    """What failed, each with its output; the same output (of a fixture that failed) once."""
    shown: dict[str, str] = {}
    parts = []
    for result in results:
        for test, text in result.failures:
            title = f"{result.machine}  {result.part}  {test}"
            first = shown.setdefault(_end_of(text), title)
            parts.append(f"\n===== {title}\n{text if first is title else f'as in {first}'}\n")
    return "".join(parts)


def _end_of(text: str) -> str:
    return "\n".join(text.splitlines()[-12:])
