"""What is written of label sets from scrape to scrape: kept while they are there, and no longer."""

from __future__ import annotations

import random

from test_snapshot import raw_key

from tcpmon.metrics.prefixes import Prefixes, written
from tcpmon.metrics.snapshot import label_values

ALL = ("comm", "netns", "port")


def keys(*numbers: int) -> set[bytes]:
    return {raw_key(b"c%d" % number, 7, number) for number in numbers}


def test_each_is_written_as_its_labels_are() -> None:
    some = {raw_key(b'50%"\\', 7, 80), raw_key(b"\xff", 0, 1), raw_key(b"", kind=1)}
    assert set(Prefixes().of(some, ALL).values()) == {
        rb'comm="50%%\"\\",netns="7",port="80"',
        rb'comm="\\xff",netns="",port="1"',
        b'comm="_other",netns="_other",port="_other"',
    }


def test_sorted_whatever_comes_and_goes() -> None:
    dice, prefixes = random.Random(1), Prefixes()
    for _ in range(31):
        there = keys(*dice.sample(range(1, 1009), dice.randrange(997)))
        found = prefixes.of(there, ALL)
        assert dict(found) == {key: written(ALL, label_values(key, ALL)) for key in there}
        assert list(found.values()) == sorted(found.values())


def test_what_stays_is_not_written_again() -> None:
    prefixes = Prefixes()
    first = prefixes.of(keys(1, 2, 3), ALL)
    assert prefixes.of(keys(3, 2, 1), ALL) is first
    second = prefixes.of(keys(2, 3, 4), ALL)
    (one,) = keys(2)
    assert second[one] is first[one]


def test_other_labels_in_force() -> None:
    prefixes = Prefixes()
    assert set(prefixes.of(keys(1, 2), ALL).values()) == {
        b'comm="c1",netns="7",port="1"',
        b'comm="c2",netns="7",port="2"',
    }
    assert set(prefixes.of(keys(1, 2), ["port"]).values()) == {b'port="1"', b'port="2"'}
    assert list(prefixes.of(keys(1, 2), ["netns"]).values()) == [b'netns="7"'] * 2
    assert list(prefixes.of(keys(1, 2), []).values()) == [b""] * 2
