"""How values of a web configuration file are read: by functions from a Node, put together in tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tcpmon.config.kinds import World, choice, list_items, map_problem, parse_text
from tcpmon.config.yamlmap import Node, children, collect
from tcpmon.errors import ConfigError

Parse = Callable[[Node], Any]

_WORLD = World(map_problem, "/proc", "/run/netns")


def mapping_of(node: Node, parsers: Mapping[str, Parse]) -> tuple[dict[str, Any], dict[str, Node]]:
    """The values of a mapping's keys as their parsers have them, and their nodes. Null is like left out."""
    if node.tag == "null":
        return {}, {}
    if node.tag != "map":
        raise node.expected("a mapping")
    found, faults = children(node, parsers)
    nodes = {name: child for name, child in found.items() if child.tag != "null"}
    values = collect(lambda item: parsers[item[0]](item[1]), nodes.items(), faults)
    return dict(zip(nodes, values, strict=True)), nodes


def list_of(parse: Parse) -> Parse:
    return lambda node: collect(parse, list_items(node))


def text(node: Node) -> str:
    """Blank is like left out."""
    return parse_text(node, "a text") if node.text or node.tag != "str" else ""


def pem(node: Node) -> str:
    """A key may be in there: the complaint does not repeat it."""
    if node.tag != "str":
        raise ConfigError([node.fault("expected PEM text")])
    return node.text


def kind(parse: Callable[[Node, World], Any]) -> Parse:
    return lambda node: parse(node, _WORLD)


def one_of(*names: str) -> Parse:
    return kind(choice(*names).parse)
