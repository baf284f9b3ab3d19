"""Writes dashboards/*.json beside itself: `python -m grafana.build`, in a checkout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana.drilldown import drilldown
from grafana.overview import overview

FOLDER = Path(__file__).parent / "dashboards"


def texts() -> Mapping[str, str]:
    """The text of each dashboard's file, by its name."""
    made = [overview(), drilldown()]
    return {
        f"{one.uid}.json": json.dumps(one, cls=JSONEncoder, indent=2, sort_keys=True) + "\n" for one in made
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in texts().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
