"""The tools' options: what is accepted, what of it the kernel is asked to filter, and what is refused how."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tcpmon import cli
from tcpmon.config import Selection
from tcpmon.errors import TcpmonError
from tcpmon.events.record import Kind
from tcpmon.tools import TOOLS, request, tcpaccept, tcpconnect, tcptracer
from tcpmon.tools.request import ToolRequest

TCPMON = [sys.executable, "-m", "tcpmon"]
# bcc's, each with the arguments that it takes
OPTIONS = {
    "tcptracer": "-t --timestamp -p7 --pid=7 -N7 --netns=7 -4 --ipv4 -6 --ipv6 -v --verbose",
    "tcpaccept": "-T --time -t --timestamp -p7 --pid=7 -P7 --port=7 -4 --ipv4 -6 --ipv6",
    "tcpconnect": "-t --timestamp -p7 --pid=7 -P7 --port=7 -4 --ipv4 -6 --ipv6 -L --lport -U --print-uid "
    "-u7 --uid=7 -c --count -d --dns",
}
MAPS = "--cgroupmap=/x --mntnsmap=/x"
KINDS = {
    "tcptracer": (Kind.CONNECT, Kind.ACCEPT, Kind.CLOSING),
    "tcpaccept": (Kind.ACCEPT,),
    "tcpconnect": (Kind.ATTEMPT,),
}
MODULES = {"tcptracer": tcptracer, "tcpaccept": tcpaccept, "tcpconnect": tcpconnect}


def parse(command: str) -> argparse.Namespace:
    arguments = command.split()
    return cli.parser(arguments[0]).parse_args(arguments)


def asked(command: str) -> ToolRequest:
    """What a command asks of the kernel's side; every map is taken for a good one."""
    tool = MODULES[command.split()[0]].TOOL
    return request.make(tool.kinds, parse(command), check_map=lambda _path: None)


def tcpmon(*arguments: str) -> tuple[int, str, str]:
    """Exit status, stdout, stderr."""
    done = subprocess.run([*TCPMON, *arguments], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("tool", TOOLS)
def test_every_option_of_bcc_is_there_and_no_other(tool: str) -> None:
    options = f"{OPTIONS[tool]} {MAPS}".split()
    for option in options:
        parse(f"{tool} {option}")
    names = {name.rstrip("7").partition("=")[0] for name in options}
    assert {name for option in MODULES[tool].TOOL.options for name in option.names} == names


@pytest.mark.parametrize("tool", TOOLS)
def test_all_events_of_its_kinds_by_default(tool: str) -> None:
    made = asked(tool)
    filters = made.filters
    assert made.kinds == KINDS[tool]
    assert not made.dns
    assert filters.family == "both"
    assert (filters.cgroup_map, filters.mntns_map) == (None, None)
    dimensions = (filters.pid, filters.port, filters.netns, filters.comm, filters.uid, filters.remote)
    assert dimensions == (Selection(),) * 6


def test_filters() -> None:
    assert asked("tcptracer -p 181").filters.pid == Selection((181,))
    assert asked("tcptracer -N 4026531969").filters.netns == Selection((4026531969,))
    assert asked("tcpaccept -P 80,81").filters.port == Selection(((80, 80), (81, 81)))
    assert asked("tcpconnect -P 443").filters.port == Selection(((443, 443),))
    assert asked("tcpconnect -u 0").filters.uid == Selection((0,))
    assert asked("tcpconnect -4").filters.family == "ipv4"
    assert asked("tcpaccept -6").filters.family == "ipv6"
    assert asked("tcpconnect -d").dns


def test_spaces_in_a_list_of_ports() -> None:
    parsed = cli.parser("tcpconnect").parse_args(["tcpconnect", "-P", "80, 81"])
    assert parsed.port == (80, 81)


@pytest.mark.parametrize("option", ["--cgroupmap", "--mntnsmap"])
def test_maps(option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their absolute path, as the compiler will look for them elsewhere."""
    monkeypatch.chdir(tmp_path)
    filters = asked(f"tcpaccept {option} some/map").filters
    found = {"--cgroupmap": filters.cgroup_map, "--mntnsmap": filters.mntns_map}
    assert found.pop(option) == str(tmp_path / "some/map")
    assert list(found.values()) == [None]


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("option", ["--cgroupmap", "--mntnsmap"])
def test_a_missing_map(tool: str, option: str, tmp_path: Path) -> None:
    path = tmp_path / "none"
    status, said, complaints = tcpmon(tool, option, str(path))
    assert (status, said) == (1, "")
    problem, hint = complaints.splitlines()
    assert problem == f"tcpmon: {option} {path}: no such file; pin the map before tcpmon starts"
    assert hint.startswith("hint: bpftool map create ")


def test_a_path_that_is_no_map(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TcpmonError, match=r"--cgroupmap .*/file: cannot be opened as a pinned BPF map"):
        request.make((Kind.ACCEPT,), parse(f"tcpaccept --cgroupmap {tmp_path}/file"))


@pytest.mark.parametrize(
    "command, complaint",
    [
        ("tcptracer -4 -6", "not allowed with argument"),
        ("tcpaccept --ipv6 --ipv4", "not allowed with argument"),
        ("tcpconnect -46", "not allowed with argument"),
        ("tcptracer -p 0", "argument -p/--pid: '0': process ids run from 1 to 4194304"),
        ("tcptracer -p x", "argument -p/--pid: 'x' is no whole number; process ids run from 1 to"),
        ("tcptracer -p -1", "argument -p/--pid: "),
        ("tcptracer -p", "argument -p/--pid: expected one argument"),
        ("tcptracer -N 4294967296", "namespaces run from 1 to 4294967295"),
        ("tcpaccept -P 65536", "argument -P/--port: '65536': ports run from 1 to 65535"),
        ("tcpaccept -P 80,", "argument -P/--port: '' is no whole number; ports"),
        ("tcpaccept -P 80-90", "argument -P/--port: '80-90' is no whole number; ports"),
        ("tcpconnect -P ٨٠", "ports run from 1 to 65535"),
        ("tcpconnect -u root", "argument -u/--uid: 'root' is no whole number; user ids"),
        ("tcpconnect -u " + "9" * 5000, "user ids run from 0 to 4294967294"),
        ("tcpconnect -c -d", "-d/--dns and -c/--count cannot be combined"),
        ("tcptracer -P 80", "unrecognized arguments: -P"),
        ("tcpaccept -c", "unrecognized arguments: -c"),
        ("tcpconnect surplus", "unrecognized arguments: surplus"),
    ],
)
def test_bad_usage(command: str, complaint: str) -> None:
    status, said, complaints = tcpmon(*command.split())
    assert (status, said) == (2, "")
    assert complaints.startswith("usage: tcpmon ")
    assert complaint in complaints
    assert "Traceback" not in complaints


@pytest.mark.parametrize("tool", TOOLS)
def test_help(tool: str) -> None:
    status, said, complaints = tcpmon(tool, "-h")
    assert (status, complaints) == (0, "")
    assert said.startswith(f"usage: tcpmon {tool} [-h] ")
    assert "examples:\n  tcpmon " in said
    assert "`" not in said
    assert "%%" not in said
    for option in MODULES[tool].TOOL.options:
        assert any(option.long in line for line in said.splitlines() if line.startswith("  -"))


@pytest.mark.parametrize("tool", TOOLS)
def test_the_examples_are_valid(tool: str) -> None:
    for example in MODULES[tool].TOOL.examples:
        arguments = ["7" if word.startswith("$(") else word for word in example.arguments.split(" ", 1)]
        cli.parser(tool).parse_args([tool, *filter(None, arguments)])


def test_the_daemon_imports_nothing_of_the_tools() -> None:
    code = "import sys; from tcpmon import cli; cli.parser('run'); import tcpmon.daemon; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert {name for name in modules if name.startswith("tcpmon.tools")} == {"tcpmon.tools"}
    assert "dns" not in modules


@pytest.mark.parametrize("tool", TOOLS)
def test_without_privilege(tool: str) -> None:
    """One line and a hint. As nobody where this is root."""
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]
    prefix = as_nobody if os.geteuid() == 0 else []
    done = subprocess.run([*prefix, *TCPMON, tool], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    problem, hint = done.stderr.splitlines()
    assert problem.startswith("tcpmon: too little privilege to trace: ")
    assert hint.startswith("hint: run as root")
