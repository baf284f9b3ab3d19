"""What bcc's tools, libbpf-tools' and tcpmon cost here: turns between untraced ones, as `make bench` has
them."""

from __future__ import annotations

import os
from pathlib import Path

from tests.bench import contestants
from tests.bench.loops import Plan
from tests.bench.peers import PEERS
from tests.bench.rounds import race
from tests.bench.table import contest, table
from tests.bench.world import compiled, machine
from tests.vm.guest.line import tell

MACHINE, PART = os.environ["TCPMON_VM_MACHINE"], os.environ["TCPMON_VM_PART"]
LIBBPF = "libbpf-tools' tcptracer"
ONE_BY_ONE = ("bcc's tcptracer", "bcc's tcpconnect", "bcc's tcpaccept")
AT_ONCE = "bcc's tcptracer, tcpconnect and tcpaccept at once"
# From 6.12 on bcc 0.26's do not compile: one of them is tried all the same
TRIED = {"6.1": (*ONE_BY_ONE, AT_ONCE, LIBBPF), "6.12": (ONE_BY_ONE[0], LIBBPF)}[MACHINE]
ABLE = {"6.1": TRIED, "6.12": (LIBBPF,)}[MACHINE]
OURS = (contestants.METRICS, contestants.EVERYTHING, contestants.NAIVE)


def test_contest(tmp_path: Path) -> None:
    for program in ("loop", "alone"):
        compiled(program, tmp_path)
    wanted = tuple(peer for peer in PEERS if peer.name in TRIED)
    found = race(plan(tmp_path), [*OURS, *contestants.others(wanted)], lambda text: tell("note", text=text))
    heading = f"## Linux {os.uname().release}"
    tell("table", part=PART, text="\n\n".join([heading, table(("", ""), machine().items()), *contest(found)]))
    assert set(found.turns) == {who.name for who in OURS} | set(ABLE), found.cannot
    for who in OURS[:2]:
        assert not sum(turn.loss.told + turn.loss.silent for turn in found.turns[who.name])


def plan(folder: Path) -> Plan:
    """A tool's start takes a minute, and a turn a few seconds."""
    return Plan(
        rounds=3,
        connections=2000,
        alone=600,
        requests=0,
        tool_rounds=0,
        idle_seconds=0,
        scrapes=0,
        folder=folder,
    )
