"""Fuzzing by hypothesis; see fuzzing.py."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", "ignore:Generating overly large repr")
