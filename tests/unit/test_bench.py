"""The bench's own arithmetic: whose turn it is, what is lost, why a peer cannot run."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.bench import contestants, figures, rounds, table
from tests.bench.contestants import Contestant, Loss
from tests.bench.peers import Tool
from tests.bench.rounds import Life, Race, Slice, Turn

FIELD = [Contestant(name, contextlib.nullcontext, again) for name, again in (("a", 2), ("b", 2), ("c", 1))]


@pytest.mark.parametrize("number", range(5))
def test_who_has_several_turns_has_them_apart(number: int) -> None:
    names = [who.name for who in rounds.order(FIELD, number)]
    assert Counter(names) == {"a": 2, "b": 2, "c": 1}
    assert all(one != other for one, other in itertools.pairwise(names))


@pytest.mark.parametrize(
    "got, told, loss",
    [
        (100, 0, Loss(100, 0, 0)),
        (90, 4, Loss(100, 4, 6)),
        (90, 30, Loss(100, 10, 0)),  # it lost others' events too
        (103, 2, Loss(100, 0, 0)),  # printed more than was made: of an earlier listener
    ],
)
def test_losses(got: int, told: int, loss: Loss) -> None:
    assert contestants._loss(100, got, told) == loss


@pytest.mark.parametrize(
    "output, reason",
    [
        ("modprobe: FATAL: not found\nUnable to find kernel headers.\nException: no\n", "Unable to find"),
        (
            "ERROR: couldn't set a limit\nAttaching 3 probes...\nERROR: Error attaching probe: 'k'\n",
            "ERROR: E",
        ),
        ("one\ntwo\n", "two"),
        ("", "it ended without a word"),
    ],
)
def test_the_line_that_says_why(tmp_path: Path, output: str, reason: str) -> None:
    said = tmp_path / "said"
    said.write_text(output)
    with subprocess.Popen(["true"]) as process:
        assert Tool(process, said).reason().startswith(reason)


def test_the_report() -> None:
    """Every contestant has its line, who cannot run a reason, and each figure its verdict."""
    turn = Turn(0.98, 1.02, 0.7, 0.5, 31.0, Loss(400, 0, 0), 0.99)
    life = Life((("state_changed", 10.0, 2500.0),), 0.0)
    names = [contestants.METRICS.name, contestants.EVERYTHING.name, "a peer"]
    race = Race(
        dict.fromkeys(names, [turn] * 3), dict.fromkeys(names, life), {"b": "it | no"}, [Slice(1, 2)], 40
    )
    rows = figures.race_rows(race)
    text = table.markdown({"kernel": "6.18"}, rows, race)
    assert (
        "| a peer | 3 | 0.980 (0.980 to 0.980) | 0.990 (0.990 to 0.990) | 0.7 (0.7 to 0.7) µs, 2.0% |" in text
    )
    assert "| b | `it   no` |" in text
    assert [row.reached for row in rows] == [True] * 6
    assert "All 6 figures are reached." in text
