"""A live test that fails is run again if the kernel hid events from BPF meanwhile, and that is said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import TypeVar

import pytest
from _pytest.runner import runtestprotocol

from .witness import Witness

T = TypeVar("T")
TRIES = 3
LIVE = Path(__file__).parent.parent


@cache
def _witness() -> Witness:
    """The session's, from its first live test to the end of the process."""
    return Witness()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    if LIVE not in item.path.parents:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in _run(item, nextitem):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _run(item: pytest.Item, nextitem: pytest.Item | None) -> list[pytest.TestReport]:
    for left in reversed(range(TRIES)):
        before = _witness().hidden()
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        hidden = _witness().hidden() - before
        if not left or not hidden or not any(report.failed for report in reports):
            break
        # What fixtures of a whole module made, or failed to make, is of that time too
        item.session._setupstate.teardown_exact(None)
        item.warn(pytest.PytestWarning(f"failed, and is run again: the kernel hid {hidden} events from BPF"))
        item._initrequest()  # type: ignore[attr-defined]  # with fixtures of its own
    return reports


@contextmanager
def undisturbed(make: Callable[[], AbstractContextManager[T]]) -> Iterator[T]:
    """For what many tests look at later: the first of some tries while which nothing was hidden."""
    for left in reversed(range(TRIES)):
        before = _witness().hidden()
        with ExitStack() as made:
            try:
                value = made.enter_context(make())
            except AssertionError:
                if not left or _witness().hidden() == before:
                    raise
                continue
            if not left or _witness().hidden() == before:
                yield value
                return
