"""`python -m tests.bench`: measures what tcpmon costs on this machine and prints it as a Markdown table.

Run as root from the checkout's root, on a machine with nothing else to do. Exit status 0 also where a figure
is not reached; 1 where something does not run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench import contestants, figures, measure, peers, tool
from tests.bench.loops import Plan
from tests.bench.restart import restart_seconds
from tests.bench.rounds import race
from tests.bench.subjects import BenchError
from tests.bench.table import markdown, summary
from tests.bench.world import compiled, machine, running_tcpmons


def progress(what: str) -> None:
    print(f"bench: {what}", file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description="What tcpmon costs on this machine."
    )
    parser.add_argument(
        "-n", "--rounds", type=int, metavar="N", help="rounds of the contest (12; 5; quick: 2)"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the Markdown there too")
    parser.add_argument("--json", action="store_true", help="print JSON, not Markdown")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a rough idea, in three minutes")
    size.add_argument("--middle", action="store_true", help="what docs/bench.md is made with: ten minutes")
    return parser.parse_args()


def planned(args: argparse.Namespace, folder: Path) -> Plan:
    if args.quick:
        return Plan(args.rounds or 2, 10_000, 4_000, 5_000, 1, idle_seconds=5, scrapes=10, folder=folder)
    if args.middle:
        return Plan(args.rounds or 5, 15_000, 6_000, 7_500, 2, idle_seconds=20, scrapes=50, folder=folder)
    return Plan(args.rounds or 12, 30_000, 12_000, 15_000, 5, idle_seconds=60, scrapes=1000, folder=folder)


def report(plan: Plan) -> dict[str, Any]:
    """Everything measured, under the names that --json prints."""
    about = machine()
    with contestants.journald(plan.folder):
        found = race(plan, [*contestants.OURS, *contestants.others(peers.PEERS)], progress)
    tools = []
    for number in range(1, plan.tool_rounds + 1):
        progress(f"round {number} of {plan.tool_rounds}: tcptracer to a file, the naive script")
        tools.append((tool.printed(plan), tool.counted(plan)))
    progress("starts and restarts")
    starts = [measure.start_seconds(plan) for _ in range(plan.tool_rounds + 2)]
    restarts = restart_seconds(plan.folder, plan.tool_rounds + 2)
    progress(f"idle for {plan.idle_seconds} s")
    idle = measure.idle(plan)
    progress(f"500 and 10,000 label sets, {plan.scrapes} scrapes of each")
    few, many = (measure.loaded(plan, comms, 100, plan.scrapes) for comms in (5, 100))
    progress("the same scrapes by prometheus_client's generate_latest, and what waits meanwhile")
    rendered = measure.rendered(plan, 100, 100)
    rows = [
        *figures.race_rows(found),
        *figures.loaded_rows(few, many),
        *figures.rendering_rows(rendered),
        figures.restart_row(restarts),
        *figures.idle_rows(idle, starts, plan),
        *figures.tool_rows(tools),
    ]
    return {"machine": about, "rows": rows, "race": found, "tools": tools}


def measured(args: argparse.Namespace) -> dict[str, Any]:
    if others := running_tcpmons():
        raise BenchError(f"tcpmon is running (pid {others[0]}): stop it, since under it nothing is untraced")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for program in ("loop", "alone", "labels"):
            compiled(program, folder)
        return report(planned(args, folder))


def main() -> int:
    args = arguments()
    if os.geteuid():
        print("bench: not root\n  hint: run it with sudo", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        found = measured(args)
    except (BenchError, subprocess.CalledProcessError) as error:
        progress(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    text = markdown(found["machine"], found["rows"], found["race"])
    if args.output:
        args.output.write_text(text + "\n")
    print(json.dumps(found, default=dataclasses.asdict, indent=2) if args.json else text)
    progress(summary(found["rows"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
