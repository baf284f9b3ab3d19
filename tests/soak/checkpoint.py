"""All traffic rests for a moment: is what was counted, and told, what happened?"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from harness.daemon import Daemon
from harness.metrics import Metrics, parse
from harness.polling import eventually
from harness.witness import Witness

from . import ledger
from .journald import StandIn
from .ledger import Ledger

_DEADLINE_S = 3.0
_WRITTEN, _TRACKED = "tcpmon_journal_events_total", "tcpmon_tracked_connections"


@dataclass
class Truth:
    """What happened so far, and what of it the kernel is known to have hidden from BPF."""

    done: Ledger = field(default_factory=Counter)
    told: Ledger = field(default_factory=Counter)  # what the journal was on for
    hidden: Ledger = field(default_factory=Counter)
    hidden_told: Ledger = field(default_factory=Counter)

    def counted(self) -> Ledger:
        found = ledger.to_be_counted(self.done)
        found.update(self.hidden)
        return found

    def entries(self) -> Ledger:
        found = Counter(self.told)
        found.update(self.hidden_told)
        return found

    def open(self) -> int:
        return sum(count for key, count in self.counted().items() if key[3].startswith("open "))


@dataclass(frozen=True)
class Found:
    """What does not hold, in words, and how many events the kernel hid from BPF meanwhile."""

    wrong: list[str]
    hidden: int

    @property
    def is_excused(self) -> bool:
        return self.hidden > 0


class Checkpoints:
    """Compares, again and again; each time only what came since the last is judged anew."""

    def __init__(self, daemon: Daemon, journal: StandIn, witness: Witness, may_fold: bool) -> None:
        self._daemon, self._journal, self._witness = daemon, journal, witness
        self._differ = ledger.folded if may_fold else ledger.difference
        self._may_fold = may_fold
        self._hidden = 0
        self._lost: dict[str, float] = {}

    def look(self, truth: Truth) -> Found:
        wrong = [*self._counts(truth), *self._entries(truth), *self._tracked(truth), *self._losses()]
        hidden = self._witness.hidden() - self._hidden
        self._hidden += hidden
        return Found(wrong, hidden)

    def _counts(self, truth: Truth) -> list[str]:
        """By label set; the identities too, of the scrape by itself."""
        seen: list[Ledger] = []

        def same() -> None:
            seen[:] = [ledger.counted(self._daemon.get())]
            assert not self._differ(seen[0], truth.counted())

        try:
            eventually(same, _DEADLINE_S)
        except AssertionError:
            wrong = self._differ(seen[0], truth.counted())
            truth.hidden.update(wrong)  # from here on; it is told now
            return ["counted, beyond what happened: " + "; ".join(ledger.lines(wrong))]
        return [f"identities do not hold: {each}" for each in ledger.unbalanced(seen[0])]

    def _entries(self, truth: Truth) -> list[str]:
        def same() -> None:
            assert not ledger.difference(self._journal.entries(), truth.entries())
            assert self._metrics().value(_WRITTEN) == sum(truth.entries().values())

        try:
            eventually(same, _DEADLINE_S)
        except AssertionError:
            got = self._journal.entries()
            wrong = ledger.difference(got, truth.entries())
            truth.hidden_told.update(wrong)
            said = (
                f"{self._metrics().value(_WRITTEN):.0f} written by its own count, {sum(got.values())} taken"
            )
            return [f"in the journal, beyond what happened ({said}): " + "; ".join(ledger.lines(wrong))]
        return []

    def _tracked(self, truth: Truth) -> list[str]:
        def same() -> None:
            assert self._metrics().value(_TRACKED) == truth.open()

        try:
            eventually(same, _DEADLINE_S)
        except AssertionError:
            return [f"{self._metrics().value(_TRACKED):.0f} connections tracked, {truth.open()} open"]
        return []

    def _losses(self) -> list[str]:
        """New ones, of any stage."""
        rows = self._metrics().series("tcpmon_lost_events_total")
        lost = {labels["stage"]: value for labels, value in rows if value}
        new = {stage: value - self._lost.get(stage, 0) for stage, value in lost.items()}
        self._lost = lost
        return [f"{count:.0f} events lost at stage {stage}" for stage, count in new.items() if count]

    def _metrics(self) -> Metrics:
        """All but the series."""
        names = (_WRITTEN, _TRACKED, "tcpmon_lost_events_total{")
        return parse("\n".join(line for line in self._daemon.get().splitlines() if line.startswith(names)))
