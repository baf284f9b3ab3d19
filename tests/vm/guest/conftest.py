"""The live suite's harness is ours too."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "live"))

from harness.netns import Netns, netns

_names = itertools.count(1)


@pytest.fixture
def ns() -> Iterator[Netns]:
    """A fresh network namespace with lo up."""
    with netns() as fresh:
        yield fresh


@pytest.fixture
def comm() -> str:
    """A name that no other test's processes have."""
    return f"vm-{next(_names)}"
