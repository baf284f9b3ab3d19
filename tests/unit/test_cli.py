"""The command, as a user runs it: what it prints where, and its exit status."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tcpmon import __version__
from tcpmon.kernel import probes

TCPMON = [sys.executable, "-m", "tcpmon"]
VERBS = ("run", "check-config", "check-kernel")
HINT = "hint: see docs/configuration.md; `tcpmon check-config` checks a file\n"
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 and os.environ.get("CI") != "true", reason="trying out probes needs root"
)


def tcpmon(*arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout, stderr."""
    done = subprocess.run([*TCPMON, *arguments], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def test_version() -> None:
    assert tcpmon("--version") == (0, f"tcpmon {__version__}\n", "")


def test_help_names_every_verb() -> None:
    status, said, complaints = tcpmon("-h")
    assert (status, complaints) == (0, "")
    assert said.startswith("usage: tcpmon ")
    assert set(VERBS) <= {line.split()[0] for line in said.splitlines() if line.startswith("    ")}


@pytest.mark.parametrize(
    "verb, option", [("run", "--config FILE"), ("check-config", "--config FILE"), ("check-kernel", "--json")]
)
def test_help_of_a_verb(verb: str, option: str) -> None:
    status, said, complaints = tcpmon(verb, "-h")
    assert (status, complaints) == (0, "")
    assert said.startswith(f"usage: tcpmon {verb} ")
    assert option in said


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["--nonsense"],
        ["run", "surplus"],
        ["run", "-c"],
        ["run", "--force", "accept"],
        ["run", "--force", "accept=magic"],
        ["run", "--force", "close=fexit"],
        ["check-config", "--json"],
        ["check-kernel", "-c", "x"],
    ],
    ids=" ".join,
)
def test_bad_usage(arguments: list[str]) -> None:
    status, said, complaints = tcpmon(*arguments)
    assert (status, said) == (2, "")
    verb = f"{arguments[0]} " if arguments[:1] and arguments[0] in VERBS else ""
    assert complaints.startswith(f"usage: tcpmon {verb}")
    assert "Traceback" not in complaints


def test_check_config_on_a_good_file(tmp_path: Path) -> None:
    path = tmp_path / "good.yaml"
    path.write_text("metrics: {labels: [comm]}\nfilters: {port: [80, '8000-8099']}\n")
    assert tcpmon("check-config", "-c", str(path)) == (0, f"{path}: valid\n", "")
    assert tcpmon("check-config", "--config", str(path)) == (0, f"{path}: valid\n", "")


def test_check_config_without_a_file() -> None:
    default = "/etc/tcpmon/tcpmon.yaml"
    what = default if os.path.exists(default) else "built-in defaults"
    assert tcpmon("check-config") == (0, f"{what}: valid\n", "")


def test_check_config_on_a_bad_file(tmp_path: Path) -> None:
    """Each fault on its own line, in the file's order, and one hint for all."""
    path = tmp_path / "bad.yaml"
    path.write_text("filters:\n  prot: [80]\n  port: [0]\nlog:\n  level: 7\n")
    status, said, complaints = tcpmon("check-config", "-c", str(path))
    assert (status, said) == (1, "")
    assert complaints.splitlines(keepends=True) == [
        f'{path}:2:3: filters.prot: unknown key; did you mean "port"?\n',
        f"{path}:3:10: filters.port: 0: ports run from 1 to 65535\n",
        f"{path}:5:10: log.level: expected one of debug, info, warning, error, not 7\n",
        HINT,
    ]


@pytest.mark.parametrize("verb", ["check-config", "run"])
def test_a_missing_file(tmp_path: Path, verb: str) -> None:
    path = tmp_path / "none.yaml"
    assert tcpmon(verb, "-c", str(path)) == (1, "", f"{path}: no such file\n{HINT}")


@needs_root
def test_check_kernel_for_scripts() -> None:
    status, said, complaints = tcpmon("check-kernel", "--json")
    report = json.loads(said)
    assert list(report) == ["kernel", "usable", "problems", "probes"]
    assert report["kernel"] == os.uname().release
    assert (report["usable"], report["problems"], status, complaints) == (True, [], 0, "")
    for found in report["probes"]:
        assert list(found) == ["event", "mechanism", "functions", "problem", "chosen"]
        assert not (found["chosen"] and found["problem"])
        assert found["functions"]


@needs_root
def test_check_kernel_tries_every_mechanism_and_takes_the_first_that_works() -> None:
    report = json.loads(tcpmon("check-kernel", "--json")[1])
    tried = [(found["event"], found["mechanism"]) for found in report["probes"]]
    every = [(event, mechanism) for event in probes.MECHANISMS for mechanism in probes.MECHANISMS[event]]
    assert tried == [("state", "fprobe"), ("state", "raw_tracepoint"), *every]
    for event in ("state", *probes.MECHANISMS):
        working = [found for found in report["probes"] if found["event"] == event and not found["problem"]]
        assert [found["chosen"] for found in working] == [True] + [False] * (len(working) - 1)


@needs_root
def test_check_kernel_for_people_says_the_same() -> None:
    status, said, complaints = tcpmon("check-kernel")
    report = json.loads(tcpmon("check-kernel", "--json")[1])
    assert (status, complaints) == (0, "")
    lines = said.splitlines()
    assert lines[0].startswith(f"Linux {os.uname().release}")
    assert lines[-1] == "connect, accept and close can be traced."
    for found in report["probes"]:
        state = "chosen" if found["chosen"] else "missing" if found["problem"] else "works"
        (line,) = [line for line in lines if line.split()[:2] == [found["event"], found["mechanism"]]]
        assert f" {state} " in f"{line} "
        assert line.endswith(found["problem"] or ", ".join(found["functions"]))


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&-"])
def test_a_valid_file_is_valid_whoever_listens(closed: str) -> None:
    command = shlex.join([*TCPMON, "check-config", "-c", "config/tcpmon.yaml"])
    done = subprocess.run(f"{command} {closed}", shell=True, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "arguments",
    [["check-config", "-c", "config/tcpmon.yaml"], ["--help"], ["--version"], ["tcptracer", "--help"]],
    ids=" ".join,
)
def test_an_output_that_is_full(arguments: list[str]) -> None:
    command = shlex.join([*TCPMON, *arguments])
    done = subprocess.run(f"{command} >/dev/full", shell=True, capture_output=True, text=True, timeout=60)
    told = (
        "tcpmon: the output cannot be written: no space left on device\nhint: make room, or write elsewhere\n"
    )
    assert (done.returncode, done.stderr) == (1, told)
