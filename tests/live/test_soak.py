"""The soak in short: the same code for half a minute. `make soak` is the whole of it."""

from __future__ import annotations

import pytest

from tests.soak import summary
from tests.soak.soak import Plan, prepared

SECONDS, SEED = 24, 6


@pytest.mark.timeout(600)
def test_half_a_minute(privileges: None) -> None:
    plan = Plan(SECONDS, SEED, scale=0.3)
    with prepared(plan) as soak:
        seen = soak.run(print)
    print(summary.table(plan, seen))
    assert not summary.faults(plan, seen)
