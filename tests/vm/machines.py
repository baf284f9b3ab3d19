"""The tables: which kernels there are, on which Debian they boot, and which packages that Debian has."""

from __future__ import annotations

import shlex
from dataclasses import dataclass


@dataclass(frozen=True)
class Debian:
    """A release: what the root image is made of. `archives` are (archive, suite)."""

    suite: str
    archives: tuple[tuple[str, str], ...]
    packages: tuple[str, ...]
    bcc: str


@dataclass(frozen=True)
class Machine:
    """A kernel on a Debian. `suites` is where its package is looked for; `lacks` are the live suite's
    tests that need what this kernel does not have."""

    name: str
    debian: str
    suites: tuple[tuple[str, str], ...]
    packages: tuple[str, ...]
    lacks: tuple[str, ...] = ()


MAIN, SECURITY = "debian", "debian-security"

# systemd as PID 1 with its journal; what the .deb depends on; what the tests use; the judges
_PACKAGES = tuple(
    shlex.split(
        """
        systemd-sysv dbus kmod procps iproute2 util-linux passwd libcap2-bin adduser
        python3 python3-bpfcc python3-prometheus-client python3-yaml python3-dnspython python3-systemd libbpf1
        python3-bcrypt
        python3-pytest python3-pytest-timeout python3-jsonschema
        bpftool nftables iptables curl gcc libc6-dev strace
        bpfcc-tools libbpf-tools
        """
    )
)

DEBIANS = {
    "12": Debian(
        suite="bookworm",
        archives=((MAIN, "bookworm"), (SECURITY, "bookworm-security")),
        packages=_PACKAGES,
        bcc="0.26",
    ),
    "13": Debian(
        suite="trixie",
        archives=((MAIN, "trixie"), (SECURITY, "trixie-security")),
        packages=_PACKAGES,
        bcc="0.31",
    ),
}

_BOOKWORM = DEBIANS["12"].archives
_TRIXIE = DEBIANS["13"].archives
_CLOUD = ("linux-image-cloud-amd64", "linux-headers-cloud-amd64")
_CLOUD_6_12 = ("linux-image-6.12-cloud-amd64", "linux-headers-6.12-cloud-amd64")
# Landlock knows TCP since 6.7
_LACKS_6_1 = ("test_failures.py::test_denied_by_a_security_module",)
# No CONFIG_MPTCP; raw sockets that bind to foreign addresses came with 5.17
_LACKS_5_10 = (
    "test_protocols.py::test_mptcp",
    "test_failures.py::test_reset_in_the_handshake",
    *_LACKS_6_1,
)
MACHINES = {
    machine.name: machine
    for machine in (
        Machine("5.10", "12", ((SECURITY, "bullseye-security"),), _CLOUD[:1], lacks=_LACKS_5_10),
        Machine("6.1", "12", _BOOKWORM, _CLOUD, lacks=_LACKS_6_1),
        Machine("6.12", "12", _BOOKWORM, _CLOUD_6_12),
        Machine("7.x", "12", ((MAIN, "trixie-backports"),), _CLOUD),
        Machine("debian13", "13", _TRIXIE, _CLOUD[:1]),
    )
}
