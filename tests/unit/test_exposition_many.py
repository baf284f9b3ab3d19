"""A scrape of 10,000 label sets, from the kernel's keys on, judged by prometheus_client as in
test_exposition: its parsers read it, and its families, built independently, say the same."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence

import pytest
from prometheus_client.core import Metric
from test_exposition import BOUNDS, LABELS, LAYOUT, Numbers, Reference, parsed, some_numbers
from test_snapshot import raw_key

from tcpmon.metrics.exposition import Exposition
from tcpmon.metrics.prefixes import Prefixes
from tcpmon.metrics.snapshot import label_set, merge

COUNT = 10_000
HOSTILE = (
    b'"',
    b"\\",
    b"\n",
    b"%d%s%",
    b"\\xff",
    b"\xff",
    "żółw".encode(),
    b"{le=",
    b" ",
    b"#",
    b"_other",
    b"",
)
# What one step may take: it holds up all that goes on beside it
MAX_PIECE_BYTES = 512 * 1024
Found = list[tuple[bytes, Numbers]]


@functools.cache
def label_sets() -> Found:
    """Of all kinds: hostile names, both sides or one or none, empty histograms, numbers beyond 2^53. _other
    last."""
    dice = random.Random(10_007)
    keys = [
        raw_key((dice.choice(HOSTILE) + b"%d" % number)[:15], dice.randrange(1, 2**32), 1 + number % 65_535)
        for number in range(COUNT)
    ]
    return [(key, some_numbers(dice)) for key in [*keys, raw_key(b"", kind=1)]]


@functools.cache
def pieces(openmetrics: bool) -> Sequence[bytes]:
    rows = [(key, numbers.words()) for key, numbers in label_sets()]
    folded = (rows[-1][0], bytes(LAYOUT.size))  # _other's second row
    named = Prefixes().of({key for key, _words in rows}, LABELS)
    merged = merge([*rows, folded], named)
    return list(Exposition(LAYOUT, BOUNDS).render(merged.items(), LABELS, openmetrics))


def samples_of(family: Metric) -> list[object]:
    return sorted((s.name, sorted(s.labels.items()), float(s.value)) for s in family.samples)


@pytest.mark.parametrize("openmetrics", [False, True], ids=["text", "openmetrics"])
def test_equals_prometheus_client(openmetrics: bool) -> None:
    text = b"".join(pieces(openmetrics)).decode() + ("# EOF\n" if openmetrics else "")
    ours = {name: (kind, samples) for name, kind, samples in parsed(text, openmetrics)}
    expected = Reference(LABELS, [(tuple(label_set(key)), numbers) for key, numbers in label_sets()])
    count = 0
    for family in expected.collect():
        assert ours.pop(family.name) == (family.type, samples_of(family)), family.name
        count += len(family.samples)
    assert not ours
    assert count > 20 * COUNT


def test_is_made_in_small_pieces() -> None:
    assert max(map(len, pieces(False))) < MAX_PIECE_BYTES
