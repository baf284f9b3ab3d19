"""The run: windows of traffic, scrapes and reloads, each with a checkpoint at its end."""

from __future__ import annotations

import os
import re
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from harness.daemon import Daemon
from harness.helpers import build
from harness.polling import eventually
from helpers.b_reload import STAMP

from . import ledger
from .checkpoint import Checkpoints, Found, Truth
from .crew import Cast, Crew
from .figures import Sample, sample
from .journald import StandIn
from .keepers import Keeper
from .ledger import Ledger
from .trace import TraceWitness

CREWS = 3
KEEPERS = 5
COMMS = 48
WINDOW_S = 30.0
SCRAPE_EVERY_S, RELOAD_EVERY_S, LOOK_EVERY_S = 1.0, 2.5, 0.05
RELOADED_S = 60.0
ACCEPT = ("text/plain", "application/openmetrics-text; version=1.0.0")

# Each lets all of this traffic pass
PASSING: list[dict[str, Any]] = [
    {},
    {"port": {"exclude": [1, "3-5"]}},
    {"remote": {"include": ["127.0.0.0/8", "10.0.0.0/8", "::/0"]}},
    {"uid": {"include": ["root"]}, "family": "both"},
]


@dataclass(frozen=True)
class Plan:
    """`seconds` in all; `series_ttl` as in the configuration, 0 to keep all label sets apart."""

    seconds: float
    seed: int
    series_ttl: str = "0"
    scale: float = 1.0

    @property
    def folds(self) -> bool:
        return self.series_ttl != "0"

    @property
    def windows(self) -> int:
        """At least three: one without the journal, one with it, one that it was on before."""
        return max(3, round(self.seconds / WINDOW_S))

    @property
    def window_s(self) -> float:
        return self.seconds / self.windows


@dataclass
class Outcome:
    """What was seen, for the summary."""

    truth: Truth = field(default_factory=Truth)
    samples: list[Sample] = field(default_factory=list)
    quiet: list[Sample] = field(default_factory=list)  # without traffic, scrapes and the journal
    found: list[Found] = field(default_factory=list)
    scenes: int = 0
    scrapes: int = 0
    reloads: int = 0
    seconds: float = 0.0
    most_open: int = 0
    tracked_end: float = -1
    series: int = 0
    lost: dict[str, float] = field(default_factory=dict)


class Soak:
    """One run, on a daemon of its own."""

    def __init__(
        self, plan: Plan, cast: Cast, daemon: Daemon, journal: StandIn, checkpoints: Checkpoints
    ) -> None:
        self._plan, self._cast, self._daemon, self._journal = plan, cast, daemon, journal
        self._checkpoints = checkpoints
        self._random = Random(plan.seed)
        self._crews = [Crew(cast) for _ in range(CREWS)]
        self._keepers: list[Keeper] = []
        self._journal_on = False
        self._turns = [
            Every(SCRAPE_EVERY_S, self._scrape),
            Every(RELOAD_EVERY_S, self._reload),
            Every(LOOK_EVERY_S, self._keep),
            Every(LOOK_EVERY_S, self._play),
        ]
        self.outcome = Outcome()

    def run(self, progress: Callable[[str], None]) -> Outcome:
        start = time.monotonic()
        for number in range(self._plan.windows):
            self._switch_journal(number % 3 == 1)
            self._window()
            if number == self._plan.windows - 1:
                self._close_keepers()
            self._check()
            if not self._journal_on:
                self.outcome.quiet.append(sample(self._daemon.pid))
            progress(self._line(time.monotonic() - start))
        self.outcome.seconds = time.monotonic() - start
        self._last_look()
        return self.outcome

    def end(self) -> None:
        """Nothing that it made is left."""
        for keeper in self._keepers:
            keeper.leave()
        for crew in self._crews:
            crew.end()

    def _window(self) -> None:
        until = time.monotonic() + self._plan.window_s
        while time.monotonic() < until:
            for turn in self._turns:
                turn.take()
            time.sleep(LOOK_EVERY_S)
        for crew in self._crews:
            self._book(crew.done(wait=True))

    def _play(self) -> None:
        for crew in self._crews:
            self._book(crew.done())
            if not crew.busy:
                crew.play(self._random.getrandbits(64))

    def _book(self, done: Ledger | None) -> None:
        if done is None:
            return
        self.outcome.scenes += 1
        self._add(done)

    def _add(self, done: Ledger) -> None:
        truth = self.outcome.truth
        truth.done.update(done)
        if self._journal_on:
            truth.told.update(ledger.to_be_told(done))
        self.outcome.most_open = max(self.outcome.most_open, truth.open())

    def _keep(self) -> None:
        """One is closed and one is opened, where there is one to."""
        for keeper in self._keepers:
            keeper.talk()
        over = next((keeper for keeper in self._keepers if keeper.is_over()), None)
        if over:
            self._keepers.remove(over)
            self._add(over.close())
        if len(self._keepers) < KEEPERS:
            life_s = self._random.uniform(0.05, 0.5) * self._plan.seconds
            self._keepers.append(Keeper(Random(self._random.getrandbits(64)), self._cast, life_s))
            self._add(self._keepers[-1].open())

    def _close_keepers(self) -> None:
        while self._keepers:
            self._add(self._keepers.pop().close())

    def _scrape(self) -> None:
        text = self._daemon.get(Accept=ACCEPT[self.outcome.scrapes % 2])
        assert "tcpmon_build_info{" in text
        self.outcome.scrapes += 1
        label_sets = re.search(r"^tcpmon_series (\d+)", text, re.MULTILINE)
        assert label_sets
        self.outcome.samples.append(sample(self._daemon.pid, int(label_sets[1])))

    def _reload(self) -> None:
        self._daemon.write_config(self._config())
        os.kill(self._daemon.pid, signal.SIGHUP)
        self.outcome.reloads += 1

    def _switch_journal(self, on: bool) -> None:
        self._journal_on = on
        before = self._daemon.scrape(STAMP).value(STAMP)
        self._reload()
        eventually(lambda: self._expect_reload_after(before), RELOADED_S)

    def _expect_reload_after(self, before: float) -> None:
        after = self._daemon.scrape(STAMP).value(STAMP)
        assert after > before, f"no reload after {before}: {after}\n{self._daemon.stderr()[-2000:]}"

    def _config(self) -> dict[str, Any]:
        return config(self._plan, self._cast, self._journal_on, self.outcome.reloads)

    def _check(self) -> None:
        self.outcome.found.append(self._checkpoints.look(self.outcome.truth))

    def _last_look(self) -> None:
        self._switch_journal(False)
        first = self.outcome.quiet[0]
        with suppress(AssertionError):  # the summary tells
            eventually(lambda: self._expect_no_more_than(first))
        self.outcome.quiet.append(sample(self._daemon.pid))
        scrape = self._daemon.scrape("tcpmon_")
        self.outcome.tracked_end = scrape.value("tcpmon_tracked_connections")
        self.outcome.series = int(scrape.value("tcpmon_series"))
        rows = scrape.series("tcpmon_lost_events_total")
        self.outcome.lost = {labels["stage"]: value for labels, value in rows}

    def _expect_no_more_than(self, first: Sample) -> None:
        now = sample(self._daemon.pid)
        assert (now.descriptors, now.threads) <= (first.descriptors, first.threads)

    def _line(self, seconds: float) -> str:
        now, found, last = self.outcome, self.outcome.found[-1], self.outcome.samples[-1]
        done = sum(now.truth.done.values())
        said = "; ".join(found.wrong) or "exact"
        hidden = f", {found.hidden} events hidden by the kernel" if found.is_excused else ""
        return (
            f"{seconds:4.0f} s: {now.scenes} scenes, {done} events, {now.scrapes} scrapes, "
            f"{now.reloads} reloads, "
            f"RSS {last.rss_kib / 1024:.1f} MiB, {last.descriptors} descriptors, {last.threads} threads"
            f"{hidden}: {said}"
        )


class Every:
    """Something that is done every so many seconds, or as often as there is time."""

    def __init__(self, period_s: float, what: Callable[[], None]) -> None:
        self._period_s, self._what = period_s, what
        self._due = time.monotonic()

    def take(self) -> None:
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + self._period_s
            self._what()


def config(plan: Plan, cast: Cast, journal: bool, turn: int) -> dict[str, Any]:
    return {
        "filters": {"comm": cast.comms, **PASSING[turn % len(PASSING)]},
        "metrics": {"series_ttl": plan.series_ttl if plan.folds else 0},
        "events": {"journal": journal, "rate_limit": 0, "buffer": "4MiB"},
    }


@contextmanager
def prepared(plan: Plan) -> Iterator[Soak]:
    """A soak that can begin."""
    with ExitStack() as made:
        folder = Path(made.enter_context(tempfile.TemporaryDirectory(prefix="tcpmon-soak-")))
        folder.chmod(0o755)  # the daemon reads its configuration anew, and is not root any more
        for name in ("programs", "journald"):
            (folder / name).mkdir()
        comms = [f"sk{os.getpid() % 4096:x}.{number}" for number in range(COMMS)]
        cast = Cast(comms, build(folder / "programs"), plan.scale)
        journal = StandIn(folder / "journald")
        made.callback(journal.close)
        witness = TraceWitness()
        made.callback(witness.close)
        first = config(plan, cast, False, 0)
        daemon = made.enter_context(Daemon(folder, first, lossy=True, launch=journal.launch))
        checkpoints = Checkpoints(daemon, journal, witness, may_fold=plan.folds)
        soak = Soak(plan, cast, daemon, journal, checkpoints)
        made.callback(soak.end)
        yield soak


def total(done: Ledger) -> Counter[str]:
    """Of all label sets."""
    return Counter({key[3]: count for key, count in ledger.summed(done).items()})
