"""Runs the parts that the host ordered, one pytest each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.vm.guest.line import tell
from tests.vm.machines import MACHINES
from tests.vm.parts import LIVE, PARTS, Part

ORDER = Path("/srv/order.json")
# An emulated machine is ten to twenty times slower
PATIENCE = "10"


def main() -> None:
    order = json.loads(ORDER.read_text())
    environment = {
        **os.environ,
        "CI": "true",  # nothing is skipped for what the machine lacks
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": "/root",
        "TCPMON_PATIENCE": PATIENCE,
        "TCPMON_VM_MACHINE": order["machine"],
        "TCPMON_VM_DEBIAN": order["debian"],
    }
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    tell("note", text=f"Linux {os.uname().release} is up after {uptime:.0f} s")
    for name in order["parts"]:
        run(name, PARTS[name], {**environment, "TCPMON_VM_PART": name})


def run(name: str, part: Part, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "tests.vm.guest.plugin", "-p", "no:cacheprovider"]
    command += ["-q", f"--timeout={part.limit_s}", *part.tests]
    lacks = MACHINES[environment["TCPMON_VM_MACHINE"]].lacks
    command += [f"--deselect={test}" for test in (*part.without, *(LIVE + test for test in lacks))]
    start = time.monotonic()
    try:
        done = subprocess.run(
            command,
            env={**environment, **part.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=part.limit_s,
        )
        ended, text = "passed" if done.returncode == 0 else "failed", done.stdout
    except subprocess.TimeoutExpired as error:
        ended, text = f"over its {part.limit_s} s", (error.stdout or b"").decode(errors="replace")
    tell("end", part=name, ended=ended, seconds=time.monotonic() - start, text=text)


main()
