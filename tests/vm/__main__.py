"""`python -m tests.vm [PART …]`, see --help: the tests on other kernels.

Run as root from the checkout's root. Exit status 0 if all that was asked for passed, else 1.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.vm import image, kernel, project, qemu
from tests.vm.console import VmError, say
from tests.vm.machines import DEBIANS, MACHINES, Machine
from tests.vm.parts import DEFAULT, PARTS, SHORT
from tests.vm.report import PartResult, Results, failures, table

REPORT = """\
# What tcpmon costs on other kernels

As `python -m tests.vm bench --report docs/bench-kernels.md` writes it: Debian's kernels under software
emulation, ten to twenty times slower than iron, so that ratios tell something, and times only beside each
other. What the columns mean is told in [bench.md](bench.md#columns).
"""

NO_RESULT = "no result"


def main() -> int:
    args = arguments()
    if args.list:
        listing()
        return 0
    results: list[PartResult] = []
    folder = Path(tempfile.mkdtemp(prefix="tcpmon-vm-"))
    try:
        with ThreadPoolExecutor(args.jobs) as pool:
            for found in pool.map(lambda name: on(MACHINES[name], args.plan[name], folder), args.plan):
                results += found
    finally:
        if args.keep:
            say(f"kept: {folder}")
        else:
            shutil.rmtree(folder)
    measured = "\n\n".join(text for result in results for text in result.tables)
    if args.report and measured:
        args.report.write_text(f"{REPORT}\n{measured}\n")
    print(measured + failures(results) + "\n" + table(results), flush=True)
    passed = sum(result.passed for result in results)
    print(f"{passed} passed, {len(results) - passed} failed", flush=True)
    return 0 if results and passed == len(results) else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.vm", description="The tests on other kernels.")
    parser.add_argument(
        "--kernel", nargs="+", choices=list(MACHINES), default=list(MACHINES), help="which (default: all)"
    )
    parser.add_argument("--short", action="store_true", help=f"a choice of parts on {' and '.join(SHORT)}")
    parser.add_argument("--jobs", type=int, default=1, help="how many machines at a time (default: 1)")
    parser.add_argument("--keep", action="store_true", help="keep disks and consoles, and say where")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write there what `bench` measured")
    parser.add_argument("--list", action="store_true", help="kernels and parts, and nothing else")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"which (default: {' '.join(DEFAULT)})")
    args = parser.parse_args()
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; --list names them")
    parts = args.parts or DEFAULT
    args.plan = SHORT if args.short else dict.fromkeys(args.kernel, parts)
    return args


def listing() -> None:
    for machine in MACHINES.values():
        debian = DEBIANS[machine.debian]
        print(f"{machine.name:10} Debian {machine.debian} (bcc {debian.bcc}), {' '.join(machine.packages)}")
    for name, part in PARTS.items():
        print(f"{name:10} {part.what}" + (f" ({', '.join(part.machines)})" if part.machines else ""))


def on(machine: Machine, wanted: Sequence[str], folder: Path) -> list[PartResult]:
    """The wanted parts on a machine. What goes wrong around them is a failure of all that were left; but
    where the emulator made the kernel panic, these are begun anew, once."""
    parts = [name for name in wanted if machine.name in (PARTS[name].machines or MACHINES)]
    found = run(machine, parts, folder / machine.name)
    left = [result.part for result in found if result.ended == NO_RESULT]
    if left and qemu.patched_too_late(folder / machine.name / "console"):
        say(f"{machine.name}: QEMU ran code that the kernel was patching (int3); again: {' '.join(left)}")
        found = [result for result in found if result.part not in left]
        found += run(machine, left, folder / f"{machine.name}-again")
    return found


def run(machine: Machine, parts: Sequence[str], own: Path) -> list[PartResult]:
    """With a folder of its own."""
    results = Results(machine.name, parts)
    own.mkdir()
    console = own / "console"
    console.touch()
    try:
        disks = [image.root(DEBIANS[machine.debian])]
        chosen = kernel.kernel(machine)
        disks += [chosen.folder / "modules.img", project.disk(own, machine.name, machine.debian, parts)]
        say(f"{machine.name}: booting {chosen.release}")
        for line in qemu.lines(chosen, disks, console, project.limit_s(parts)):
            with console.with_suffix(".said").open("a") as said:
                said.write(line + "\n")
            results.take(line)
            if results.complete:  # no need to wait until it has powered off
                break
        why = "the machine ended before its tests did"
    except (VmError, qemu.Hung) as error:
        why = str(error)
    unfinished = [result for result in results.parts.values() if result.ended == "not run"]
    for number, result in enumerate(unfinished):
        result.ended = NO_RESULT
        if number == 0:
            result.failures.append((machine.name, f"{why}\nThe console's last lines:\n{qemu.tail(console)}"))
    return list(results.parts.values())


if __name__ == "__main__":
    sys.exit(main())
