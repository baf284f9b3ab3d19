"""What an operator can do wrong: one line, a hint, the right exit status, and nothing started or left."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from harness.netns import sh
from helpers.b_pinned import PinnedMap, bpffs

TCPMON = [sys.executable, "-m", "tcpmon"]
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
TOO_FEW = ["setpriv", "--bounding-set=-bpf,-perfmon,-sys_admin"]
PATIENCE_S = 20
Done = subprocess.CompletedProcess[str]


def tcpmon(*arguments: str, wrapper: list[str] | None = None) -> Done:
    """The command, to its end (it must end)."""
    command = [*(wrapper or []), *TCPMON, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)


def assert_operators_error(done: Done, *words: str) -> str:
    """Exit status 1, and on stderr one line that has each of `words`, and a hint."""
    lines = done.stderr.splitlines()
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr, done.stderr
    assert len(lines) == 2, done.stderr
    assert all(word.lower() in lines[0].lower() for word in words), lines[0]
    assert lines[1].startswith("hint: "), lines[1]
    assert not done.stdout
    return lines[0]


def ids() -> set[int]:
    """All BPF programs there are."""
    return {program["id"] for program in json.loads(sh("bpftool prog show --json"))}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A path for a configuration file that others than root can read too."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    return tmp_path / "tcpmon.yaml"


FAULTS = {
    "unknown key": ("filters:\n  prot: [80]\n", 2, 3, "filters.prot", "port"),
    "unknown section": ("filtres: {}\n", 1, 1, "filtres", "filters"),
    "wrong type": ("metrics:\n  labels: 7\n", 2, 11, "metrics.labels", "7"),
    "unknown label": ("metrics:\n  labels: [comm, prot]\n", 2, 18, "metrics.labels", "prot"),
    "backward range": ("filters:\n  port: ['9000-8000']\n", 2, 10, "filters.port", "9000-8000"),
    "port too large": ("filters:\n  port:\n  - 80\n  - 65536\n", 4, 5, "filters.port", "65536"),
    "unknown user": ("filters:\n  uid: [no-such-user]\n", 2, 9, "filters.uid", "no-such-user"),
    "bad network": (
        "filters:\n  remote: {exclude: [10.0.0.0/33]}\n",
        2,
        22,
        "filters.remote.exclude",
        "10.0.0.0/33",
    ),
    "no such netns": ("filters:\n  netns: [no-such-netns]\n", 2, 11, "filters.netns", "no-such-netns"),
    "no such map": (
        "filters:\n  cgroup_map: /sys/fs/bpf/none\n",
        2,
        15,
        "filters.cgroup_map",
        "/sys/fs/bpf/none",
    ),
    "long comm": ("filters:\n  comm: [sixteen-bytes-xx]\n", 2, 10, "filters.comm", "15"),
    "falling buckets": (
        "metrics:\n  buckets:\n    accept_wait: [2, 1]\n",
        3,
        0,
        "metrics.buckets.accept_wait",
        "",
    ),
    "no series": ("metrics:\n  max_series: 0\n", 2, 15, "metrics.max_series", "0"),
    "bad address": ("listen: localhost\n", 1, 9, "listen", "localhost"),
    "twice": ("log: {level: info}\nlog: {level: debug}\n", 2, 1, "log", ""),
}


def place(path: Path, line: int, column: int, key: str) -> str:
    where = rf"{column or '[0-9]+'}"
    return rf"^{re.escape(str(path))}:{line}:{where}: {re.escape(key)}(\.\w+|\[\d+\])?: \S"


@pytest.mark.parametrize("fault", FAULTS)
def test_check_config_says_where(config: Path, fault: str) -> None:
    text, line, column, key, word = FAULTS[fault]
    config.write_text(text)
    said = assert_operators_error(tcpmon("check-config", "-c", str(config)), word)
    assert re.match(place(config, line, column, key), said), said


@pytest.mark.parametrize(
    "fault", ["unknown key", "wrong type", "backward range", "unknown user", "no such map"]
)
def test_run_refuses_a_faulty_file(config: Path, fault: str) -> None:
    text, line, column, key, word = FAULTS[fault]
    config.write_text(text)
    said = assert_operators_error(tcpmon("run", "-c", str(config)), word)
    assert re.match(place(config, line, column, key), said), said


def test_every_fault_has_its_line(config: Path) -> None:
    config.write_text("listen: 5\nfilters:\n  prot: [1]\n  uid: [nobody-there]\nmetrics: {comm: thraed}\n")
    done = tcpmon("check-config", "-c", str(config))
    faults = [line for line in done.stderr.splitlines() if not line.startswith("hint: ")]
    keys = ["listen", "filters.prot", "filters.uid", "metrics.comm"]
    for at, key, said in zip((1, 3, 4, 5), keys, faults, strict=True):
        assert re.match(place(config, at, 0, key), said), said
    assert "thread" in faults[3]
    assert done.returncode == 1


@pytest.mark.parametrize("verb", ["run", "check-config"])
def test_a_missing_file(config: Path, verb: str) -> None:
    assert_operators_error(tcpmon(verb, "-c", str(config)), str(config))


@pytest.mark.parametrize("verb", ["run", "check-config"])
@pytest.mark.parametrize(
    "text", [b"a: [1\n", b"\t- :", b"just words", b"\x00", b"\xff\xfe\xfd", b"- a\n- b\n"], ids=repr
)
def test_what_is_no_configuration(config: Path, verb: str, text: bytes) -> None:
    config.write_bytes(text)
    assert_operators_error(tcpmon(verb, "-c", str(config)), str(config))


def test_a_folder_is_no_file(config: Path) -> None:
    assert_operators_error(tcpmon("run", "-c", str(config.parent)), str(config.parent))


@pytest.mark.parametrize("key", ["cgroup_map", "mntns_map"])
def test_a_map_with_the_wrong_key_size(config: Path, key: str) -> None:
    with bpffs() as folder, PinnedMap(folder / f"tcpmon-{os.getpid()}", key_size=4) as pinned:
        config.write_text(f"filters:\n  {key}: {pinned.path}\n")
        said = assert_operators_error(tcpmon("run", "-c", str(config)), "8", str(pinned.path))
    assert said.startswith(f"{config}:2:{len(key) + 5}: filters.{key}: "), said


def test_a_map_that_is_a_file(config: Path) -> None:
    config.write_text(f"filters:\n  cgroup_map: {config}\n")
    said = assert_operators_error(tcpmon("run", "-c", str(config)), str(config))
    assert re.match(place(config, 2, 15, "filters.cgroup_map"), said), said


def test_a_missing_map_is_not_made(config: Path) -> None:
    with bpffs() as folder:
        path = folder / f"tcpmon-{os.getpid()}"
        config.write_text(f"filters:\n  mntns_map: {path}\n")
        assert_operators_error(tcpmon("run", "-c", str(config)), str(path))
        assert not path.exists()


def test_a_good_file(config: Path) -> None:
    config.write_text("filters: {port: [80, '8000-8099']}\n")
    done = tcpmon("check-config", "-c", str(config))
    assert done.returncode == 0, done.stderr


def test_check_config_needs_no_privilege(config: Path) -> None:
    config.write_text("{}\n")
    assert tcpmon("check-config", "-c", str(config), wrapper=NOBODY).returncode == 0


@pytest.mark.parametrize("wrapper", [NOBODY, TOO_FEW], ids=["not root", "too few capabilities"])
def test_too_little_privilege(config: Path, wrapper: list[str]) -> None:
    config.write_text(f"listen: 127.0.0.1:{free_port()}\n")
    done = tcpmon("run", "-c", str(config), wrapper=wrapper)
    assert_operators_error(done)
    assert "CAP_BPF" in done.stderr
    assert "kernel offers no way" not in done.stderr


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield int(other.getsockname()[1])


def test_bcc_is_missing(config: Path, tmp_path: Path) -> None:
    """One that cannot be imported lies over the real one, in a mount namespace of its own."""
    folder = find_spec("bcc").submodule_search_locations[0]  # type: ignore[union-attr,index]
    (tmp_path / "bcc.py").write_text("raise ModuleNotFoundError(\"No module named 'bcc'\", name='bcc')\n")
    config.write_text(f"listen: 127.0.0.1:{free_port()}\n")
    cover = f'mount -t tmpfs none {folder} && cp {tmp_path}/bcc.py {folder}/__init__.py && exec "$@"'
    wrapper = ["unshare", "-m", "sh", "-c", cover, "sh"]
    done = tcpmon("run", "-c", str(config), wrapper=wrapper)
    assert_operators_error(done, "bcc")
    assert "python3-bpfcc" in done.stderr
    done = tcpmon("check-kernel", wrapper=wrapper)
    assert done.returncode == 1
    assert "bcc cannot be imported" in done.stderr


def test_a_module_in_the_working_directory_is_not_run(tmp_path: Path) -> None:
    """Whoever may write where root happens to be would be root else."""
    for name in ("bcc", "json", "socket"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('of the working directory')\n")
    command = [Path(sys.executable).with_name("tcpmon"), "tcpaccept", "-P", "1"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=tmp_path) as tool:
        assert tool.stdout is not None
        first = tool.stdout.readline()
        tool.send_signal(signal.SIGINT)
        assert first.startswith("PID"), tool.communicate()


def test_no_btf(config: Path) -> None:
    """An empty file system over /sys/kernel/btf, in a mount namespace of its own."""
    config.write_text(f"listen: 127.0.0.1:{free_port()}\n")
    hide = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /sys/kernel/btf && exec "$@"', "sh"]
    assert_operators_error(tcpmon("run", "-c", str(config), wrapper=hide), "BTF")
    assert tcpmon("check-kernel", wrapper=hide).returncode == 1
    assert json.loads(tcpmon("check-kernel", "--json", wrapper=hide).stdout)["usable"] is False


def test_the_port_is_in_use(config: Path) -> None:
    with taken_port() as port:
        address = f"127.0.0.1:{port}"
        config.write_text(f"listen: {address}\n")
        assert_operators_error(tcpmon("run", "-c", str(config)), address, "in use")


def test_one_of_two_ports_is_in_use(config: Path) -> None:
    with taken_port() as port:
        address = f"127.0.0.1:{port}"
        config.write_text(f"listen: ['127.0.0.1:{free_port()}', '{address}']\n")
        assert_operators_error(tcpmon("run", "-c", str(config)), address, "in use")


def test_an_address_of_somebody_else(config: Path) -> None:
    config.write_text("listen: 192.0.2.1:19317\n")
    assert_operators_error(tcpmon("run", "-c", str(config)), "192.0.2.1:19317")


def test_nothing_is_left_behind(config: Path) -> None:
    """No program of an attempt that failed after loading could begin: those there were are all there are."""
    with taken_port() as port:
        config.write_text(f"listen: 127.0.0.1:{port}\n")
        before = ids()
        assert tcpmon("run", "-c", str(config)).returncode == 1
        assert not {number for number in ids() - before if "tcpmon" in owners(number)}


def owners(program: int) -> str:
    """The names of the processes that hold a BPF program."""
    shown = json.loads(sh("bpftool prog show --json"))
    return " ".join(pid["comm"] for row in shown if row["id"] == program for pid in row.get("pids", []))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["run", "--nope"],
        ["run", "-c"],
        ["run", "extra"],
        ["check-config", "-x"],
        ["--nope"],
    ],
    ids=" ".join,
)
def test_bad_usage(arguments: list[str]) -> None:
    done = tcpmon(*arguments)
    assert done.returncode == 2
    assert "usage: tcpmon" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [["-h"], ["run", "-h"], ["check-config", "-h"], ["check-kernel", "--help"]], ids=" ".join
)
def test_help(arguments: list[str]) -> None:
    done = tcpmon(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: tcpmon")


def test_version() -> None:
    done = tcpmon("--version")
    assert done.returncode == 0
    assert re.fullmatch(r"tcpmon \d+\.\d+\.\d+\n", done.stdout)


def test_check_kernel() -> None:
    done = tcpmon("check-kernel")
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("connect", "accept", "state", "inet_sock_set_state", os.uname().release):
        assert word in done.stdout


def test_check_kernel_for_scripts() -> None:
    done = tcpmon("check-kernel", "--json")
    answer = json.loads(done.stdout)
    assert done.returncode == 0
    assert answer["usable"] is True
    chosen = [probe for probe in answer["probes"] if probe["chosen"]]
    assert {probe["event"] for probe in chosen} >= {"connect", "accept"}
    assert len(chosen) == len({probe["event"] for probe in chosen}), "one mechanism for each event"


def test_a_closed_pipe_is_no_bug() -> None:
    """`tcpmon check-kernel | head -0`: nobody reads, and no traceback is written."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*TCPMON, "check-kernel"], stdout=writing, stderr=subprocess.PIPE, text=True, timeout=PATIENCE_S
        )
    finally:
        os.close(writing)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
