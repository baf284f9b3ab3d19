"""Label sets that leave: sums stay, wherever a daemon is killed; the maps are those of a loaded module."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from needs import needs_root
from test_snapshot import raw_key

from tcpmon import config as configuration
from tcpmon import daemon
from tcpmon.kernel import libbpf, load
from tcpmon.kernel.load import Layout, Loaded
from tcpmon.kernel.source import LEAVING
from tcpmon.metrics import folding, snapshot
from tcpmon.metrics.folding import Folding
from tcpmon.metrics.idle import Idle, _pause
from tcpmon.metrics.snapshot import LabelSet

pytestmark = needs_root("to load BPF programs")
# Of a label set's numbers those that say whether it has connections, besides one that only adds up
IDLE = {"attempts": 3, "client_closes.duration": 2, "failures": 1, "client_closes.sent_bytes": 1 << 62}
SERVING = {"accepts": 5, "server_closes.duration": 5}
CONNECTING = {"attempts": 1}
OPEN = {"accepts": 5, "server_closes.duration": 4}
OTHER_KEY = raw_key(b"", kind=1)
OTHER = LabelSet("_other", "_other", "_other")


@pytest.fixture(scope="module")
def module() -> Iterator[Loaded]:
    """Its programs do nothing, since no settings were put in force."""
    compiled = replace(daemon.module(configuration.load(None)), max_tracked=7, max_series=2 * LEAVING)
    running = load.load(compiled, {})
    try:
        yield running
    finally:
        running.close()


@pytest.fixture
def loaded(module: Loaded) -> Iterator[Loaded]:
    yield module
    empty(module)


def empty(module: Loaded) -> None:
    tables = module.tables
    for name in ("series", "leaving"):
        for key in list(libbpf.keys(tables[name].fd, tables[name].key.size)):
            libbpf.delete(tables[name].fd, key)
    libbpf.delete(tables["leaving_now"].fd, bytes(4))
    libbpf.update(tables["fold"].fd, bytes(4), bytes(24))
    for entry in range(2):
        libbpf.update(tables["folded"].fd, struct.pack("=I", entry), bytes(tables["folded"].value.size))


def value(layout: Layout, numbers: dict[str, int]) -> bytes:
    words = bytearray(layout.size)
    for name, number in numbers.items():
        struct.pack_into("=Q", words, layout.fields[name][0], number)
    return bytes(words)


def put(loaded: Loaded, key: bytes, numbers: dict[str, int]) -> None:
    series = loaded.tables["series"]
    libbpf.update(series.fd, key, value(series.value, numbers))


def fill(loaded: Loaded) -> None:
    """Three idle label sets, two that have connections, and _other."""
    put(loaded, raw_key(b"a", 7, 80), IDLE)
    put(loaded, raw_key(b"b", 7, 80), SERVING)
    put(loaded, raw_key(b"c", 7, 80), IDLE)
    put(loaded, raw_key(b"d", 7, 80), CONNECTING)
    put(loaded, raw_key(b"e", 7, 80), OPEN)
    put(loaded, OTHER_KEY, SERVING)


def numbers_of(loaded: Loaded, label_set: LabelSet) -> dict[str, int]:
    """What is told of a label set in all, without zeros."""
    return _sum(loaded, [numbers for of, numbers in Folding(loaded.tables).rows() if of == label_set])


def total(loaded: Loaded) -> dict[str, int]:
    return _sum(loaded, [numbers for _of, numbers in Folding(loaded.tables).rows()])


def _sum(loaded: Loaded, rows: list[snapshot.Numbers]) -> dict[str, int]:
    layout = loaded.tables["series"].value
    words = [sum(column) % 2**64 for column in zip(*rows, strict=True)]
    by_name = {name: words[offset // 8] for name, (offset, _size) in layout.fields.items() if words}
    return {name: number for name, number in by_name.items() if number}


def names(loaded: Loaded) -> set[str | None]:
    return {of.comm for of, _numbers in snapshot.rows(loaded.tables["series"])}


def fold_all(loaded: Loaded) -> int:
    label_sets = Folding(loaded.tables)
    return label_sets.fold(list(label_sets.prints()))


def test_idle_ones_go_into_other(loaded: Loaded) -> None:
    fill(loaded)
    before = total(loaded)
    assert fold_all(loaded) == 3
    assert names(loaded) == {"d", "e", "_other"}
    assert total(loaded) == before
    assert numbers_of(loaded, OTHER) == {
        "attempts": 6,
        "failures": 2,
        "client_closes.duration": 4,
        "client_closes.sent_bytes": 2 << 62,
        "accepts": 10,
        "server_closes.duration": 10,
    }
    assert Folding(loaded.tables).label_sets == 3


def test_nothing_to_fold(loaded: Loaded) -> None:
    put(loaded, OTHER_KEY, SERVING)
    assert fold_all(loaded) == 0
    assert [of for of, _ in Folding(loaded.tables).rows()] == [OTHER]


def test_again_and_again(loaded: Loaded) -> None:
    """Both entries of the sum take turns, and a label set may come back."""
    for turn in range(1, 6):
        put(loaded, raw_key(b"a", 7, 80), SERVING)
        assert fold_all(loaded) == 1
        assert total(loaded) == {name: number * turn for name, number in SERVING.items()}
        assert Folding(loaded.tables).label_sets == turn


def test_a_sum_wraps_as_the_kernels_do(loaded: Loaded) -> None:
    for name in (b"a", b"b"):
        put(loaded, raw_key(name, 7, 80), SERVING | {"accept_wait_ns": 2**64 - 1})
    assert fold_all(loaded) == 2
    assert total(loaded)["accept_wait_ns"] == 2**64 - 2


def test_one_that_changed_since_it_was_chosen_stays(loaded: Loaded) -> None:
    fill(loaded)
    label_sets = Folding(loaded.tables)
    chosen = list(label_sets.prints())
    put(loaded, raw_key(b"a", 7, 80), IDLE | {"client_closes.sent_bytes": 1})
    libbpf.delete(loaded.tables["series"].fd, raw_key(b"b", 7, 80))
    assert label_sets.fold(chosen) == 1
    assert names(loaded) == {"a", "d", "e", "_other"}


def test_as_many_at_a_time_as_there_is_room_for(loaded: Loaded) -> None:
    for port in range(1, LEAVING + 1):
        put(loaded, raw_key(b"a", 7, port), SERVING)
    assert fold_all(loaded) == LEAVING
    assert total(loaded) == {name: number * LEAVING for name, number in SERVING.items()}
    assert names(loaded) == set()


class Killed(Exception):
    pass


@contextmanager
def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Whoever changes a map for the `step`-th time is killed just before."""
    left = [step]

    def dying(real):  # type: ignore[no-untyped-def]
        def call(*args):  # type: ignore[no-untyped-def]
            left[0] -= 1
            if not left[0]:
                raise Killed
            return real(*args)

        return call

    with monkeypatch.context() as patched:
        for name in ("update", "delete"):
            patched.setattr(libbpf, name, dying(getattr(libbpf, name)))
        yield left


def test_a_daemon_that_is_killed_at_any_step(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one has every count, once; and it ends what was begun."""
    step, steps = 0, 0
    while step == steps:
        step += 1
        empty(loaded)
        fill(loaded)
        before = total(loaded)
        with killed_at(step, monkeypatch):
            try:
                fold_all(loaded)
            except Killed:
                steps += 1
        assert total(loaded) == before, f"killed before step {step}"
        assert not list(libbpf.keys(loaded.tables["leaving"].fd, 24)), f"killed before step {step}"
        fold_all(loaded)
        assert total(loaded) == before
        assert names(loaded) == {"d", "e", "_other"}
        assert Folding(loaded.tables).label_sets == 3
    assert steps > 15  # it has that many, and more where more is diverted


def test_rows_that_are_read_while_some_leave(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are in one place, not in both nor in none."""
    fill(loaded)
    label_sets = Folding(loaded.tables)
    before = total(loaded)
    chosen = list(label_sets.prints())
    real = snapshot.rows
    reads = []

    def interrupted(series):  # type: ignore[no-untyped-def]
        found = real(series)
        reads.append(len(found))
        if len(reads) == 1:
            assert label_sets.fold(chosen) == 3
        return found

    monkeypatch.setattr(folding.snapshot, "rows", interrupted)
    rows = [numbers for _of, numbers in label_sets.rows()]
    assert reads == [6, 3]
    assert _sum(loaded, rows) == before


def test_since_when_nothing_happened() -> None:
    idle = Idle()
    a, b, changed = (b"a", 1), (b"b", 2), (b"a", 3)
    assert idle.look([a, b], 100.0, 60.0) == []
    assert idle.look([changed, b], 130.0, 60.0) == []
    assert idle.look([changed, b], 159.9, 60.0) == []
    assert idle.look([changed, b], 160.0, 60.0) == [b]
    assert idle.look([changed], 190.0, 60.0) == [changed]
    assert idle.look([b], 200.0, 60.0) == []  # made anew
    assert idle.look([b], 230.0, 30.0) == [b]  # by a shorter time to live


@pytest.mark.parametrize(
    "ttl_s, pause", [(0, None), (0.001, 1.0), (8, 1.0), (80, 10.0), (3600, 300.0), (3e8, 300.0)]
)
def test_pauses(ttl_s: float, pause: float | None) -> None:
    assert _pause(ttl_s) == pause
