"""YAML for fuzzing: scalars that parsers stumble over, trees of them under right and wrong keys, and where a
complaint may point to."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml
from fuzzing import tampered
from hypothesis import strategies as st

from tcpmon.config import yamlmap
from tcpmon.errors import MAX_TOLD, ConfigError

SCALARS = (
    *("null", "~", '""', "''", "true", "no", "x", "self", "root", "both", "blue", "ä", "'on'", "-", ",", "'"),
    *("0", "1", "-1", "80", "0x50", "010", "0b1", "0o17", "1_000", "1:30", "1:30.5", "4026531840", "65536"),
    *(
        "1.0",
        "1.",
        ".5",
        "1e3",
        "1e-3",
        "1E999",
        ".inf",
        "-.INF",
        ".nan",
        "9" * 25,
        "9" * 400,
        "0x" + "f" * 99,
    ),
    *("1h", "90s", "1h30m", "30m1h", "1MiB", "3KiB", "1KiB", "1ms", "1.5h", ".5s", "1h" * 40, "9" * 70 + "h"),
    *("8000-8099", '"99-1"', '"443"', '"00000000080"', '"1-65536"', "pid:1234", "/dev/null", "/dev/net/tun"),
    *('"::1"', "::1", "10.0.0.0/8", "10.0.0.1/8", "10.0.0.0/0008", '"::ffff:10.0.0.0/104"', '"fe80::1%lo"'),
    *("127.0.0.1:1", '"[::]:0"', "localhost:65536", "[::1]:80", "a:b", "a: b"),
    *(
        "2026-11-21",
        "2026-11-21T10:00:00Z",
        "!!binary /2E=",
        "!!binary '!'",
        "!!str 1",
        "!!int x",
        "!!int ' 7 '",
    ),
    *(
        "!!null x",
        "!!seq x",
        "!!map x",
        "!!set {x}",
        "!!str [x]",
        "!!null {x: 1}",
        "!!float 1",
        "!!bool maybe",
    ),
    *("! 7", "!x y", "!%ED%A0%80 x", "!%00 x", "!<tag:yaml.org,2002:int> 7", "&a x", "*a", "&a [*a]", "<<"),
    *(
        '"\\0"',
        '"\\ud800"',
        '"\\xff"',
        '"\\u2028"',
        "'\t'",
        "? x",
        "|\n  x",
        ">-\n x",
        "%YAML 9.9",
        "---",
        "...",
    ),
    *("[]", "{}", "[[]]", "[{}]", "{x: [}", "[,]", "{<<: {x: 1}}", "[" * 20 + "]" * 20, "[x]" * 2),
)
TOKENS = [
    *(scalar.encode() for scalar in SCALARS),
    *(
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\xed\xa0\x80",
        b"\xc2\x85",
        b"\xe2\x80\xa8",
        b"\r",
        b"\t",
        b"\n",
        b" ",
    ),
    *(b"#", b"*a ", b"&a ", b"<<: ", b": ", b"- ", b"\n---\n", b"\n...\n", b"%TAG ! %ED%A0%80\n", b"include"),
]
# YAML's, in which libyaml counts lines
_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


class SchemaLoader(yaml.SafeLoader):
    """Plain values for a JSON Schema, of the scalars that tcpmon reads."""


SchemaLoader.yaml_implicit_resolvers = yamlmap._Scalars.yaml_implicit_resolvers


def trees(keys: Mapping[str, Any], values: Sequence[str]) -> st.SearchStrategy[bytes]:
    """A file with some of `keys` (nested mappings of names), each with one of `values`, one of SCALARS, or a
    list or mapping of such."""
    scalars = st.one_of(st.sampled_from(values), st.sampled_from(SCALARS), st.text(max_size=8))
    anything = st.recursive(scalars, lambda inner: st.one_of(_list(inner), _mapping(inner)), max_leaves=6)
    return _tree(keys, anything).map(lambda text: text.encode(errors="replace"))


def _list(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(inner, max_size=4).map(lambda items: f"[{', '.join(items)}]")


def _mapping(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    names = st.one_of(st.sampled_from(("include", "exclude", "x", "? [x]", "1", "<<", "~")), inner)
    pairs = st.lists(st.tuples(names, inner), max_size=3)
    return pairs.map(lambda found: f"{{{', '.join(f'{key}: {value}' for key, value in found)}}}")


def _tree(keys: Mapping[str, Any], anything: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """In flow style, with the keys now and then wrong, or there twice."""
    pairs = [
        st.tuples(st.just(name), st.one_of(_tree(below, anything), anything) if below else anything)
        for name, below in keys.items()
    ]
    wrong = st.tuples(st.sampled_from(SCALARS), anything)
    chosen = st.lists(st.one_of(*pairs, *pairs, wrong), max_size=3, unique_by=lambda pair: pair[0])
    return chosen.map(lambda found: f"{{{', '.join(f'{name}: {value}' for name, value in found)}}}")


def files(shipped: bytes, found: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Trees, a whole file and both of them tampered with, and any bytes at all."""
    return st.one_of(
        found, tampered(found, TOKENS), tampered(st.just(shipped), TOKENS), st.binary(max_size=64)
    )


def check_places(error: ConfigError, path: str, data: bytes) -> None:
    """Each complaint names the file and a place within, is one line, and nothing that a terminal obeys."""
    lines = _BREAK.split(data.removeprefix(b"\xef\xbb\xbf").decode(errors="replace"))
    assert error.faults
    for fault in error.faults:
        assert fault.path == path
        assert 1 <= fault.line <= len(lines)
        assert 1 <= fault.column <= len(lines[fault.line - 1]) + 1
        assert f"{fault.key} {fault.problem}".isprintable()
    assert len(error.message.splitlines()) == min(len(error.faults), MAX_TOLD + 1)


def check_schema(
    data: bytes, is_valid: Callable[[], bool], read: Callable[[bytes], object], beyond: Sequence[str]
) -> None:
    """What the file's JSON Schema takes has no fault but those that no schema can tell: `beyond`."""
    try:
        valid = is_valid()
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return  # nothing that JSON has
    found = read(data)
    if valid and isinstance(found, ConfigError):
        for fault in found.faults:
            assert any(told in fault.problem for told in beyond), (str(fault), data)
