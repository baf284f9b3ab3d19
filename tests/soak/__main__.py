"""`python -m tests.soak`: an hour of mixed traffic in ten minutes, and whether every count was exact.

Run as root from the checkout's root. Exit status 1 where something does not hold that no event which the
kernel hid from BPF explains (tests/live/harness/witness.py).
"""

from __future__ import annotations

import argparse
import os
import random
import sys

from . import summary
from .soak import Plan, prepared


def progress(what: str) -> None:
    print(f"soak: {what}", file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Mixed traffic, for long.")
    parser.add_argument("--minutes", type=float, default=10.0, metavar="N", help="how long (10)")
    parser.add_argument("--seed", type=int, metavar="N", help="play the same scenes again")
    parser.add_argument(
        "--scale", type=float, default=1.0, metavar="X", help="so many times the connections (1)"
    )
    parser.add_argument(
        "--series-ttl",
        default="0",
        metavar="TIME",
        help="metrics.series_ttl; but for 0, the default, label sets may fold into _other meanwhile",
    )
    return parser.parse_args()


def main() -> int:
    args = arguments()
    if os.geteuid():
        progress("not root\n  hint: run it with sudo")
        return 1
    seed = random.getrandbits(32) if args.seed is None else args.seed
    plan = Plan(args.minutes * 60, seed, args.series_ttl, args.scale)
    progress(f"{args.minutes:g} minutes, --seed {seed}")
    with prepared(plan) as soak:
        seen = soak.run(progress)
    print(summary.table(plan, seen))
    for each in summary.excused(seen):
        progress(f"excused: {each}")
    for each in summary.faults(plan, seen):
        progress(f"does not hold: {each}")
    return bool(summary.faults(plan, seen))


if __name__ == "__main__":
    sys.exit(main())
