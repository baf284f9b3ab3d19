"""The kinds of value a setting can have: how each is read from YAML, in words, and in JSON Schema.

Quantities are in units.py, filters in filters.py.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from yaml.constructor import SafeConstructor

from tcpmon.config.yamlmap import Node, collect
from tcpmon.errors import ConfigError

Schema = dict[str, Any]

MAX_PORT = 65_535
# What one list of the file may hold; the kernel's filter tables are sized for it.
MAX_ITEMS = 1024

_LISTEN = re.compile(r"(?:\[(?P<six>[^\]]*)\]|(?P<four>[^:\[\]]*)):(?P<port>[0-9]{1,9})")


@dataclass(frozen=True)
class World:
    """What a configuration refers to outside its file. `check_map` says what is wrong with a map, or None."""

    check_map: Callable[[str], str | None]
    proc: str
    run_netns: str


@dataclass(frozen=True)
class Address:
    """Where to listen: an IP address without brackets, and a port (0: any free one)."""

    host: str
    port: int


@dataclass(frozen=True)
class Kind:
    """`parse` raises ConfigError; `text` completes "expected …" and heads the key in the documentation."""

    text: str
    parse: Callable[[Node, World], Any]
    schema: Schema


def whole(low: int, high: int) -> Kind:
    what = f"a whole number from {low} to {high}"

    def parse(node: Node, _: World) -> int:
        return parse_whole(node, low, high, what)

    return Kind(what, parse, {"type": "integer", "minimum": low, "maximum": high})


def parse_whole(node: Node, low: int, high: int, what: str) -> int:
    value = integer(node)
    if value is None or not low <= value <= high:
        raise node.expected(what)
    return value


def integer(node: Node) -> int | None:
    """None for what is none, and for 010 and 1:30, which are 8 and 90 in YAML, and nobody means that."""
    try:
        return int(node.text, 0) if node.tag == "int" else None
    except ValueError:  # those, and numbers of thousands of digits
        return None


def parse_text(node: Node, what: str) -> str:
    """A non-empty string that system calls can take."""
    if node.tag != "str":
        raise node.expected(what)
    if not node.text:
        raise node.bad("is empty")
    if re.search("[\0\ud800-\udfff]", node.text):
        raise node.bad("holds a character that no name can have")
    return node.text


def list_items(node: Node, what: str = "a list", low: int = 0, high: int = MAX_ITEMS) -> tuple[Node, ...]:
    if node.tag != "seq":
        raise node.expected(what)
    if not low <= len(node.items) <= high:
        raise ConfigError([node.fault(f"{len(node.items)} entries, expected {low} to {high}")])
    return node.items


def choice(*names: str) -> Kind:
    def parse(node: Node, _: World) -> str:
        if node.tag != "str" or node.text not in names:
            raise node.expected(f"one of {', '.join(names)}")
        return node.text

    return Kind(" | ".join(f"`{name}`" for name in names), parse, {"enum": list(names)})


def _flag(node: Node, _: World) -> bool:
    value = SafeConstructor.bool_values.get(node.text.lower()) if node.tag == "bool" else None
    if value is None:
        raise node.expected("true or false")
    return bool(value)


FLAG = Kind("true or false", _flag, {"type": "boolean"})


def subset(*names: str, low: int = 0) -> Kind:
    """Some of `names`, each at most once, in any order; read in the order given here."""
    member = choice(*names)

    def parse(node: Node, world: World) -> tuple[str, ...]:
        seen: set[str] = set()

        def parse_one(item: Node) -> str:
            name: str = member.parse(item, world)
            if name in seen:
                raise item.bad("given twice")
            seen.add(name)
            return name

        chosen = collect(parse_one, list_items(node, f"a list of {', '.join(names)}", low, len(names)))
        return tuple(name for name in names if name in chosen)

    schema: Schema = {"type": "array", "items": member.schema, "uniqueItems": True, "minItems": low}
    return Kind(f"a list of any of {', '.join(names)}", parse, schema)


def _address(node: Node, _: World) -> Address:
    what = 'address:port such as 127.0.0.1:19317, or "[::]:19317" for all addresses'
    text = parse_text(node, what)
    match = _LISTEN.fullmatch(text)
    if not match or text.startswith(":"):
        raise node.expected(what)
    if int(match["port"]) > MAX_PORT:
        raise node.bad(f"ports run from 0 to {MAX_PORT}")
    host = "127.0.0.1" if match["four"] == "localhost" else match["four"] or match["six"]
    family = ipaddress.IPv6Address if match["four"] is None else ipaddress.IPv4Address
    try:
        return Address(str(family(without_zone(host))), int(match["port"]))
    except ValueError:
        raise node.bad("not an IP address before the port") from None


def without_zone(address: str) -> str:
    """Refuses fe80::1%eth0, which ipaddress takes and the kernel's side cannot."""
    if "%" in address:
        raise ValueError(address)
    return address


def _listen(node: Node, world: World) -> tuple[Address, ...]:
    items = list_items(node, low=1, high=64) if node.tag == "seq" else (node,)
    seen: set[Address] = set()

    def parse_one(item: Node) -> Address:
        address = _address(item, world)
        if address in seen:
            raise item.bad("given twice")
        seen.add(address)
        return address

    return tuple(collect(parse_one, items))


_LISTEN_SCHEMA = {"type": "string", "pattern": r"^(\[[^\]]*\]|[^:\[\]]+):[0-9]+$"}
LISTEN = Kind(
    "`address:port`, or a list of them",
    _listen,
    {
        "anyOf": [
            _LISTEN_SCHEMA,
            {"type": "array", "items": _LISTEN_SCHEMA, "minItems": 1, "uniqueItems": True},
        ]
    },
)


def optional_path(node: Node, _: World) -> str | None:
    return None if node.tag == "null" else parse_text(node, "a path or null")


def _beside(node: Node, world: World) -> str | None:
    path = optional_path(node, world)
    if path is None:
        return None
    path = os.path.join(os.path.dirname(node.path), path)
    try:
        os.lstat(path)
    except FileNotFoundError:
        raise node.bad("no such file") from None
    except (OSError, ValueError):
        pass  # told by who reads it
    return path


FILE = Kind(
    "a path, relative to this file's folder, or null", _beside, {"type": ["string", "null"], "minLength": 1}
)


def _pinned_map(node: Node, world: World) -> str | None:
    path = optional_path(node, world)
    if path is None:
        return None
    problem = world.check_map(path) if path.startswith("/") else "not an absolute path"
    if problem:
        raise node.bad(problem)
    return path


PINNED_MAP = Kind("an absolute path, or null", _pinned_map, {"type": ["string", "null"], "pattern": "^/"})


def map_problem(path: str) -> str | None:
    """What is wrong with a pinned map (missing, unreadable, no hash, keys of a wrong size), or None."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return "no such file; pin the map before tcpmon starts"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    from tcpmon.kernel.libbpf import pinned_map_problem  # only where a path is set: it loads libbpf

    return pinned_map_problem(path)
