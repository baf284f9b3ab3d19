"""Network namespaces of the tests' own: made with ip(8), entered by child processes, gone afterwards."""

from __future__ import annotations

import itertools
import os
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .polling import PATIENCE

_numbers = itertools.count()

LEFT4, RIGHT4 = "10.83.0.1", "10.83.0.2"
LEFT6, RIGHT6 = "fd00:83::1", "fd00:83::2"


def sh(command: str) -> str:
    """Run a command without a shell; its stdout. A failure says what stderr said."""
    done = subprocess.run(shlex.split(command), capture_output=True, text=True, timeout=20 * PATIENCE)
    assert done.returncode == 0, f"{command}: {done.stderr.strip()}"
    return done.stdout


@dataclass(frozen=True)
class Netns:
    """A named network namespace."""

    name: str

    @property
    def path(self) -> Path:
        return Path("/run/netns") / self.name

    @property
    def inum(self) -> str:
        """The namespace's inode number in decimal: the value of the `netns` label."""
        return str(self.path.stat().st_ino)

    def ip(self, arguments: str) -> str:
        """`ip ARGUMENTS` on this namespace."""
        return sh(f"ip -n {self.name} {arguments}")

    def sysctl(self, key: str, value: str | int) -> None:
        """Set net.* (written with dots) inside the namespace."""
        path = "/proc/sys/" + key.replace(".", "/")
        sh(f"ip netns exec {self.name} sh -c {shlex.quote(f'echo {value} > {path}')}")

    def exec(self, *argv: str, **kwargs: object) -> subprocess.Popen[str]:
        """Start a program inside; its comm is the basename of argv[0] (see `Helpers.named`)."""
        command = ["ip", "netns", "exec", self.name, *argv]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **kwargs)  # type: ignore[call-overload,no-any-return]


@contextmanager
def netns() -> Iterator[Netns]:
    """A fresh namespace with lo up."""
    ns = Netns(f"tcpmon-{os.getpid()}-{next(_numbers)}")
    sh(f"ip netns add {ns.name}")
    try:
        ns.ip("link set lo up")
        yield ns
    finally:
        sh(f"ip netns del {ns.name}")


@contextmanager
def veth_pair() -> Iterator[tuple[Netns, Netns]]:
    """Two namespaces joined by a veth called `eth0` at both ends: LEFT4/LEFT6 and RIGHT4/RIGHT6."""
    with netns() as left, netns() as right:
        left.ip(f"link add eth0 type veth peer name eth0 netns {right.name}")
        for ns, ip4, ip6 in ((left, LEFT4, LEFT6), (right, RIGHT4, RIGHT6)):
            ns.ip(f"address add {ip4}/24 dev eth0")
            ns.ip(f"address add {ip6}/64 dev eth0 nodad")
            ns.ip("link set eth0 up")
        yield left, right
