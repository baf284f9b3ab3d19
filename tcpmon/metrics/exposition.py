"""Rows to Prometheus text and OpenMetrics, in pieces, so that a large answer is never held whole.

prometheus_client's generate_latest makes an object of each sample and one string of all: at 10,000 label sets
some hundred megabytes. It stays the judge: tests parse both with its parsers, and demand equality.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client.utils import floatToGoString

from tcpmon.kernel.load import Layout
from tcpmon.metrics.families import CLIENT, FAMILIES, SERVER, Family, Field, Histogram, Part, Sample
from tcpmon.metrics.snapshot import WORD, Words

_NS = 1e9
_PIECE_ROWS = 256
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
Rows = Sequence[tuple[tuple[str, ...], Words]]
Number = Callable[[Words], int]
Line = Callable[[str, Words], str]


class Exposition:
    """Renders the families of label sets. Layout and bounds (seconds) do not change while running."""

    def __init__(self, layout: Layout, bounds: Mapping[str, Sequence[float]]) -> None:
        self._layout = layout
        self._bounds = bounds
        self._uses = {CLIENT: self._number(Field("attempts")), SERVER: self._number(Field("accepts"))}

    def render(self, rows: Rows, labels: Sequence[str], openmetrics: bool) -> Iterator[bytes]:
        """`rows` as snapshot.merge makes them for `labels`; each family's text in pieces."""
        prefixed = [(_prefix(labels, values), words) for values, words in rows]
        sides = {side: [row for row in prefixed if uses(row[1])] for side, uses in self._uses.items()}
        for family in FAMILIES:
            yield _head(family, openmetrics).encode()
            lines = self._histogram(family) if isinstance(family, Histogram) else self._family(family)
            for side, line in lines:
                of_side = sides[side]
                for first in range(0, len(of_side), _PIECE_ROWS):
                    yield "".join(line(*row) for row in of_side[first : first + _PIECE_ROWS]).encode()

    def _slots(self, field: Field) -> slice:
        offset, size = self._layout.fields[field.name]
        if field.slot is None:
            return slice(offset // WORD, (offset + size) // WORD)
        return slice(offset // WORD + field.slot, offset // WORD + field.slot + 1)

    def _number(self, field: Field) -> Number:
        slots = self._slots(field)
        if slots.stop - slots.start == 1:
            index = slots.start
            return lambda words: words[index]
        return lambda words: sum(words[slots])

    def _family(self, family: Family) -> Iterator[tuple[str, Line]]:
        name = family.name + ("_total" if family.kind == "counter" else "")
        for sample in family.samples:
            yield sample.side, self._line(name, sample)

    def _line(self, name: str, sample: Sample) -> Line:
        labels, plus = _own(sample.labels), self._number(sample.plus)
        if sample.minus is None:
            return lambda prefix, words: f"{name}{_braces(prefix, labels)} {plus(words)}\n"
        minus = self._number(sample.minus)
        return lambda prefix, words: f"{name}{_braces(prefix, labels)} {plus(words) - minus(words)}\n"

    def _histogram(self, family: Histogram) -> Iterator[tuple[str, Line]]:
        bounds = [*map(floatToGoString, self._bounds[family.bounds]), "+Inf"]
        for part in family.parts:
            yield part.side, self._buckets(family.name, part, bounds)

    def _buckets(self, name: str, part: Part, bounds: Sequence[str]) -> Line:
        labels, slots, sum_ns = _own(part.labels), self._slots(Field(part.slots)), self._number(part.sum_ns)
        ends = [f'le="{bound}"}} ' for bound in bounds]

        def lines(prefix: str, words: Words) -> str:
            own = ",".join(filter(None, (prefix, labels)))
            start = f"{name}_bucket{{{own}," if own else f"{name}_bucket{{"
            braces, total, text = f"{{{own}}}" if own else "", 0, []
            for end, slot in zip(ends, words[slots], strict=True):
                total += slot
                text.append(f"{start}{end}{total}\n")
            if not total:
                return ""  # a histogram without a sample says nothing
            text.append(f"{name}_count{braces} {total}\n{name}_sum{braces} {sum_ns(words) / _NS!r}\n")
            return "".join(text)

        return lines


def _head(family: Family | Histogram, openmetrics: bool) -> str:
    kind = "histogram" if isinstance(family, Histogram) else family.kind
    name = family.name + ("_total" if kind == "counter" and not openmetrics else "")
    return f"# HELP {name} {family.help}\n# TYPE {name} {kind}\n"


def _prefix(labels: Sequence[str], values: Sequence[str]) -> str:
    return ",".join(
        f'{label}="{value.translate(_ESCAPES)}"' for label, value in zip(labels, values, strict=True)
    )


def _own(labels: Sequence[tuple[str, str]]) -> str:
    return ",".join(f'{label}="{value}"' for label, value in labels)


def _braces(prefix: str, labels: str) -> str:
    both = ",".join(filter(None, (prefix, labels)))
    return f"{{{both}}}" if both else ""
