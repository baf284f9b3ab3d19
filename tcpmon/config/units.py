"""Quantities with a unit: durations, sizes, histogram bounds."""

from __future__ import annotations

import math
import mmap
import re

from tcpmon.config.kinds import Kind, World, integer, list_items
from tcpmon.config.yamlmap import Node, collect

MAX_BUCKETS = 64
# Ten years: nothing measured or kept takes longer, and in nanoseconds it fits 64 bits.
MAX_SECONDS = 3650 * 86_400
# Latencies are summed in microseconds.
MIN_SECONDS = 1e-6
MAX_BUFFER_BYTES = 1 << 30
_SECONDS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?:[0-9]{1,9}[dhms])+")
_DURATION_PART = re.compile(r"([0-9]+)([dhms])")
_BYTES = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10}
_SIZE = re.compile(r"([0-9]{1,10})(KiB|MiB|GiB)")


def _number(node: Node, what: str) -> float:
    """A finite number. `inf` and `nan` have a dot in YAML, so that float() refuses them."""
    try:
        value = integer(node) if node.tag == "int" else float(node.text) if node.tag == "float" else None
        if value is not None and math.isfinite(value):
            return float(value)
    except (ValueError, OverflowError):  # OverflowError: a whole number beyond every float
        pass
    raise node.expected(what)


def _duration(node: Node, _: World) -> float:
    what = "a duration, a number of seconds or such as 90s, 5m, 1h30m, 2d"
    if node.tag == "str" and _DURATION.fullmatch(node.text):
        parts = _DURATION_PART.findall(node.text)
        units = [unit for _, unit in parts]
        if units != [unit for unit in _SECONDS if unit in units]:
            raise node.bad("units run from large to small, each once: 1d2h3m4s")
        seconds = float(sum(int(number) * _SECONDS[unit] for number, unit in parts))
    else:
        seconds = _number(node, what)
    if not 0 <= seconds <= MAX_SECONDS:
        raise node.bad(f"durations run from 0 to {MAX_SECONDS // 86_400}d")
    return seconds


_DURATION_SCHEMA = r"^(?=.)([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?$"
DURATION = Kind(
    "a duration: a number of seconds, or text such as `90s`, `5m`, `1h30m`, `2d`",
    _duration,
    {
        "anyOf": [
            {"type": "number", "minimum": 0, "maximum": MAX_SECONDS},
            {"type": "string", "pattern": _DURATION_SCHEMA},
        ]
    },
)


def _size(node: Node, _: World) -> int:
    match = _SIZE.fullmatch(node.text) if node.tag == "str" else None
    if match:
        size = int(match[1]) * _BYTES[match[2]]
    elif (number := integer(node)) is not None:
        size = number
    else:
        raise node.expected("a size, a number of bytes or such as 512KiB, 1MiB")
    if not mmap.PAGESIZE <= size <= MAX_BUFFER_BYTES:
        raise node.bad(f"sizes run from {_size_text(mmap.PAGESIZE)} to {_size_text(MAX_BUFFER_BYTES)}")
    if size & (size - 1):
        below = 1 << (size.bit_length() - 1)
        raise node.bad(f"not a power of two; write {_size_text(below)} or {_size_text(below * 2)}")
    return size


def _size_text(size: int) -> str:
    return next((f"{size // scale}{unit}" for unit, scale in _BYTES.items() if size % scale == 0), str(size))


BUFFER = Kind(
    "a power of two from a page (often `4KiB`) to `1GiB`: a number of bytes, or with KiB, MiB, GiB",
    _size,
    {
        "anyOf": [
            {"type": "integer", "minimum": 4096, "maximum": MAX_BUFFER_BYTES},
            {"type": "string", "pattern": "^[0-9]+(KiB|MiB|GiB)$"},
        ]
    },
)


def _bounds(node: Node, _: World) -> tuple[float, ...]:
    what = f"a number of seconds from 0.000001 to {MAX_SECONDS} (+Inf is always there)"
    below = 0.0

    def parse_one(item: Node) -> float:
        nonlocal below
        value = _number(item, what)
        if not MIN_SECONDS <= value <= MAX_SECONDS:
            raise item.expected(what)
        if value <= below:
            raise item.bad(f"bounds must rise, and the one before is {below:g}")
        below = value
        return value

    return tuple(collect(parse_one, list_items(node, "a list of numbers", 1, MAX_BUCKETS)))


BOUNDS = Kind(
    f"a list of 1 to {MAX_BUCKETS} rising numbers of seconds",
    _bounds,
    {
        "type": "array",
        "items": {"type": "number", "minimum": MIN_SECONDS, "maximum": MAX_SECONDS},
        "minItems": 1,
        "maxItems": MAX_BUCKETS,
        "uniqueItems": True,
    },
)
