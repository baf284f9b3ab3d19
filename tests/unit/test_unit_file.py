"""The systemd units, by systemd's own judgement: valid, as safe as claimed, each setting with its reason."""

from __future__ import annotations

import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from needs import needs

FOLDER = Path(__file__).parents[2] / "deploy" / "systemd"
SERVICE, SOCKET, SYSUSERS = (FOLDER / f"tcpmon.{kind}" for kind in ("service", "socket", "sysusers"))
DROP_INS = sorted((FOLDER / "examples").glob("*.conf"))
MAX_EXPOSURE = 2.0
# Which capability each drop-in adds, and no more.
GRANTED = {
    "kprobes.conf": {"CAP_SYS_ADMIN"},
    "pinned-maps.conf": {"CAP_DAC_OVERRIDE"},
    "process-netns.conf": {"CAP_SYS_PTRACE"},
    "tracepoints.conf": {"CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH"},
}


def directives(path: Path) -> list[tuple[str, str, str]]:
    """Each setting of a unit: its name, its value, and the line above."""
    lines = path.read_text().splitlines()
    settings = [(above, line) for above, line in pairwise(lines) if line and not line.startswith(("#", "["))]
    return [(name, value, above) for above, line in settings for name, _, value in [line.partition("=")]]


def values(path: Path, name: str) -> list[str]:
    return [value for found, value, _above in directives(path) if found == name]


def unit_path(folder: Path, *drop_ins: Path) -> Path:
    """The units in a folder of their own, the command standing in for one that is installed."""
    folder.mkdir(exist_ok=True)
    command = shutil.which("true") or "/usr/bin/true"
    (folder / SERVICE.name).write_text(SERVICE.read_text().replace("/usr/bin/tcpmon", command))
    shutil.copy(SOCKET, folder)
    (folder / "tcpmon.service.d").mkdir()
    for drop_in in drop_ins:
        shutil.copy(drop_in, folder / "tcpmon.service.d")
    return folder / SERVICE.name


def systemd_analyze(*arguments: str | Path) -> str:
    done = subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def exposure(service: Path) -> float:
    said = systemd_analyze("security", "--offline=true", service)
    found = re.search(r"Overall exposure level for tcpmon\.service: ([0-9.]+)", said)
    assert found, said
    return float(found[1])


@needs("systemd-analyze")
def test_systemd_has_no_complaint(tmp_path: Path) -> None:
    service = unit_path(tmp_path / "units")
    assert systemd_analyze("verify", "--man=no", service, service.with_name(SOCKET.name)) == ""


@needs("systemd-analyze")
@pytest.mark.parametrize("drop_in", DROP_INS, ids=lambda path: path.stem)
def test_systemd_has_no_complaint_with_a_drop_in(drop_in: Path, tmp_path: Path) -> None:
    assert systemd_analyze("verify", "--man=no", unit_path(tmp_path / "units", drop_in)) == ""


@needs("systemd-analyze")
def test_the_service_is_as_safe_as_it_claims(tmp_path: Path) -> None:
    assert exposure(unit_path(tmp_path / "units")) <= MAX_EXPOSURE


@needs("systemd-analyze")
@pytest.mark.parametrize("drop_in", DROP_INS, ids=lambda path: path.stem)
def test_a_drop_in_costs_little_safety(drop_in: Path, tmp_path: Path) -> None:
    assert exposure(unit_path(tmp_path / "units", drop_in)) <= MAX_EXPOSURE


@pytest.mark.parametrize("path", [SERVICE, SOCKET], ids=lambda path: path.name)
def test_each_setting_has_its_reason_above_it(path: Path) -> None:
    explains_itself = {"Description", "Documentation", "WantedBy", "ExecStart", "StartLimitBurst"}
    bare = [name for name, _value, above in directives(path) if not above.startswith("# ")]
    assert set(bare) <= explains_itself


def test_the_service_grants_two_capabilities() -> None:
    for name in ("AmbientCapabilities", "CapabilityBoundingSet"):
        assert [set(value.split()) for value in values(SERVICE, name)] == [{"CAP_BPF", "CAP_PERFMON"}]


def test_a_drop_in_grants_what_it_says() -> None:
    found = {path.name: values(path, "AmbientCapabilities") for path in DROP_INS}
    assert {name: set(granted.split()) for name, (granted,) in found.items()} == GRANTED
    assert found == {path.name: values(path, "CapabilityBoundingSet") for path in DROP_INS}


def test_what_a_restart_that_loses_nothing_stands_on() -> None:
    assert values(SERVICE, "Type") == ["notify"]
    assert int(*values(SERVICE, "FileDescriptorStoreMax")) >= 64
    assert values(SERVICE, "LogRateLimitIntervalSec") == ["0"]
    assert {"bpf", "perf_event_open"} <= set(values(SERVICE, "SystemCallFilter")[0].split())


def test_the_socket_listens_where_the_daemon_would() -> None:
    config = (FOLDER.parents[1] / "config" / "tcpmon.yaml").read_text()
    assert [f"listen: {address}" for address in values(SOCKET, "ListenStream")] == re.findall(
        r"^listen: .*", config, re.MULTILINE
    )


@needs("systemd-sysusers")
def test_the_user_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    subprocess.run(["systemd-sysusers", f"--root={tmp_path}", SYSUSERS], check=True, capture_output=True)
    (entry,) = (tmp_path / "etc" / "passwd").read_text().splitlines()
    name, _password, _uid, _gid, _what, home, shell = entry.split(":")
    assert [name] == values(SERVICE, "User")
    assert (home, shell.rpartition("/")[2]) == ("/", "nologin")
