"""`tcpmon check-kernel`: what this kernel offers to trace with, what is chosen, and what is missing."""

from __future__ import annotations

import importlib.util
import json
import platform
import sys
from dataclasses import asdict

from tcpmon import privileges
from tcpmon.errors import TcpmonError
from tcpmon.kernel import btf, loader, probes
from tcpmon.kernel.probes import Finding

_ROW = "{:<8} {:<15} {:<40} {:<8} {}"


def run(as_json: bool) -> int:
    """Prints the table, or JSON; 0 if all three tracers can run."""
    loader.see_tracefs()
    problems = [] if importlib.util.find_spec("bcc") else ["bcc cannot be imported; " + loader.BCC_HINT]
    findings: list[Finding] = []
    try:
        privileges.require()
        findings = probes.survey(btf.load())
        probes.choose(findings)
    except TcpmonError as error:
        problems.append(f"{error.message}; {error.hint}")
    if as_json:
        print(json.dumps(_report(findings, problems), indent=2))
    else:
        _print_table(findings, problems)
    return 1 if problems else 0


def _report(findings: list[Finding], problems: list[str]) -> dict[str, object]:
    return {
        "kernel": platform.release(),
        "usable": not problems,
        "problems": problems,
        "probes": [asdict(finding) for finding in findings],
    }


def _print_table(findings: list[Finding], problems: list[str]) -> None:
    print(f"Linux {platform.release()} {platform.machine()}\n")
    print(_ROW.format("EVENT", "MECHANISM", "FUNCTIONS", "STATUS", "WHY NOT"))
    for finding in findings:
        status = "chosen" if finding.chosen else "missing" if finding.problem else "works"
        row = (finding.event, finding.mechanism, ", ".join(finding.functions), status, finding.problem or "")
        print(_ROW.format(*row).rstrip())
    print()
    if not problems:
        print("connect, accept and close can be traced.")
    for problem in problems:
        print(f"tcpmon: {problem}", file=sys.stderr)
