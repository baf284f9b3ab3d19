"""`python -m tests.bench`: measures what tcpmon costs on this machine and prints it as a Markdown table.

Run as root from the checkout's root, on a machine with nothing else to do. Exit status 0 also where a figure
is not reached; 1 where tcpmon did not count the loop's connections exactly, or something does not run.
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

from tests.bench import figures, measure, tool
from tests.bench.measure import Plan
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
        "-n", "--rounds", type=int, metavar="N", help="rounds of interleaved runs (11, quick: 3)"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the Markdown there too")
    parser.add_argument("--json", action="store_true", help="print JSON, not Markdown")
    parser.add_argument("--quick", action="store_true", help="a rough idea in a minute")
    return parser.parse_args()


def planned(args: argparse.Namespace, folder: Path) -> Plan:
    if args.quick:
        return Plan(args.rounds or 3, connections=20_000, idle_seconds=10, scrapes=20, folder=folder)
    return Plan(args.rounds or 11, connections=60_000, idle_seconds=60, scrapes=1000, folder=folder)


def report(plan: Plan) -> dict[str, Any]:
    """Everything measured, under the names that --json prints."""
    rounds = []
    for number in range(1, plan.rounds + 1):
        progress(f"round {number} of {plan.rounds}: loop untraced, under tcpmon, under the naive script")
        rounds.append(measure.one_round(plan))
    tools = []
    for number in range(1, plan.rounds + 1):
        progress(f"round {number} of {plan.rounds}: tcptracer to a file, the naive script")
        tools.append((tool.printed(plan), tool.counted(plan)))
    progress("BPF run time")
    programs = measure.bpf_time(plan)
    progress(f"idle for {plan.idle_seconds} s")
    idle = measure.idle(plan)
    progress(f"10,000 label sets, {plan.scrapes} scrapes")
    loaded = measure.loaded(plan, progress)
    rows = [
        *figures.throughput_rows(rounds, plan),
        figures.bpf_row(programs),
        *figures.idle_rows(idle, plan),
        *figures.loaded_rows(loaded),
        *figures.tool_rows(tools),
    ]
    return {"machine": machine(), "rows": rows, "programs": programs, "rounds": rounds, "tools": tools}


def measured(args: argparse.Namespace) -> dict[str, Any]:
    if others := running_tcpmons():
        raise BenchError(f"tcpmon is running (pid {others[0]}): stop it, since under it nothing is untraced")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for program in ("loop", "labels"):
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
    text = markdown(found["machine"], found["rows"], found["programs"])
    if args.output:
        args.output.write_text(text + "\n")
    print(json.dumps(found, default=dataclasses.asdict, indent=2) if args.json else text)
    progress(summary(found["rows"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
