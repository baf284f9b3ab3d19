"""Label sets that leave: sums stay, wherever a daemon is killed; the maps are those of a loaded module."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from needs import needs_root
from test_snapshot import raw_key
from waiting import eventually

from tcpmon import config as configuration
from tcpmon import daemon
from tcpmon.kernel import libbpf, load
from tcpmon.kernel.load import Layout, Loaded
from tcpmon.kernel.source import LEAVING
from tcpmon.metrics import folding, snapshot
from tcpmon.metrics.folding import Folding, Print
from tcpmon.metrics.idle import Folder, Idle, _pause, targets

pytestmark = needs_root("to load BPF programs")
# Of a label set's numbers those that say whether it has connections, besides one that only adds up
IDLE = {"attempts": 3, "client_closes.duration": 2, "failures": 1, "client_closes.sent_bytes": 1 << 62}
SERVING = {"accepts": 5, "server_closes.duration": 5}
CONNECTING = {"attempts": 1}
OPEN = {"accepts": 5, "server_closes.duration": 4}
OTHER = raw_key(b"", kind=1)
FORMER, NAMED = raw_key(b"f", 7), raw_key(b"f")  # what is left of a label set without port, and without netns


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
    for name in ("series", "leaving", "folded"):
        for key in list(libbpf.keys(tables[name].fd, tables[name].key.size)):
            libbpf.delete(tables[name].fd, key)
    libbpf.delete(tables["leaving_now"].fd, bytes(4))
    libbpf.update(tables["fold"].fd, bytes(4), bytes(tables["fold"].value.size))


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
    put(loaded, OTHER, SERVING)


def numbers_of(loaded: Loaded, wanted: bytes) -> dict[str, int]:
    """What is told of a label set in all, without zeros."""
    return _sum(loaded, [numbers for key, numbers in rows_of(Folding(loaded.tables)) if key == wanted])


def rows_of(label_sets: Folding) -> list[snapshot.Row]:
    series, folded = label_sets.rows()
    return [*series, *folded]


def total(loaded: Loaded) -> dict[str, int]:
    return _sum(loaded, [numbers for _key, numbers in rows_of(Folding(loaded.tables))])


def _sum(loaded: Loaded, rows: list[snapshot.Numbers]) -> dict[str, int]:
    layout = loaded.tables["series"].value
    words = [sum(column) % 2**64 for column in zip(*(memoryview(row).cast("Q") for row in rows), strict=True)]
    by_name = {name: words[offset // 8] for name, (offset, _size) in layout.fields.items() if words}
    return {name: number for name, number in by_name.items() if number}


def names(loaded: Loaded) -> set[str]:
    return {snapshot.label_set(key).comm for key, _numbers in snapshot.rows(loaded.tables["series"])}


def fold_all(loaded: Loaded, target: bytes = OTHER) -> int:
    return fold_into(Folding(loaded.tables), target)


def fold_into(label_sets: Folding, target: bytes) -> int:
    return label_sets.fold(target, [one for one in label_sets.prints() if one.key != target])


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
    put(loaded, OTHER, SERVING)
    assert fold_all(loaded) == 0
    assert [key for key, _ in rows_of(Folding(loaded.tables))] == [OTHER]


def test_again_and_again(loaded: Loaded) -> None:
    """A label set may come back."""
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
    assert label_sets.fold(OTHER, chosen) == 1
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
def failing_at(step: int, error: Exception, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Who changes a map for the `step`-th time meets the error just before; who lists its keys, too."""
    left = [step]

    def dying(real):  # type: ignore[no-untyped-def]
        def call(*args):  # type: ignore[no-untyped-def]
            left[0] -= 1
            if not left[0]:
                raise error
            return real(*args)

        return call

    with monkeypatch.context() as patched:
        for name in ("update", "delete", "keys"):
            patched.setattr(libbpf, name, dying(getattr(libbpf, name)))
        yield


def broken_off(
    loaded: Loaded, work: Callable[[], object], error: Exception, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[int, dict[str, int]]]:
    """Has `work` meet an error before its first step, its second, and so on to its last: which one it was,
    and the sums of before."""
    step, steps = 0, 0
    while step == steps:
        step += 1
        empty(loaded)
        fill(loaded)
        before = total(loaded)
        with failing_at(step, error, monkeypatch):
            try:
                work()
            except type(error):
                steps += 1
        yield step, before
    assert steps > 15  # it has that many, and more where more is diverted


@pytest.mark.parametrize("target", [OTHER, NAMED])
def test_a_daemon_that_is_killed_at_any_step(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch, target: bytes
) -> None:
    """The next one has every count, once; and it ends what was begun."""
    for step, before in broken_off(loaded, lambda: fold_all(loaded, target), Killed(), monkeypatch):
        assert total(loaded) == before, f"killed before step {step}"
        assert not list(libbpf.keys(loaded.tables["leaving"].fd, 24)), f"killed before step {step}"
        fold_all(loaded, target)
        assert total(loaded) == before
        assert names(loaded) == {"d", "e", "_other"}
        assert Folding(loaded.tables).label_sets == (3 if target == OTHER else 0)


@pytest.mark.parametrize("target", [OTHER, NAMED])
def test_a_kernel_that_refuses_a_step(loaded: Loaded, monkeypatch: pytest.MonkeyPatch, target: bytes) -> None:
    """The same daemon goes on: its next scrape has every count once, its next look ends what was begun."""
    label_sets, busy = Folding(loaded.tables), OSError(errno.EBUSY, "busy")
    for step, before in broken_off(loaded, lambda: fold_into(label_sets, target), busy, monkeypatch):
        assert _sum(loaded, [numbers for _, numbers in rows_of(label_sets)]) == before, f"step {step}"
        fold_into(label_sets, target)
        assert _sum(loaded, [numbers for _, numbers in rows_of(label_sets)]) == before, f"step {step}"
        assert names(loaded) == {"d", "e", "_other"}
        assert not list(libbpf.keys(loaded.tables["leaving"].fd, 24)), f"step {step}"
        assert libbpf.lookup(loaded.tables["leaving_now"].fd, bytes(4), 4) is None


def test_no_room_for_a_target(loaded: Loaded) -> None:
    """Nothing is noted then that could not be finished: scrapes go on."""
    folded = loaded.tables["folded"]
    for port in range(2 * LEAVING + 1):
        libbpf.update(folded.fd, raw_key(b"x", 7, port), bytes(folded.value.size))
    put(loaded, raw_key(b"a", 7, 80), SERVING)
    label_sets = Folding(loaded.tables)
    chosen = [one for one in label_sets.prints() if one.key == raw_key(b"a", 7, 80)]
    with pytest.raises(OSError, match="Argument list too long"):
        label_sets.fold(NAMED, chosen)
    assert names(loaded) == {"a"}
    assert total(loaded) == SERVING


def test_a_thread_that_meets_a_refusal_looks_again(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put(loaded, raw_key(b"a", 7, 80), IDLE)
    folder = Folder(Folding(loaded.tables))
    with failing_at(3, OSError(errno.EBUSY, "busy"), monkeypatch):
        folder.keep_by(replace(configuration.load(None).metrics, series_ttl=0.01))
        assert eventually(lambda: names(loaded) == set())
        folder.stop()
    assert caplog.messages[0] == "idle label sets stay for now: [Errno 16] busy"
    assert total(loaded) == IDLE


def written(loaded: Loaded, labels: tuple[str, ...]) -> dict[tuple[str, ...], dict[str, int]]:
    """What a scrape has, by the labels in force."""
    rows = rows_of(Folding(loaded.tables))
    merged = snapshot.merge(rows, {key: snapshot.label_values(key, labels) for key, _ in rows})
    return {name: _sum(loaded, [numbers]) for name, numbers in merged.items()}


def look(loaded: Loaded, labels: tuple[str, ...]) -> None:
    """Folds what is to be, as if nothing had happened for long."""
    label_sets = Folding(loaded.tables)
    prints = list(label_sets.prints())
    idle = [one for one in prints if one.print is not None]
    for target, chosen in targets([key for key, _ in prints], idle, labels).items():
        label_sets.fold(target, chosen)


def test_label_sets_of_former_labels(loaded: Loaded) -> None:
    """They leave without a change of what is written, as long as anything is written under their name."""
    for port in (80, 81, 82):
        put(loaded, raw_key(b"f", 7, port), IDLE)
    put(loaded, raw_key(b"f", 7, 83), OPEN)
    put(loaded, raw_key(b"g", 8, 80), SERVING)
    put(loaded, FORMER, IDLE)
    for labels in (("comm", "netns"), ("comm",)):
        before = written(loaded, labels)
        look(loaded, labels)
        assert written(loaded, labels) == before
        # All its own numbers are idle, but not all that is written under its name
        assert {key for key, _ in snapshot.rows(loaded.tables["series"])} >= {raw_key(b"f", 7, 83)}
    assert names(loaded) == {"f"}
    put(loaded, raw_key(b"f", 7, 83), SERVING)
    for _ in range(2):  # to its name; and the name to _other
        look(loaded, ("comm",))
    assert written(loaded, ("comm",)) == {("_other",): total(loaded)}
    assert names(loaded) == set()
    assert total(loaded)["accepts"] == 10
    assert total(loaded)["attempts"] == 12


def test_what_goes_where() -> None:
    busy, idle, new, old, alone = (
        raw_key(*key) for key in ((b"b", 7, 80), (b"i", 7, 80), (b"n", 7), (b"n", 7, 80), (b"a", 7))
    )
    keys = (busy, idle, new, old, alone)
    prints = [Print(key, 1) for key in (idle, new, old, alone)]
    assert targets(keys, prints, ("comm", "netns", "port")) == {OTHER: prints}
    assert targets(keys, prints, ("comm", "netns")) == {
        raw_key(b"i", 7): [Print(idle, 1)],
        new: [Print(old, 1)],
        OTHER: [Print(alone, 1)],
    }
    assert targets(keys, [Print(new, 1)], ("comm", "netns")) == {}
    assert targets(keys, prints, ()) == {raw_key(b""): prints}


def test_rows_that_are_read_while_some_leave(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are in one place, not in both nor in none."""
    fill(loaded)
    label_sets = Folding(loaded.tables)
    before = total(loaded)
    chosen = list(label_sets.prints())
    real = snapshot.rows
    reads = []

    def interrupted(table):  # type: ignore[no-untyped-def]
        found = real(table)
        reads.append(len(found))
        if len(reads) == 1:
            assert label_sets.fold(OTHER, chosen) == 3
        return found

    monkeypatch.setattr(folding.snapshot, "rows", interrupted)
    rows = [numbers for _key, numbers in rows_of(label_sets)]
    assert reads == [6, 1, 3, 1]  # label sets, and what was counted for those that left
    assert _sum(loaded, rows) == before


def test_since_when_nothing_happened() -> None:
    idle = Idle()
    a, b, changed, connected = Print(b"a", 1), Print(b"b", 2), Print(b"a", 3), Print(b"a", None)
    assert idle.look([a, b], 100.0, 60.0) == []
    assert idle.look([changed, b], 130.0, 60.0) == []
    assert idle.look([changed, b], 159.9, 60.0) == []
    assert idle.look([changed, b], 160.0, 60.0) == [b]
    assert idle.look([changed], 190.0, 60.0) == [changed]
    assert idle.look([b], 200.0, 60.0) == []  # made anew
    assert idle.look([b, connected], 230.0, 30.0) == [b]  # by a shorter time to live
    assert idle.look([b, connected], 300.0, 30.0) == [b]
    assert idle.look([b, a], 310.0, 30.0) == [b]


@pytest.mark.parametrize(
    "ttl_s, pause", [(0, None), (0.001, 1.0), (8, 1.0), (80, 10.0), (3600, 300.0), (3e8, 300.0)]
)
def test_pauses(ttl_s: float, pause: float | None) -> None:
    assert _pause(ttl_s) == pause
