"""What a test needs of its machine: under CI=true a lack is a failure, elsewhere a skip."""

from __future__ import annotations

import os
import shutil

import pytest

CI = os.environ.get("CI") == "true"


def needs(*tools: str) -> pytest.MarkDecorator:
    """Skips where one of these commands is not installed; under CI it is left to fail."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    return pytest.mark.skipif(bool(missing) and not CI, reason=f"not installed: {', '.join(missing)}")


def needs_root(what: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(os.geteuid() != 0 and not CI, reason=f"needs root, {what}")
