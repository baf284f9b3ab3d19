"""The machine as the bench needs it: helpers compiled, network namespaces, the kernel's BPF statistics."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import tcpmon

HERE = Path(__file__).parent
BPF_STATS = Path("/proc/sys/kernel/bpf_stats_enabled")
PEER_PACKAGES = ("bpfcc-tools", "libbpf-tools", "bpftrace")
numbers = itertools.count()


@dataclass(frozen=True)
class Namespace:
    """A network namespace with loopback up: its name under /run/netns, its inode number as in the metrics."""

    name: str
    inum: str

    def run(self, *argv: str | Path) -> str:
        """What `argv` prints, run in here; raises CalledProcessError when it fails."""
        return output("ip", "netns", "exec", self.name, *argv)


def output(*argv: str | Path) -> str:
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout


@contextlib.contextmanager
def namespace() -> Iterator[Namespace]:
    """A new network namespace: no connection of an earlier run is left in TIME_WAIT there."""
    name = f"tcpmon-bench-{os.getpid()}-{next(numbers)}"
    output("ip", "netns", "add", name)
    try:
        output("ip", "-n", name, "link", "set", "lo", "up")
        yield Namespace(name, str(os.stat(f"/run/netns/{name}").st_ino))
    finally:
        output("ip", "netns", "del", name)


def compiled(name: str, folder: Path) -> Path:
    """The program made of `name`.c, in `folder`."""
    program = folder / name
    output("gcc", "-O2", "-Wall", "-Wextra", "-pthread", "-o", program, HERE / f"{name}.c")
    return program


@contextlib.contextmanager
def bpf_statistics() -> Iterator[None]:
    """The kernel times BPF programs meanwhile; they cost a little more then."""
    before = BPF_STATS.read_text()
    BPF_STATS.write_text("1")
    try:
        yield
    finally:
        BPF_STATS.write_text(before)


def running_tcpmons() -> list[int]:
    """Processes that may trace already: under them nothing is untraced."""
    commands = {int(p.parent.name): read_command(p) for p in Path("/proc").glob("[0-9]*/cmdline")}
    return [
        pid for pid, argv in commands.items() if "run" in argv and any(a.endswith("tcpmon") for a in argv)
    ]


def read_command(cmdline: Path) -> list[str]:
    try:
        return cmdline.read_bytes().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        return []


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "CPUs": f"{os.cpu_count()} x {cpu_model()}",
        "memory": f"{memory_kib / 2**20:.1f} GiB",
        "kernel": f"{platform.release()} {platform.machine()}",
        "tcpmon": tcpmon.__version__,
        "bcc, and the clang in it": bcc_and_clang(),
        "Python, and prometheus_client": f"{platform.python_version()}, {version('prometheus_client')}",
        "peers": ", ".join(filter(None, map(package_version, PEER_PACKAGES))) or "not installed",
        "date": datetime.date.today().isoformat(),
        "load of the machine before": f"{os.getloadavg()[0]:.2f}",
    }


def bcc_and_clang() -> str:
    """bcc's version, and of the LLVM that it brings into the process."""
    words = "import bcc, re; maps = open('/proc/self/maps').read()"
    words += r"; print(bcc.__version__, *set(re.findall(r'/libLLVM(?:-|\.so\.)(\d+)', maps)))"
    bcc, *clang = output(sys.executable, "-c", words).split()
    return f"{bcc}, {clang[0] if clang else 'linked in'}"


def package_version(name: str) -> str:
    """Debian's, where it is installed."""
    done = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${Version}", name], capture_output=True, text=True
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), "unknown model")
