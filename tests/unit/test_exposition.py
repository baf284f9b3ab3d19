"""The rendered text, judged by prometheus_client: its parsers read it, and its own encoders say the same."""

from __future__ import annotations

import itertools
import random
import re
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client import generate_latest as generate_text
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from tcpmon.kernel.load import Layout
from tcpmon.metrics import exposition
from tcpmon.metrics.exposition import Exposition
from tcpmon.metrics.prefixes import written

LABELS = ("comm", "netns", "port")
ROLES = ("client", "server")
REASONS = ("refused", "timeout", "unreachable", "reset", "canceled", "no_port", "denied", "other")
BOUNDS = {
    "connect_latency": (0.000001, 0.0001, 0.00025, 1.0, 2.5),
    "accept_wait": (10.0,),
    "connection_duration": (0.001, 60.0, 86400.0, 1000000.0, 315360000.0),
}
SUBSETS = [list(some) for size in range(4) for some in itertools.combinations(LABELS, size)]
NASTY = ('a"b', "a\\b", "a\nb", 'all\\"\n\\n', "żółw 東京", "\\xff", "", "}", 'x="y",', " ", "\t\r", "_other")
Rows = list[tuple[tuple[str, ...], bytes]]


@dataclass
class Numbers:
    """What the kernel keeps for a label set, as a test says it: struct series, in another order."""

    accept_wait: list[int] = field(default_factory=lambda: [0] * 2)
    accept_wait_ns: list[int] = field(default_factory=lambda: [0])
    accepts: list[int] = field(default_factory=lambda: [0])
    attempts: list[int] = field(default_factory=lambda: [0])
    client_duration: list[int] = field(default_factory=lambda: [0] * 6)
    connect_latency: list[int] = field(default_factory=lambda: [0] * 6)
    connect_latency_ns: list[int] = field(default_factory=lambda: [0])
    duration_ns: list[int] = field(default_factory=lambda: [0] * 2)
    failures: list[int] = field(default_factory=lambda: [0] * 8)
    received_bytes: list[int] = field(default_factory=lambda: [0] * 2)
    retransmitted_segments: list[int] = field(default_factory=lambda: [0] * 2)
    sent_bytes: list[int] = field(default_factory=lambda: [0] * 2)
    server_duration: list[int] = field(default_factory=lambda: [0] * 6)

    def words(self) -> bytes:
        each = itertools.chain.from_iterable(getattr(self, one.name) for one in fields(self))
        return array("Q", each).tobytes()


BY_ROLE = ("duration_ns", "received_bytes", "retransmitted_segments", "sent_bytes")


def layout() -> Layout:
    places, offset = {}, 0
    for one in fields(Numbers):
        size = 8 * len(getattr(Numbers(), one.name))
        if one.name in BY_ROLE:
            places |= {f"{role}_closes.{one.name}": (offset + 8 * at, 8) for at, role in enumerate(ROLES)}
        else:
            places[one.name.replace("_duration", "_closes.duration")] = (offset, size)
        offset += size
    return Layout(offset, places)


LAYOUT = layout()


def some_numbers(dice: random.Random, always: bool = False) -> Numbers:
    """Any numbers on either side, both or none; now and then larger than a double can tell apart."""
    made = Numbers()
    used = [always or dice.random() < 0.7, always or dice.random() < 0.7]
    for one in fields(Numbers):
        client = one.name in ("client_duration", "connect_latency", "connect_latency_ns", "failures")
        server = one.name in ("server_duration", "accept_wait", "accept_wait_ns")
        for slot in range(len(getattr(made, one.name))):
            of_client = client or (not server and slot == 0)
            if used[0 if of_client else 1] and dice.random() < 0.6:
                getattr(made, one.name)[slot] = dice.choice((1, 2, 7, 1009, 2**31, 2**53 + 1, 2**59))
    made.attempts, made.accepts = [1009 * used[0]], [1013 * used[1]]
    return made


def rows_of(labels: Sequence[str], some: Iterable[Numbers]) -> Rows:
    """A row for each, with label values that need escaping, no two alike but without labels."""
    values = ((f"{NASTY[index % len(NASTY)]}{index}",) * len(labels) for index in itertools.count())
    return [(next(values), numbers.words()) for numbers in some]


def rendered(rows: Rows, labels: Sequence[str], openmetrics: bool = False) -> str:
    return b"".join(pieces(rows, labels, openmetrics)).decode()


def pieces(rows: Rows, labels: Sequence[str], openmetrics: bool) -> list[bytes]:
    prefixed = [(written(labels, values), words) for values, words in rows]
    return list(Exposition(LAYOUT, BOUNDS).render(prefixed, labels, openmetrics))


class Reference(Collector):
    """The same by prometheus_client, after contract section 3 rather than after the table of families."""

    def __init__(self, labels: Sequence[str], some: Sequence[tuple[tuple[str, ...], Numbers]]) -> None:
        self._labels = list(labels)
        self._some = some

    def collect(self) -> Iterable[Metric]:
        yield self._counter("tcpmon_connect_attempts", (), lambda n: {(): n.attempts[0]})
        yield self._counter("tcpmon_connects", (), lambda n: {(): sum(n.connect_latency)})
        yield self._counter(
            "tcpmon_connect_failures",
            ("reason",),
            lambda n: {(reason,): n.failures[slot] for slot, reason in enumerate(REASONS)},
        )
        yield self._counter("tcpmon_accepts", (), lambda n: {(): n.accepts[0]}, "server")
        yield self._by_role("tcpmon_closes", lambda n: (sum(n.client_duration), sum(n.server_duration)))
        yield self._by_role(
            "tcpmon_open_connections",
            lambda n: (
                sum(n.connect_latency) - sum(n.client_duration),
                n.accepts[0] - sum(n.server_duration),
            ),
            GaugeMetricFamily,
        )
        yield self._histogram("connect_latency", lambda n: {(): (n.connect_latency, n.connect_latency_ns[0])})
        yield self._histogram("accept_wait", lambda n: {(): (n.accept_wait, n.accept_wait_ns[0])}, "server")
        yield self._histogram(
            "connection_duration",
            lambda n: {
                ("client",): (n.client_duration, n.duration_ns[0]),
                ("server",): (n.server_duration, n.duration_ns[1]),
            },
        )
        yield self._by_role("tcpmon_sent_bytes", lambda n: n.sent_bytes)
        yield self._by_role("tcpmon_received_bytes", lambda n: n.received_bytes)
        yield self._by_role("tcpmon_retransmitted_segments", lambda n: n.retransmitted_segments)

    def _in_use(self, side: str) -> Iterable[tuple[tuple[str, ...], Numbers]]:
        return (pair for pair in self._some if (pair[1].attempts if side == "client" else pair[1].accepts)[0])

    def _counter(
        self,
        name: str,
        own: Sequence[str],
        values: Callable[[Numbers], dict[Any, int]],
        side: str = "client",
    ) -> Metric:
        family = CounterMetricFamily(name, "", labels=[*self._labels, *own])
        for of, numbers in self._in_use(side):
            for own_values, value in values(numbers).items():
                family.add_metric([*of, *own_values], value)
        return family

    def _by_role(
        self, name: str, values: Callable[[Numbers], Sequence[int]], make: type = CounterMetricFamily
    ) -> Metric:
        family: Metric = make(name, "", labels=[*self._labels, "role"])
        for slot, role in enumerate(ROLES):
            for of, numbers in self._in_use(role):
                family.add_metric([*of, role], values(numbers)[slot])  # type: ignore[attr-defined]
        return family

    def _histogram(
        self, bounds: str, parts: Callable[[Numbers], dict[Any, tuple[list[int], int]]], side: str = "client"
    ) -> Metric:
        own = ["role"] if bounds == "connection_duration" else []
        family = HistogramMetricFamily(f"tcpmon_{bounds}_seconds", "", labels=[*self._labels, *own])
        texts = [*map(floatToGoString, BOUNDS[bounds]), "+Inf"]
        for of, numbers in self._some:
            for own_values, (slots, sum_ns) in parts(numbers).items():
                used = numbers.attempts if (*own_values, side)[0] == "client" else numbers.accepts
                if used[0] and sum(slots):
                    buckets = list(zip(texts, itertools.accumulate(slots), strict=True))
                    family.add_metric([*of, *own_values], buckets, sum_ns / 1e9)
        return family


def reference(labels: Sequence[str], rows: Rows, some: Sequence[Numbers], openmetrics: bool) -> str:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Reference(labels, [(of, n) for (of, _words), n in zip(rows, some, strict=True)]))
    return (generate_openmetrics if openmetrics else generate_text)(registry).decode()


def parsed(text: str, openmetrics: bool) -> list[tuple[str, str, list[Any]]]:
    """(name, type, samples) of each family; the order of its samples means nothing. Values as Prometheus has
    them, as doubles."""
    families = list((parse_openmetrics if openmetrics else parse_text)(text))
    return [
        (
            family.name,
            family.type,
            sorted((s.name, sorted(s.labels.items()), float(s.value)) for s in family.samples),
        )
        for family in families
    ]


@pytest.mark.parametrize("openmetrics", [False, True], ids=["text", "openmetrics"])
@pytest.mark.parametrize("labels", SUBSETS, ids=lambda labels: "-".join(labels) or "none")
def test_equals_prometheus_client(labels: list[str], openmetrics: bool) -> None:
    dice = random.Random(len(labels))
    some = [some_numbers(dice) for _ in range(53)] if labels else [some_numbers(dice, always=True)]
    rows = rows_of(labels, some)
    ours = rendered(rows, labels, openmetrics) + ("# EOF\n" if openmetrics else "")
    expected = parsed(reference(labels, rows, some, openmetrics), openmetrics)
    assert sum(len(samples) for _name, _type, samples in expected) > (1000 if labels else 5)
    assert parsed(ours, openmetrics) == expected


@pytest.mark.parametrize("openmetrics", [False, True], ids=["text", "openmetrics"])
def test_no_rows_leaves_the_heads(openmetrics: bool) -> None:
    """HELP and TYPE of every family are there before anything happened, as prometheus_client has them."""
    text = rendered([], LABELS, openmetrics)
    kinds = [line for line in text.splitlines() if line.startswith("# TYPE")]
    expected = reference(LABELS, [], [], openmetrics)
    assert kinds == [line for line in expected.splitlines() if line.startswith("# TYPE")]
    assert not [line for line in text.splitlines() if not line.startswith("# ")]
    helps = re.findall(r"^# HELP (\S+) (\S.*)$", text, re.M)
    assert [name for name, _help in helps] == [line.split()[2] for line in kinds]


@pytest.mark.parametrize("value", NASTY)
def test_label_values_are_escaped(value: str) -> None:
    rows: Rows = [((value,), Numbers(attempts=[3]).words())]
    (attempts, *_rest) = parse_text(rendered(rows, ["comm"]))
    assert [(s.labels, s.value) for s in attempts.samples] == [({"comm": value}, 3)]


def test_escapes_as_the_format_has_them() -> None:
    rows: Rows = [(('a"b\\c\nd',), Numbers(attempts=[3]).words())]
    assert 'tcpmon_connect_attempts_total{comm="a\\"b\\\\c\\nd"} 3\n' in rendered(rows, ["comm"])


def test_without_labels_there_are_no_empty_braces() -> None:
    some = Numbers(
        attempts=[5],
        accepts=[5],
        connect_latency=[2, 0, 0, 0, 1, 0],
        connect_latency_ns=[4_000_000_007],
        client_duration=[1, 0, 0, 0, 0, 0],
    )
    lines = rendered([((), some.words())], []).splitlines()
    assert "tcpmon_connect_attempts_total 5" in lines
    assert 'tcpmon_open_connections{role="client"} 2' in lines
    assert 'tcpmon_connect_latency_seconds_bucket{le="1e-06"} 2' in lines
    assert "tcpmon_connect_latency_seconds_count 3" in lines
    assert "tcpmon_connect_latency_seconds_sum 4.000000007" in lines
    assert not [line for line in lines if "{}" in line or "{," in line]


def test_le_texts_and_cumulation() -> None:
    some = Numbers(accepts=[1], server_duration=[1, 2, 4, 8, 16, 32], duration_ns=[0, 7])
    text = rendered([(("x",), some.words())], ["comm"])
    found = re.findall(r'_duration_seconds_bucket\{comm="x",role="server",le="([^"]+)"\} (\d+)', text)
    expected = [*map(floatToGoString, BOUNDS["connection_duration"]), "+Inf"]
    assert [bound for bound, _count in found] == expected
    assert expected == ["0.001", "60.0", "86400.0", "1e+06", "3.1536e+08", "+Inf"]
    assert [int(count) for _bound, count in found] == [1, 3, 7, 15, 31, 63]
    assert '_duration_seconds_count{comm="x",role="server"} 63\n' in text


def test_a_histogram_without_a_sample_is_absent() -> None:
    rows: Rows = [(("x",), Numbers(attempts=[2], accepts=[2], accept_wait=[0, 2]).words())]
    text = rendered(rows, ["comm"])
    assert "\ntcpmon_accept_wait_seconds_bucket{" in text
    assert "\ntcpmon_connect_latency_seconds_" not in text
    assert "\ntcpmon_connection_duration_seconds_" not in text


def test_a_side_appears_once_it_was_used() -> None:
    rows: Rows = [(("c",), Numbers(attempts=[1]).words()), (("s",), Numbers(accepts=[1]).words())]
    lines = [line for line in rendered(rows, ["comm"]).splitlines() if not line.startswith("#")]
    assert {line.partition("{")[0] for line in lines if 'comm="c"' in line} == {
        "tcpmon_connect_attempts_total",
        "tcpmon_connects_total",
        "tcpmon_connect_failures_total",
        "tcpmon_closes_total",
        "tcpmon_open_connections",
        "tcpmon_sent_bytes_total",
        "tcpmon_received_bytes_total",
        "tcpmon_retransmitted_segments_total",
    }
    assert not [line for line in lines if 'comm="c"' in line and 'role="server"' in line]
    assert not [line for line in lines if 'comm="s"' in line and 'role="client"' in line]
    assert [line for line in lines if 'comm="s"' in line and "reason=" in line] == []


@pytest.mark.parametrize(
    "opened, closed", [(2**53 + 1, 0), (2**53 + 3, 2), (2**64 - 1, 2**64 - 2), (1009, 1009)]
)
def test_the_open_gauge_loses_nothing(opened: int, closed: int) -> None:
    """Whole numbers to the last digit, also past what a double can hold, and 0 stays in sight."""
    client = Numbers(
        attempts=[opened], connect_latency=[opened, 0, 0, 0, 0, 0], client_duration=[0] * 5 + [closed]
    )
    server = Numbers(accepts=[opened], server_duration=[closed, 0, 0, 0, 0, 0])
    text = rendered([(("c",), client.words()), (("s",), server.words())], ["comm"])
    assert f'tcpmon_open_connections{{comm="c",role="client"}} {opened - closed}\n' in text
    assert f'tcpmon_open_connections{{comm="s",role="server"}} {opened - closed}\n' in text
    assert f'tcpmon_closes_total{{comm="c",role="client"}} {closed}\n' in text
    assert f'tcpmon_connects_total{{comm="c"}} {opened}\n' in text


@pytest.mark.parametrize("ns", [0, 1, 999, 1_000_000_007, 10**9 * 86_399 + 999_999_999, 2**62 + 12_345])
def test_sums_are_exact_to_the_microsecond(ns: int) -> None:
    some = Numbers(attempts=[1], connect_latency=[1, 0, 0, 0, 0, 0], connect_latency_ns=[ns])
    (text,) = re.findall(r"_latency_seconds_sum (\S+)", rendered([((), some.words())], []))
    assert abs(round(float(text) * 10**6) - ns / 10**3) <= 1


@pytest.mark.parametrize("openmetrics", [False, True], ids=["text", "openmetrics"])
def test_pieces_make_the_whole(monkeypatch: pytest.MonkeyPatch, openmetrics: bool) -> None:
    dice = random.Random(3)
    rows = rows_of(LABELS, [some_numbers(dice) for _ in range(769)])
    made = pieces(rows, LABELS, openmetrics)
    assert all(piece.endswith(b"\n") for piece in made if piece)
    assert max(map(len, made)) < sum(map(len, made)) / 8
    for rows_a_piece in (1, len(rows)):
        monkeypatch.setattr(exposition, "_PIECE_ROWS", rows_a_piece)
        assert rendered(rows, LABELS, openmetrics).encode() == b"".join(made)
