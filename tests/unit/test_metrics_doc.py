"""docs/metrics.md is in step with the tables of metrics."""

from __future__ import annotations

from tcpmon.metrics import doc
from tcpmon.metrics.families import FAMILIES
from tcpmon.metrics.selfmetrics import SELF


def test_the_shipped_text_is_the_generated_one() -> None:
    assert doc.TARGET.read_text(encoding="utf-8") == doc.text()


def test_every_metric_is_in_it() -> None:
    text = doc.text()
    for name in (*(family.name for family in FAMILIES), *SELF):
        assert f"`{name}" in text
