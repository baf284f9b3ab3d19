"""A pytest plugin: each test's outcome is told to the host as it comes."""

from __future__ import annotations

import os

import pytest

from tests.vm.guest.line import tell

PART = os.environ["TCPMON_VM_PART"]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    # A test has three phases; the call is the test, the others count where they go wrong
    if report.when != "call" and report.outcome == "passed":
        return
    text = report.longreprtext
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        text = str(report.longrepr[2])
    tell("test", part=PART, test=report.nodeid, outcome=report.outcome, seconds=report.duration, text=text)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        tell("test", part=PART, test=report.nodeid, outcome="failed", seconds=0, text=report.longreprtext)
