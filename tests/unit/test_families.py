"""The table of metrics against the interface, and every number that Python repeats against the C header."""

from __future__ import annotations

import ctypes as ct
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tcpmon.kernel import control, source
from tcpmon.metrics import snapshot
from tcpmon.metrics.families import FAMILIES, LABELS, REASONS, ROLES, Family, Histogram
from tcpmon.metrics.selfmetrics import LOST_STAGES

HEADER = (source.FOLDER / "types.h").read_text()
SLOTS = {"CONNECT_LATENCY_SLOTS": 17, "ACCEPT_WAIT_SLOTS": 11, "CONNECTION_DURATION_SLOTS": 7}

# The interface: name, type, labels besides comm, netns, port.
INTERFACE = [
    ("tcpmon_connect_attempts_total", "counter", []),
    ("tcpmon_connects_total", "counter", []),
    ("tcpmon_connect_failures_total", "counter", ["reason"]),
    ("tcpmon_accepts_total", "counter", []),
    ("tcpmon_closes_total", "counter", ["role"]),
    ("tcpmon_open_connections", "gauge", ["role"]),
    ("tcpmon_connect_latency_seconds", "histogram", []),
    ("tcpmon_accept_wait_seconds", "histogram", []),
    ("tcpmon_connection_duration_seconds", "histogram", ["role"]),
    ("tcpmon_sent_bytes_total", "counter", ["role"]),
    ("tcpmon_received_bytes_total", "counter", ["role"]),
    ("tcpmon_retransmitted_segments_total", "counter", ["role"]),
]
REASON_VALUES = {"refused", "timeout", "unreachable", "reset", "canceled", "no_port", "denied", "other"}


def exposed(family: Family | Histogram) -> tuple[str, str, list[str]]:
    kind = "histogram" if isinstance(family, Histogram) else family.kind
    parts = family.parts if isinstance(family, Histogram) else family.samples
    (labels,) = {tuple(name for name, _value in part.labels) for part in parts}
    return family.name + ("_total" if kind == "counter" else ""), kind, list(labels)


def test_the_interface() -> None:
    assert [exposed(family) for family in FAMILIES] == INTERFACE
    assert LABELS == ("comm", "netns", "port")


def label_values(family: Family | Histogram) -> dict[str, set[str]]:
    values: dict[str, set[str]] = {}
    for part in family.parts if isinstance(family, Histogram) else family.samples:
        for name, value in part.labels:
            values.setdefault(name, set()).add(value)
    return values


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_values_of_own_labels(family: Family | Histogram) -> None:
    expected = {"role": {"client", "server"}, "reason": REASON_VALUES}
    assert label_values(family) == {name: expected[name] for name in exposed(family)[2]}
    parts = family.parts if isinstance(family, Histogram) else family.samples
    assert len({part.labels for part in parts}) == len(parts)
    assert all(part.side == dict(part.labels).get("role", part.side) for part in parts)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_help_and_example(family: Family | Histogram) -> None:
    """HELP is written without escaping, so nothing in it may need any; an example uses its own metric."""
    assert re.fullmatch(r"[^\\\n]+\.", family.help)
    assert exposed(family)[0] in family.example


def enumerators(name: str) -> list[str]:
    """The names in an enum of the header, in its order; `name` is empty for the one without."""
    pattern = rf"enum {name} \{{(.*?)\}}" if name else r"enum \{(.*?)\}"
    (body,) = re.findall(pattern, re.sub(r"//[^\n]*", "", HEADER), re.S)
    return [part.partition("=")[0].strip() for part in body.split(",") if part.strip()]


ENUMS = ("role", "reason", "counter", "dimension", "label", "series_kind", "")
MACROS = ("COMM_LEN", "FILTER_IPV4_ONLY", "FILTER_IPV6_ONLY")


def members(struct: str, prefix: str = "") -> list[str]:
    """The numbers in a struct of the header, outer.inner for those of a struct within."""
    (body,) = re.findall(rf"struct {struct} \{{(.*?)\n\}}", HEADER, re.S)
    found = []
    for kind, name in re.findall(r"\t(u64|struct \w+) (\w+)[;\[]", body):
        inner = kind.removeprefix("struct ")
        found += [prefix + name] if kind == "u64" else members(inner, f"{prefix}{name}.")
    return found


FIELDS = tuple(members("series"))


@pytest.fixture(scope="session")
def constants(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, int]:
    """What the compiler says of types.h: enumerators, macros, sizes, and the slots of each number."""
    names = [*(name for enum in ENUMS for name in enumerators(enum)), *MACROS]
    expressions = {name: name for name in names}
    expressions |= {f"series.{one}": f"sizeof(((struct series *)0)->{one}) / 8" for one in FIELDS}
    expressions |= {f"list {d} {e}": f"FILTER_LIST({d}, {e})" for d in range(6) for e in range(2)}
    for one in ("series", "series_key", "settings", "filter_key", "filter_network"):
        expressions[f"sizeof {one}"] = f"sizeof(struct {one})"
    for one in ("comm", "netns", "port", "kind"):
        expressions[f"series_key.{one}"] = f"__builtin_offsetof(struct series_key, {one})"
    folder = tmp_path_factory.mktemp("constants")
    listed = ", ".join(f"(long long)({expression})" for expression in expressions.values())
    text = f'#include "linux/types.h"\n#include "types.h"\nlong long values[] = {{{listed}}};\n'
    flags = [f"-D{name}={value}" for name, value in SLOTS.items()]
    folders = ["-nostdinc", "-I", str(source.FOLDER / "include"), "-I", str(source.FOLDER)]
    command = [
        "gcc",
        "-shared",
        "-fPIC",
        *flags,
        *folders,
        "-x",
        "c",
        "-",
        "-o",
        str(folder / "constants.so"),
    ]
    subprocess.run(command, input=text, text=True, check=True)
    values = (ct.c_longlong * len(expressions)).in_dll(ct.CDLL(str(folder / "constants.so")), "values")
    return dict(zip(expressions, values, strict=True))


def test_the_header_was_read(constants: Mapping[str, int]) -> None:
    assert len(FIELDS) == 17
    assert constants["COUNTERS"] == len(enumerators("counter")) - 1
    assert sum(constants[f"series.{one}"] for one in FIELDS) * 8 == constants["sizeof series"]


def test_reasons_are_the_headers(constants: Mapping[str, int]) -> None:
    numbers = {name.removeprefix("REASON_").lower(): constants[name] for name in enumerators("reason")}
    assert {reason: slot for slot, reason in enumerate(REASONS)} == {
        name: number for name, number in numbers.items() if name in REASON_VALUES
    }
    assert constants["REASONS"] == len(REASONS)


def test_roles_are_the_headers(constants: Mapping[str, int]) -> None:
    assert [constants["ROLE_CLIENT"], constants["ROLE_SERVER"], constants["ROLES"]] == [0, 1, 2]
    assert ROLES == ("client", "server")


def test_counters_are_the_headers(constants: Mapping[str, int]) -> None:
    by_number = {
        constants[name]: name.removeprefix("COUNTER_").lower() for name in enumerators("counter")[:-1]
    }
    assert dict(enumerate(snapshot.COUNTERS)) == by_number
    assert len(snapshot.COUNTERS) == constants["COUNTERS"]


def test_every_lost_counter_has_its_stage() -> None:
    lost = {name for name in snapshot.COUNTERS if name.startswith(("lost_", "cut_"))}
    told = [*LOST_STAGES.values(), "lost_state"]  # which is told with what recursion lost
    assert sorted(told) == sorted(lost)


def test_the_key_is_the_headers(constants: Mapping[str, int]) -> None:
    assert snapshot._KEY.size == constants["sizeof series_key"]
    assert [constants[f"series_key.{one}"] for one in ("comm", "netns", "port", "kind")] == [0, 16, 20, 22]
    assert constants["OTHER_SERIES"] == snapshot._OTHER_KIND == control._OTHER_SERIES
    assert constants["COMM_LEN"] == 16


def test_slots_are_the_headers(constants: Mapping[str, int]) -> None:
    assert enumerators("") == ["OFF", "SLOT_A", "SLOT_B"]
    assert tuple(constants[name] for name in enumerators("")) == (
        control._OFF,
        control._SLOT_A,
        control._SLOT_B,
    )


def test_dimensions_are_the_headers(constants: Mapping[str, int]) -> None:
    ours = {
        f"DIM_{name}": getattr(control, f"_{name}")
        for name in ("PID", "PORT", "NETNS", "COMM", "UID", "REMOTE")
    }
    assert ours == {name: constants[name] for name in enumerators("dimension")[:-1]}
    assert constants["DIMENSIONS"] == len(ours)


def test_labels_are_the_headers(constants: Mapping[str, int]) -> None:
    assert {f"LABEL_{name.upper()}": bit for name, bit in control._LABEL_BITS.items()} == {
        name: constants[name] for name in enumerators("label")
    }
    assert tuple(control._LABEL_BITS) == LABELS


def test_filter_bits_are_the_headers(constants: Mapping[str, int]) -> None:
    families = (0, constants["FILTER_IPV4_ONLY"], constants["FILTER_IPV6_ONLY"])
    assert dict(zip(("both", "ipv4", "ipv6"), families, strict=True)) == control._FAMILY_BITS
    lists = [constants[f"list {dimension} {exclude}"] for dimension in range(6) for exclude in range(2)]
    assert lists == [1 << bit for bit in range(12)]


def used_fields(family: Family | Histogram) -> list[tuple[str, int | None]]:
    """(field, slot) of each number of a family."""
    if isinstance(family, Histogram):
        sums = [(part.sum_ns.name, part.sum_ns.slot) for part in family.parts]
        return [*sums, *((part.slots, None) for part in family.parts)]
    return [
        (used.name, used.slot) for one in family.samples for used in (one.plus, one.minus) if used is not None
    ]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_fields_are_the_headers(family: Family | Histogram, constants: Mapping[str, int]) -> None:
    for name, slot in used_fields(family):
        assert name in FIELDS
        assert slot is None or slot < constants[f"series.{name}"]
    if isinstance(family, Histogram):
        slots = SLOTS[f"{family.bounds.upper()}_SLOTS"]
        assert {constants[f"series.{part.slots}"] for part in family.parts} == {slots}


def test_every_field_is_told() -> None:
    """A number that the kernel keeps and nobody serves would be a mistake."""
    assert {name for family in FAMILIES for name, _slot in used_fields(family)} == set(FIELDS)


def test_the_header_is_named_where_it_is_repeated() -> None:
    for module in (control, snapshot):
        assert "bpf/types.h" in Path(str(module.__file__)).read_text()
