"""The message catalog: in step with the tables, and taken by journalctl."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tcpmon.events import catalog
from tcpmon.events.fields import FIELDS, MESSAGE_IDS, PREFIX
from tcpmon.events.record import Kind
from tcpmon.metrics.families import REASONS

TEXT = catalog.text()
needs_journalctl = pytest.mark.skipif(
    shutil.which("journalctl") is None and os.environ.get("CI") != "true",
    reason="journalctl is not installed",
)


def texts() -> dict[str, str]:
    """By message id."""
    return dict(re.findall(r"^-- ([0-9a-f]{32})\n(.*?)(?=^-- |\Z)", TEXT, re.MULTILINE | re.DOTALL))


def test_the_shipped_catalog_is_the_generated_one() -> None:
    assert catalog.TARGET.read_text(encoding="utf-8") == TEXT


@pytest.mark.parametrize("kind", MESSAGE_IDS)
def test_it_speaks_of_fields_that_the_kind_has(kind: Kind) -> None:
    own = {PREFIX + field.name for field in FIELDS if kind in field.kinds}
    named = set(re.findall(r"@(\w+)@", texts()[MESSAGE_IDS[kind]]))
    assert named - own <= {"_BOOT_ID"}
    assert {"TCPMON_PID", "TCPMON_DADDR", "TCPMON_DPORT"} < named
    assert not {"TCPMON_COMM", "TCPMON_THREAD_COMM"} & named  # any bytes, and journalctl passes them on


def test_every_reason_is_explained() -> None:
    _head, body = texts()[MESSAGE_IDS[Kind.CONNECT_FAILED]].split("\n\n", 1)
    explained = re.findall(r"^(\w+): ", body, re.MULTILINE)
    assert explained == list(REASONS)


def test_lines_are_short() -> None:
    """But for the subjects, which are a line each."""
    assert max(len(line) for line in TEXT.splitlines() if not line.startswith("Subject:")) <= 80


@needs_journalctl
def test_journalctl_takes_it(tmp_path: Path) -> None:
    folder = tmp_path / "usr/lib/systemd/catalog"
    folder.mkdir(parents=True)
    shutil.copy(catalog.TARGET, folder)
    command = ["journalctl", f"--root={tmp_path}"]
    done = subprocess.run([*command, "--update-catalog"], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    listed = subprocess.run([*command, "--list-catalog"], capture_output=True, text=True, check=True)
    assert {line.split()[0] for line in listed.stdout.splitlines()} == set(MESSAGE_IDS.values())
    assert all(line.split()[1] == "tcpmon:" for line in listed.stdout.splitlines())
    dumped = subprocess.run([*command, "--dump-catalog"], capture_output=True, text=True, check=True)
    assert all(text.strip() in dumped.stdout for text in texts().values())
