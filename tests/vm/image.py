"""Disks without loop mounts: the Debian root image, and folders as ext4 images."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.vm import archive, cache
from tests.vm.console import run
from tests.vm.machines import Debian

# Runs what the second disk brings, and ends the machine
UNIT = """\
[Unit]
Description=tcpmon's tests
After=basic.target dbus.socket

[Service]
Type=oneshot
TimeoutStartSec=infinity
LimitNOFILE=65536
StandardOutput=file:/dev/ttyS1
StandardError=inherit
ExecStart=/bin/mount /dev/vdc /srv
ExecStart=/srv/start
SuccessAction=poweroff-immediate
FailureAction=poweroff-immediate
"""
_UNITS = "etc/systemd/system"
# Of the image's own packages; what the tests install comes whole
_LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*")
_FREE_MIB = 1500


def root(debian: Debian) -> Path:
    """The root image of a release; from the cache if its packages are still these."""
    ingredients = (debian, UNIT, _LEFT_OUT)
    return cache.made(f"debian-{debian.suite}", ingredients, lambda into: _make(debian, into)) / "root.img"


def _make(debian: Debian, into: Path) -> None:
    tree = into / "tree"
    include = f"--include={','.join(debian.packages)}"
    lines = archive.sources(debian.archives)
    small = [f'--dpkgopt=path-exclude="{path}"' for path in _LEFT_OUT]
    run(["mmdebstrap", "--mode=root", "--variant=apt", include, *small, debian.suite, tree, *lines])
    _settle(tree)
    ext4(tree, into / "root.img", _FREE_MIB)
    shutil.rmtree(tree)


def _settle(tree: Path) -> None:
    """Makes a bare installation one that boots straight into UNIT."""
    (tree / "etc/dpkg/dpkg.cfg.d/99mmdebstrap").unlink()
    units = tree / _UNITS
    (units / "tcpmon-tests.service").write_text(UNIT)
    wants = units / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "tcpmon-tests.service").symlink_to(f"/{_UNITS}/tcpmon-tests.service")
    # Nobody logs in, and what comes by timer would fall into the tests
    for unit in ("getty.target", "timers.target", "systemd-firstboot.service"):
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")
    (tree / "etc/hostname").write_text("tcpmon-vm\n")
    (tree / "etc/hosts").write_text("127.0.0.1 localhost tcpmon-vm\n::1 localhost\n")
    (tree / "etc/fstab").write_text("")
    (tree / "etc/machine-id").write_text("")
    (tree / "var/log/journal").mkdir(exist_ok=True)


def ext4(tree: Path, image: Path, free_mib: int = 64) -> Path:
    """An ext4 image with the folder's contents and room to spare; sparse."""
    used_kib = int(run(["du", "-sk", "--apparent-size", tree]).split()[0])
    inodes = int(run(["du", "-s", "--inodes", tree]).split()[0])
    size_mib = used_kib * 5 // 4 // 1024 + free_mib
    run(["mke2fs", "-q", "-t", "ext4", "-N", str(inodes + 50_000), "-d", tree, "-F", image, f"{size_mib}M"])
    return image
