"""The turns: each contestant traces for about a second, between two slices that nobody traces.

A machine that is not all ours may run at half its speed for minutes. So nothing is compared but neighbours in
time: a turn with the mean of the untraced slices just before and just after it. What is told is the median of
these ratios over all rounds, and their quartiles.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from math import nan
from pathlib import Path
from statistics import mean, median

from tests.bench import bpfstats, web
from tests.bench.contestants import Contestant, Loss, Made, Tracer
from tests.bench.loops import Plan, alone, loop
from tests.bench.peers import CannotRun
from tests.bench.subjects import TICKS_PER_SECOND
from tests.bench.world import Namespace, bpf_statistics, namespace

PIECES = 5


@dataclass(frozen=True)
class Slice:
    """Connections a second by two threads on two CPUs; microseconds that one takes by one thread on one CPU;
    requests a second that a web server answers, each on a connection of its own (NaN: it was not asked)."""

    rate: float
    alone_us: float
    served: float = nan


@dataclass(frozen=True)
class Turn:
    """One contestant's. Ratios are to the untraced slices around; the tracer's own CPU in µs a connection."""

    rate_ratio: float
    alone_ratio: float
    alone_more_us: float
    user_cpu_us: float
    mib: float
    loss: Loss
    served_ratio: float = nan


@dataclass(frozen=True)
class Life:
    """A connection's whole life in a tracer's BPF programs, nobody scraping it: runs and ns by program
    (`runs` a connection, `ns` a connection), and user space's µs of CPU a connection."""

    programs: tuple[tuple[str, float, float], ...]
    user_cpu_us: float

    @property
    def ns(self) -> float:
        return sum(ns for _name, _runs, ns in self.programs)

    @property
    def runs(self) -> float:
        return sum(runs for _name, runs, _ns in self.programs)


@dataclass(frozen=True)
class Race:
    """All that was measured, by contestant; and why the others could not take part."""

    turns: dict[str, list[Turn]]
    lives: dict[str, Life]
    cannot: dict[str, str]
    untraced: list[Slice]
    empty_ns: float


def sliced(plan: Plan, ns: Namespace) -> Slice:
    """The loop in pieces, of which the median counts: what else the machine does comes in bursts."""
    rates = [loop(plan, ns, plan.connections // PIECES) for _ in range(PIECES)]
    return Slice(median(rates), alone(plan, ns, plan.alone), asked(plan))


def asked(plan: Plan) -> float:
    """The web server, in a namespace of its own: its connections are not the loops'."""
    if not plan.requests:
        return nan
    with (
        tempfile.TemporaryDirectory(dir=plan.folder) as folder,
        namespace() as ns,
        web.nginx(Path(folder), ns),
    ):
        return median(web.served(ns, plan.requests // PIECES) for _ in range(PIECES))


def made_by_slice(plan: Plan) -> Made:
    return Made(plan.connections // PIECES * PIECES + plan.alone, PIECES + 1)


def untraced(plan: Plan) -> Slice:
    with namespace() as ns:
        return sliced(plan, ns)


def turn(plan: Plan, who: Contestant, before: Slice) -> tuple[Turn, Slice]:
    """Its turn after an untraced slice; and the untraced slice after it."""
    made = made_by_slice(plan)
    with namespace() as ns, who.start(plan.folder) as tracer:
        spent = tracer.cpu_ticks()
        with tracer.scraped():
            found = sliced(plan, ns)
        tracer.settle()
        cpu = _microseconds(tracer, spent, made.connections + plan.requests)
        mib = tracer.memory_mib()
        loss = tracer.ended(ns, made)
    after = untraced(plan)
    base = Slice(*(mean(pair) for pair in zip(astuple(before), astuple(after), strict=True)))
    more = found.alone_us - base.alone_us
    served = found.served / base.served
    return Turn(found.rate / base.rate, found.alone_us / base.alone_us, more, cpu, mib, loss, served), after


def _microseconds(tracer: Tracer, ticks_before: int, connections: int) -> float:
    """User space's CPU a connection."""
    return (tracer.cpu_ticks() - ticks_before) / TICKS_PER_SECOND * 1e6 / connections


def life(plan: Plan, who: Contestant, connections: int) -> Life:
    """With the kernel's BPF statistics on, which cost a little themselves: no throughput is taken here."""
    with bpf_statistics(), namespace() as ns:
        others = set(bpfstats.programs())
        with who.start(plan.folder) as tracer:
            spent, before = tracer.cpu_ticks(), bpfstats.programs()
            alone(plan, ns, connections)
            tracer.settle()
            ran = bpfstats.since(before, others)
            cpu = _microseconds(tracer, spent, connections)
    shares = ((p.name, p.runs / connections, p.ns / connections) for p in ran)
    return Life(tuple(sorted(shares, key=lambda p: -p[2])), cpu)


def empty_ns(plan: Plan, connections: int) -> float:
    """What the kernel's measuring shows for a run of a program that does nothing."""
    with bpf_statistics(), namespace() as ns:
        others = set(bpfstats.programs())
        with bpfstats.empty_program("inet_sock_set_state"):
            alone(plan, ns, connections)
            (ran,) = bpfstats.since({}, others)
    return ran.ns / ran.runs


def race(plan: Plan, field: Sequence[Contestant], progress: Callable[[str], None]) -> Race:
    """Tries each once, with its BPF programs timed; then the rounds of those that can run, each round in
    another order."""
    lives: dict[str, Life] = {}
    cannot: dict[str, str] = {}
    for who in field:
        progress(f"BPF time: {who.name}")
        try:
            lives[who.name] = life(plan, who, plan.connections)
        except CannotRun as error:
            cannot[who.name] = str(error)
            progress(f"{who.name} cannot run: {error}")
    empty = empty_ns(plan, plan.connections)
    able = [who for who in field if who.name in lives]
    turns: dict[str, list[Turn]] = {who.name: [] for who in able}
    slices = [untraced(plan), untraced(plan)]  # the first warms up
    for number in range(plan.rounds):
        progress(f"round {number + 1} of {plan.rounds}")
        for who in order(able, number):
            found, after = turn(plan, who, slices[-1])
            turns[who.name].append(found)
            slices.append(after)
    return Race(turns, lives, cannot, slices[1:], empty)


def order(field: Sequence[Contestant], number: int) -> list[Contestant]:
    """Those that have several turns have them apart; each round begins with another."""
    most = max(who.again for who in field)
    passes = ([who for who in field if who.again > turn] for turn in range(most))
    line = list(itertools.chain.from_iterable(passes))
    start = number * 3 % len(line)
    return line[start:] + line[:start]
