"""YAML in which every value knows its place: file, line, column and dotted key.

Built from the parser's events rather than from PyYAML's own nodes, so that aliases, depth and a second
document are refused before anything is built from them.
"""

from __future__ import annotations

import codecs
import difflib
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import yaml
from yaml.reader import Reader
from yaml.resolver import Resolver

from tcpmon.config.file import contents
from tcpmon.errors import MAX_TOLD, ConfigError, Fault

S = TypeVar("S")
T = TypeVar("T")

# Every filter list full makes 12,300.
MAX_VALUES = 50_000
# The deepest legal value is four levels down; PyYAML's own bound is the C stack.
MAX_DEPTH = 16
# Of a value or key in a message: room for most paths.
MAX_SHOWN = 128

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_KINDS = {"seq": "a list", "map": "a mapping"}
_SCALAR_TAGS = ("str", "null", "bool", "int", "float", "binary", "timestamp")
_NULLS = ("", "~", "null", "Null", "NULL")
# With a second byte order mark, which libyaml would pass over
_CONTROL = re.compile(f"{Reader.NON_PRINTABLE.pattern}|\\A\ufeff")
_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
# One way to match each text: with two, a line of colons takes hours
_UNQUOTED_IPV6 = re.compile(r"(?:^|[\s,\[])(?:\[[0-9a-fA-F]*:[0-9a-fA-F:]*\]|::)")


class _Scalars(Resolver):  # type: ignore[misc, unused-ignore]
    """YAML 1.1's unquoted scalars, and 1e-3 as the number it is in YAML 1.2."""


_Scalars.add_implicit_resolver(  # type: ignore[no-untyped-call, unused-ignore]
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9.]*[eE][-+]?[0-9]+$"), list("-+0123456789")
)


@dataclass(frozen=True)
class Node:
    """One YAML value. `tag` is YAML's type (str, int, float, bool, null, binary, seq, map or another).

    `text` is a scalar's source, `items` a list's values, `entries` a mapping's (key, value) pairs in the
    order of the file, duplicates included. A list's items have the list's own dotted `key`.
    """

    path: str
    line: int
    column: int
    key: str
    tag: str
    text: str = ""
    items: tuple[Node, ...] = ()
    entries: tuple[tuple[Node, Node], ...] = ()

    def bad(self, problem: str) -> ConfigError:
        """The complaint that this value, shown in front, has `problem`."""
        return ConfigError([self.fault(f"{self.shown}: {problem}")])

    def expected(self, what: str, hint: str = "") -> ConfigError:
        return ConfigError([self.fault(f"expected {what}, not {self.shown}{hint}")])

    def fault(self, problem: str) -> Fault:
        return Fault(self.path, self.line, self.column, self.key, problem)

    @property
    def shown(self) -> str:
        """The value as a message shows it: one short line without control characters."""
        if self.tag in _KINDS:
            return _KINDS[self.tag]
        if self.tag == "null":
            return "null"
        if self.tag in ("str", "binary"):
            return f'"{printable(self.text)}"'
        return printable(self.text) or self.tag


def printable(text: str) -> str:
    cut = text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def collect(parse: Callable[[S], T], nodes: Iterable[S], faults: Iterable[Fault] = ()) -> list[T]:
    """What `parse` makes of each, mostly a Node. Raises one ConfigError with all faults, given ones first."""
    values: list[T] = []
    found = list(faults)
    for node in nodes:
        try:
            values.append(parse(node))
        except ConfigError as error:
            found += error.faults
    if found:
        raise ConfigError(found)
    return values


def children(
    node: Node, names: Collection[str], elsewhere: Collection[str] = ()
) -> tuple[dict[str, Node], list[Fault]]:
    """A mapping's values by name, and the faults of its keys: unknown, duplicate, no text.

    `elsewhere` holds the dotted keys of the whole file, for a key that is right but in the wrong section.
    """
    known: dict[str, Node] = {}
    faults: list[Fault] = []
    for key, value in node.entries:
        if key.tag in _KINDS:
            faults.append(key.fault(f"a key must be text, not {key.shown}"))
        elif key.text not in names:
            near = _did_you_mean(key.text, names, elsewhere) if len(faults) < MAX_TOLD else ""
            faults.append(key.fault(f"unknown key{near}"))
        elif key.text in known:
            faults.append(key.fault(f"duplicate key, first given on line {known[key.text].line}"))
        else:
            known[key.text] = value
    return known, faults


def _did_you_mean(name: str, names: Collection[str], elsewhere: Collection[str]) -> str:
    near = difflib.get_close_matches(name[:MAX_SHOWN].lower(), names, n=1)
    near = near or [dotted for dotted in elsewhere if dotted.rpartition(".")[2] == name]
    return f'; did you mean "{near[0]}"?' if near else ""


def read(path: str) -> Node:
    """The file's top-level node, a mapping or null. Raises ConfigError."""
    try:
        data = contents(path)
    except FileNotFoundError:
        problem = "no such file"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except ValueError as error:
        problem = str(error)
    else:
        return parse(data, path)
    raise ConfigError([Fault(path, 0, 0, "", problem)])


def parse(data: bytes, path: str) -> Node:
    """The top-level node of a file's contents. Raises ConfigError."""
    return compose(_decode(data, path), path)


def _decode(data: bytes, path: str) -> str:
    unmarked = data.removeprefix(codecs.BOM_UTF8)
    try:
        return unmarked.decode()
    except UnicodeDecodeError as error:
        line, column = _place(unmarked[: error.start].decode())
        raise ConfigError([Fault(path, line, column, "", "is not UTF-8")]) from None


def _place(before: str) -> tuple[int, int]:
    """Of what comes behind, as libyaml counts."""
    lines = _LINE_END.split(before)
    return len(lines), len(lines[-1]) + 1


def compose(text: str, path: str) -> Node:
    """The top-level node of a YAML text; null where there is none. Raises ConfigError."""
    control = _CONTROL.search(text)
    if control:
        line, column = _place(text[: control.start()])
        raise ConfigError([Fault(path, line, column, "", f"not YAML: control character {control.group()!a}")])
    try:
        return _document(_events(text, path), path)
    except yaml.YAMLError as error:
        raise ConfigError([_syntax_fault(error, text, path)]) from None


def _events(text: str, path: str) -> Iterator[Any]:
    """What PyYAML makes of a text."""
    line = column = 1
    events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)
    try:
        for event in events:
            line, column = event.end_mark.line + 1, event.end_mark.column + 1
            yield event
    except UnicodeDecodeError:  # PyYAML's own: a tag such as !%FF, for which it has no place
        problem = "not YAML: the next tag escapes bytes that are not UTF-8"
        raise ConfigError([Fault(path, line, column, "", problem)]) from None


def _syntax_fault(error: yaml.YAMLError, text: str, path: str) -> Fault:
    if not isinstance(error, yaml.MarkedYAMLError):
        return Fault(path, 0, 0, "", f"not YAML: {error}")
    mark = error.problem_mark or error.context_mark
    # libyaml puts the end of a file that does not end its last line on a line of its own
    end = _place(text)
    line, column = min((mark.line + 1, mark.column + 1), end) if mark else end
    context = f" {error.context}" if error.context else ""
    lines = text.splitlines()
    source = lines[line - 1] if 0 < line <= len(lines) else ""
    hint = '; write IPv6 addresses in quotes: "::1", "[::]:19317"' if _UNQUOTED_IPV6.search(source) else ""
    if source[column - 1 : column] == "\t":
        hint = "; it is a tab: YAML indents with spaces"
    return Fault(path, line, column, "", f"not YAML: {error.problem}{context}{hint}")


def _document(events: Iterator[Any], path: str) -> Node:
    root = Node(path, 1, 1, "", "null")
    documents = 0
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise ConfigError([_null(event, path, "").fault("a second document; a file holds one")])
            root = _Builder(events, path).build(next(events), "", 0)
    return root


def _null(event: Any, path: str, key: str) -> Node:
    return Node(path, event.start_mark.line + 1, event.start_mark.column + 1, key, "null")


class _Builder:
    """Turns the events of one document into nodes."""

    def __init__(self, events: Iterator[Any], path: str) -> None:
        self.events = events
        self.path = path
        self.values = 0
        self.resolve: Any = _Scalars().resolve

    def build(self, event: Any, key: str, depth: int) -> Node:
        place = _null(event, self.path, key)
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError([place.fault(f"*{printable(str(event.anchor))}: aliases are not supported")])
        if depth > MAX_DEPTH:
            raise ConfigError([place.fault("nested too deeply")])
        self.values += 1
        if self.values > MAX_VALUES:
            raise ConfigError([place.fault(f"more than {MAX_VALUES} values in the file")])
        at = (place.path, place.line, place.column, key)
        tag = self._tag(event)
        if _contradicts(tag, event):
            raise ConfigError([place.fault(f"!!{tag} on what is none")])
        if isinstance(event, yaml.ScalarEvent):
            return Node(*at, tag, text=event.value)
        if isinstance(event, yaml.SequenceStartEvent):
            return Node(*at, tag, items=tuple(self._items(key, depth + 1)))
        return Node(*at, tag, entries=tuple(self._entries(key, depth + 1)))

    def _tag(self, event: Any) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            return _tag(event.tag, "seq" if isinstance(event, yaml.SequenceStartEvent) else "map")
        resolved = self.resolve(yaml.ScalarNode, event.value, event.implicit)
        return _tag(event.tag, _tag(resolved, "str"))

    def _items(self, key: str, depth: int) -> Iterator[Node]:
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            yield self.build(event, key, depth)

    def _entries(self, parent: str, depth: int) -> Iterator[tuple[Node, Node]]:
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            name = printable(event.value) if isinstance(event, yaml.ScalarEvent) else ""
            key = ".".join(filter(None, (parent, name)))
            yield self.build(event, key, depth), self.build(next(self.events), key, depth)


def _contradicts(tag: str, event: Any) -> bool:
    """Whether a tag says that the value is of another kind than it is: what is in it would be passed over."""
    if isinstance(event, yaml.ScalarEvent):
        return tag in _KINDS or (tag == "null" and event.value not in _NULLS)
    other = "map" if isinstance(event, yaml.SequenceStartEvent) else "seq"
    return tag in (*_SCALAR_TAGS, other)


def _tag(tag: str | None, default: str) -> str:
    return default if tag in (None, "!") else str(tag).removeprefix("tag:yaml.org,2002:")
