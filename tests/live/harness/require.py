"""What a live test needs of its machine: under CI=true a lack is a failure, elsewhere a skip."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


def require(condition: bool, missing: str) -> None:
    """Skip (or, under CI=true, fail) saying what is `missing` unless `condition` holds."""
    if condition:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"cannot run: {missing}", pytrace=False)
    pytest.skip(missing)


def require_privileges() -> None:
    require(os.geteuid() == 0, "live tests need root")
    require(Path("/sys/kernel/btf/vmlinux").exists(), "this kernel has no BTF (/sys/kernel/btf/vmlinux)")
    for tool in ("ip", "gcc"):
        require(shutil.which(tool) is not None, f"`{tool}` is not installed")
