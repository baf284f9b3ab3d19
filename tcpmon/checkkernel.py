"""`tcpmon check-kernel`: what this kernel offers to trace with, what is chosen, and what is missing."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from dataclasses import asdict

from tcpmon import privileges
from tcpmon.errors import TcpmonError
from tcpmon.kernel import btf, loader, probes
from tcpmon.kernel.probes import Finding

_ROW = "{:<8} {:<15} {:<8} {}"


def run(as_json: bool) -> int:
    """Prints the table, or JSON; 0 if all three tracers can run."""
    loader.see_tracefs()
    problems = _problems_of_bcc()
    findings: list[Finding] = []
    try:
        privileges.require()
        findings = probes.survey(btf.load())
        probes.choose(findings)
    except TcpmonError as error:  # what choose() hints at is printed here
        problems.append(error.message if findings else f"{error.message}; {error.hint}")
    if as_json:
        print(json.dumps(_report(findings, problems), indent=2))
    else:
        _print_table(findings, problems)
    return 1 if problems else 0


def _problems_of_bcc() -> list[str]:
    """Found by importing it, in another process: it brings LLVM along."""
    done = subprocess.run([sys.executable, "-I", "-c", "import bcc"], stderr=subprocess.PIPE, text=True)
    if not done.returncode:
        return []
    last = done.stderr.strip().rpartition("\n")[2] or f"status {done.returncode}"
    return [f"bcc cannot be imported ({last}); {loader.BCC_HINT}"]


def _report(findings: list[Finding], problems: list[str]) -> dict[str, object]:
    return {
        "kernel": platform.release(),
        "usable": not problems,
        "problems": problems,
        "probes": [asdict(finding) for finding in findings],
    }


def _print_table(findings: list[Finding], problems: list[str]) -> None:
    print(f"Linux {platform.release()} {platform.machine()}\n")
    print(_ROW.format("EVENT", "MECHANISM", "STATUS", "FUNCTIONS, OR WHY NOT"))
    for finding in findings:
        status = "chosen" if finding.chosen else "missing" if finding.problem else "works"
        told = finding.problem or ", ".join(finding.functions)
        print(_ROW.format(finding.event, finding.mechanism, status, told))
    print("\nstate: changes of a socket's state, which serve connect, accept and close alike.")
    if not problems:
        print("connect, accept and close can be traced.")
    for problem in problems:
        print(f"tcpmon: {problem}", file=sys.stderr)
