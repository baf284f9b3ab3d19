"""Giving up privilege, in a process of the test's own: what is left, and what can no longer be done."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys

import pytest

from tcpmon import privileges

CAP_BPF = 1 << 39
SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 and os.environ.get("CI") != "true",
    reason="there is no privilege to give up without root",
)

# Prints what is left as JSON. `refuse` stands in for a kernel before 5.19.
CODE = """
import json, os, sys
from tcpmon import privileges

calls = []

def still_works():
    calls.append(os.geteuid())
    if "refuse" in sys.argv:
        raise PermissionError

privileges.drop(still_works)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
def refused(what):
    try:
        what()
    except PermissionError:
        return True
    return False

json.dump({
    **{name: int(status[name], 16) for name in sys.argv[1].split()},
    "NoNewPrivs": int(status["NoNewPrivs"]),
    "ids": [*os.getresuid(), *os.getresgid()],
    "groups": os.getgroups(),
    "calls": len(calls),
    "fds": len(os.listdir("/proc/self/fd")) > 0,
    "root_again": not refused(lambda: os.setresuid(0, 0, 0)) if os.getuid() else False,
    "chroot": not refused(lambda: os.chroot("/")),
}, sys.stdout)
"""


def dropped(*arguments: str, wrapper: tuple[str, ...] = ()) -> dict[str, object]:
    command = [*wrapper, sys.executable, "-c", CODE, " ".join(SETS), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def assert_no_way_back(left: dict[str, object]) -> None:
    assert left["NoNewPrivs"] == 1
    assert left["calls"] == 1
    assert left["fds"] is True
    assert left["root_again"] is False
    assert left["chroot"] is False


def test_nothing_is_left() -> None:
    left = dropped()
    assert {name: left[name] for name in SETS} == dict.fromkeys(SETS, 0)
    assert_no_way_back(left)


def test_an_old_kernel_leaves_cap_bpf_and_nothing_else() -> None:
    left = dropped("refuse")
    assert {name: left[name] for name in SETS} == dict.fromkeys(SETS, 0) | {
        "CapPrm": CAP_BPF,
        "CapEff": CAP_BPF,
    }
    assert_no_way_back(left)


def test_the_user_is_tcpmon_where_there_is_one() -> None:
    left = dropped()
    try:
        user = pwd.getpwnam(privileges.USER)
    except KeyError:
        assert left["ids"] == [0] * 6
    else:
        assert left["ids"] == [user.pw_uid] * 3 + [user.pw_gid] * 3
        assert left["groups"] == []


AMBIENT = "--ambient-caps=+bpf,+perfmon"
USER_WITH_TWO = (
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--inh-caps=+bpf,+perfmon",
    AMBIENT,
)


@pytest.mark.parametrize(
    "arguments, kept", [((), 0), (("refuse",), CAP_BPF)], ids=["new kernel", "old kernel"]
)
def test_a_unit_with_ambient_capabilities(arguments: tuple[str, ...], kept: int) -> None:
    """As systemd starts it: not root, two capabilities that would pass to every child."""
    left = dropped(*arguments, wrapper=USER_WITH_TWO)
    assert (left["CapEff"], left["CapPrm"]) == (kept, kept)
    assert (left["CapInh"], left["CapAmb"]) == (0, 0)
    assert left["ids"] == [65534] * 6
    assert_no_way_back(left)
