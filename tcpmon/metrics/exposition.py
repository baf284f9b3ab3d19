"""Rows to Prometheus text and OpenMetrics, in pieces, so that a large answer is never held whole.

What a label set's lines look like is laid out once, as a template for each family; a row then costs a
replacement and a `%`. prometheus_client's generate_latest makes an object of each sample and one string of
all, which at 10,000 label sets takes many times as long and some hundred megabytes. It stays the judge: tests
parse both with its parsers, and demand equality.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

from prometheus_client.utils import floatToGoString

from tcpmon.kernel.load import Layout
from tcpmon.metrics.families import CLIENT, FAMILIES, SERVER, Family, Field, Histogram, Part, Sample
from tcpmon.metrics.numbers import difference, number, slots
from tcpmon.metrics.snapshot import Numbers

_NS = 1e9
_PIECE_ROWS = 256
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_OWN = "\0"  # in a template: where the label set's own labels go; no text from outside has it
Rows = Sequence[tuple[tuple[str, ...], Numbers]]
Values = Callable[[Numbers], tuple[object, ...]]


@dataclass(frozen=True)
class Block:
    """The lines that a label set has in a family, for one side: shown where `side` was used and `values` has
    any to fill the template in with."""

    side: str
    template: str
    values: Values


class Exposition:
    """Renders the families of label sets. Layout and bounds (seconds) do not change while running."""

    def __init__(self, layout: Layout, bounds: Mapping[str, Sequence[float]]) -> None:
        self._layout = layout
        self._bounds = bounds
        self._uses = {CLIENT: number(layout, Field("attempts")), SERVER: number(layout, Field("accepts"))}
        # With labels and without any: braces and commas differ
        self._blocks = {labelled: self._all_blocks(labelled) for labelled in (True, False)}

    def render(self, rows: Rows, labels: Sequence[str], openmetrics: bool) -> Iterator[bytes]:
        """`rows` as snapshot.merge makes them for `labels`; each family's text in pieces."""
        prefixed = [(_prefix(labels, values), numbers) for values, numbers in rows]
        sides = {side: [row for row in prefixed if uses(row[1])] for side, uses in self._uses.items()}
        for family, blocks in zip(FAMILIES, self._blocks[bool(labels)], strict=True):
            yield _head(family, openmetrics).encode()
            for block in blocks:
                of_side = sides[block.side]
                for first in range(0, len(of_side), _PIECE_ROWS):
                    yield _lines(block, of_side[first : first + _PIECE_ROWS])

    def _all_blocks(self, labelled: bool) -> list[list[Block]]:
        return [
            self._histogram(family, labelled)
            if isinstance(family, Histogram)
            else self._family(family, labelled)
            for family in FAMILIES
        ]

    def _family(self, family: Family, labelled: bool) -> list[Block]:
        name = family.name + ("_total" if family.kind == "counter" else "")
        return [
            self._samples(name, side, list(samples), labelled)
            for side, samples in groupby(family.samples, key=lambda sample: sample.side)
        ]

    def _samples(self, name: str, side: str, samples: Sequence[Sample], labelled: bool) -> Block:
        lines = [f"{name}{_braces(sample.labels, labelled)} %d\n" for sample in samples]
        numbers = [difference(self._layout, sample) for sample in samples]
        if len(numbers) == 1:
            (only,) = numbers
            return Block(side, lines[0], lambda row: (only(row),))
        return Block(side, "".join(lines), lambda row: tuple([each(row) for each in numbers]))

    def _histogram(self, family: Histogram, labelled: bool) -> list[Block]:
        bounds = [*map(floatToGoString, self._bounds[family.bounds]), "+Inf"]
        return [self._buckets(family.name, part, bounds, labelled) for part in family.parts]

    def _buckets(self, name: str, part: Part, bounds: Sequence[str], labelled: bool) -> Block:
        counts, sum_ns = slots(self._layout, Field(part.slots)), number(self._layout, part.sum_ns)
        lines = [f"{name}_bucket{_braces((*part.labels, ('le', bound)), labelled)} %d\n" for bound in bounds]
        braces = _braces(part.labels, labelled)
        lines += [f"{name}_count{braces} %d\n", f"{name}_sum{braces} %r\n"]

        def values(row: Numbers) -> tuple[object, ...]:
            buckets = tuple(accumulate(counts(row)))
            if not (total := buckets[-1]):
                return ()  # a histogram without a sample says nothing
            return *buckets, total, sum_ns(row) / _NS

        return Block(part.side, "".join(lines), values)


def _lines(block: Block, rows: Sequence[tuple[str, Numbers]]) -> bytes:
    template, values = block.template, block.values
    return "".join(
        [template.replace(_OWN, prefix) % filled for prefix, row in rows if (filled := values(row))]
    ).encode()


def _head(family: Family | Histogram, openmetrics: bool) -> str:
    kind = "histogram" if isinstance(family, Histogram) else family.kind
    name = family.name + ("_total" if kind == "counter" and not openmetrics else "")
    return f"# HELP {name} {family.help}\n# TYPE {name} {kind}\n"


def _prefix(labels: Sequence[str], values: Sequence[str]) -> str:
    """A label set's own labels, for a template: % is doubled."""
    pairs = zip(labels, values, strict=True)
    return ",".join([f'{label}="{value.translate(_ESCAPES)}"' for label, value in pairs]).replace("%", "%%")


def _braces(labels: Sequence[tuple[str, str]], labelled: bool) -> str:
    parts = [_OWN] if labelled else []
    parts += [f'{label}="{value}"' for label, value in labels]
    return f"{{{','.join(parts)}}}" if parts else ""
