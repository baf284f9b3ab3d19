"""What the fuzz tests share: how many examples, progress, bytes that were tampered with, and a limit in
processor time that makes of a hang a failure.

In the tests examples are few and always the same; FUZZ_EXAMPLES=50000 (`make fuzz`) makes it a campaign with
as many for each target, others each time.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

F = TypeVar("F", bound=Callable[..., None])

CAMPAIGN = int(os.environ.get("FUZZ_EXAMPLES", "0"))
# Of the processor, not of the clock: far more than any example needs, on whatever machine
LIMIT_SECONDS = 20.0
_TOLD_EVERY_SECONDS = 10.0
# By the clock, where the machine is busy with other things; a campaign takes as long as it takes
_TIMEOUT = pytest.mark.timeout(0 if CAMPAIGN else 900)


class Progress:
    """Says on stderr, now and then, how far a target has come."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._done = 0
        self._told_at = time.monotonic()

    def advance(self) -> None:
        self._done += 1
        if CAMPAIGN and time.monotonic() > self._told_at + _TOLD_EVERY_SECONDS:
            self._told_at = time.monotonic()
            print(f"\n{self._name}: {self._done:,} of {CAMPAIGN:,}", file=sys.stderr, flush=True)


def fuzz(examples: int, **values: st.SearchStrategy[Any]) -> Callable[[F], F]:
    """A property: the test is called with so many examples of `values`."""

    def decorate(test: F) -> F:
        progress = Progress(test.__name__)

        @functools.wraps(test)
        def one(*args: Any, **given_values: Any) -> None:
            progress.advance()
            with limited():
                test(*args, **given_values)

        chosen = settings(
            max_examples=CAMPAIGN or examples,
            derandomize=not CAMPAIGN,
            database=None,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        )
        return _TIMEOUT(chosen(given(**values)(one)))  # type: ignore[no-any-return]

    return decorate


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """AssertionError where it takes this process more than LIMIT_SECONDS of work."""

    def over(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"no end in {LIMIT_SECONDS:g} s of work")

    before = signal.signal(signal.SIGPROF, over)
    signal.setitimer(signal.ITIMER_PROF, LIMIT_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def refusal(kind: type[Exception], of: Callable[[], object]) -> str:
    """What it says in refusing; empty where it does not."""
    try:
        of()
    except kind as error:
        return str(error) or kind.__name__
    return ""


class Errors(logging.Handler):
    """What is logged as an error: a bug that somebody caught."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(logging.Formatter().format(record))

    def __enter__(self) -> Errors:
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self)


def tampered(original: st.SearchStrategy[bytes], tokens: list[bytes]) -> st.SearchStrategy[bytes]:
    """Some places of the original cut out, doubled, or replaced by a token or by any bytes."""
    piece = st.one_of(st.sampled_from(tokens), st.binary(max_size=4))
    place = st.tuples(
        st.integers(0, 1 << 14), st.integers(0, 24), st.sampled_from(("cut", "double", "put")), piece
    )
    return st.builds(_tampered, original, st.lists(place, max_size=4))


def _tampered(data: bytes, places: list[tuple[int, int, str, bytes]]) -> bytes:
    for at, length, how, piece in places:
        first = at % (len(data) + 1)
        found = data[first : first + length]
        put = {"cut": b"", "double": found * 2, "put": piece}[how]
        data = data[:first] + put + data[first + length :]
    return data
