"""The numbers of the landing page: what a label set's columns are, sums, and the choice of the busiest."""

from __future__ import annotations

import random

import pytest
from overviews import row
from prometheus_client.parser import text_string_to_metric_families
from test_exposition import LAYOUT, rendered, some_numbers

from tcpmon.metrics.families import LABELS
from tcpmon.metrics.overview import COLUMNS, MAX_ROWS, busiest, total, values

# What each column is the sum of, as /metrics has it
SERVED = {
    "connects": "tcpmon_connects_total",
    "accepts": "tcpmon_accepts_total",
    "closes": "tcpmon_closes_total",
    "failures": "tcpmon_connect_failures_total",
    "sent_bytes": "tcpmon_sent_bytes_total",
    "received_bytes": "tcpmon_received_bytes_total",
    "open": "tcpmon_open_connections",
}


def served(words: bytes) -> dict[str, float]:
    """The sums that /metrics has for a label set."""
    text = rendered([(("nginx", "7", "443"), words)], LABELS)
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {
        column: sum(sample.value for sample in samples if sample.name == name)
        for column, name in SERVED.items()
    }


def test_columns_are_what_metrics_says() -> None:
    dice = random.Random(5)
    for _ in range(101):
        numbers = some_numbers(dice, always=True)
        numbers.attempts, numbers.accepts = [1 + dice.randrange(2**20)], [1 + dice.randrange(2**20)]
        words = numbers.words()
        assert dict(zip(COLUMNS, values(LAYOUT)(words), strict=True)) == pytest.approx(served(words))


def test_the_sum_of_nothing() -> None:
    assert total([]) == (0,) * len(COLUMNS)


def test_sums_are_of_each_column() -> None:
    rows = [row("a", connects=2, open=3), row("b", connects=5, failures=7)]
    assert total(values for _labels, values in rows) == row("", connects=7, open=3, failures=7)[1]


def test_busiest_first_and_no_more_than_the_bound() -> None:
    rows = [row(f"c{number}", connects=number % 7, accepts=number, failures=1) for number in range(3001)]
    found = busiest(random.Random(1).sample(rows, len(rows)))
    activity = [numbers[0] + numbers[1] + numbers[3] for _labels, numbers in found]
    assert len(found) == MAX_ROWS
    assert activity == sorted(activity, reverse=True)
    assert activity[-1] >= max(3001 - MAX_ROWS - 7, 0)


def test_bytes_and_open_connections_are_no_activity() -> None:
    idle, busy = row("idle", open=10**6, sent_bytes=10**12), row("busy", failures=1)
    assert busiest([idle, busy]) == [busy, idle]
