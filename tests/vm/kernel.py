"""A kernel to boot: Debian's package as vmlinuz, an initial file system, and a disk with its modules."""

from __future__ import annotations

import gzip
import lzma
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.vm import cache
from tests.vm.archive import Apt
from tests.vm.console import VmError, run
from tests.vm.image import ext4
from tests.vm.machines import Machine

BUSYBOX = Path("/bin/busybox")
# What reaches the root disk; the rest of the modules is on a disk of its own
BOOT_MODULES = ("virtio_pci", "virtio_blk", "ext4")
INIT = """\
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in $(/bin/busybox cat /order); do /bin/busybox insmod /modules/$module; done
/bin/busybox mount -t ext4 /dev/vda /root
/bin/busybox mount -t ext4 /dev/vdb /root/mnt
/bin/busybox mkdir -p /root/lib/modules /root/usr/src
/bin/busybox mount --bind /root/mnt/modules /root/usr/lib/modules
/bin/busybox mount --bind /root/mnt/src /root/usr/src
exec /bin/busybox switch_root /root /sbin/init
"""


@dataclass(frozen=True)
class Kernel:
    """The files that QEMU takes."""

    folder: Path

    @property
    def release(self) -> str:
        return (self.folder / "release").read_text()


def kernel(machine: Machine) -> Kernel:
    """The newest of the machine's suites when it was first asked for; from then on that of the cache."""
    ingredients = (machine.suites, machine.packages, BOOT_MODULES, INIT)
    return Kernel(cache.made(f"kernel-{machine.name}", ingredients, lambda into: _make(machine, into)))


def _make(machine: Machine, into: Path) -> None:
    work = into / "work"
    (work / "debs").mkdir(parents=True)
    apt = Apt(work / "apt", machine.suites)
    packages = apt.download(apt.kernel_packages(machine.packages), work / "debs")
    for package in packages:
        run(["dpkg-deb", "-x", package, work / "tree"])
    disk = _sorted(work / "tree", work / "disk")
    release = _release(disk)
    run(["depmod", "--basedir", work / "depmod", release])
    shutil.copy(_image(work / "tree", release), into / "vmlinuz")
    (into / "release").write_text(release)
    _initrd(disk / "modules" / release, work / "initrd", into / "initrd.gz")
    ext4(disk, into / "modules.img")
    shutil.rmtree(work)


def _sorted(tree: Path, disk: Path) -> Path:
    """The packages' files as the disk has them: modules/ and src/."""
    disk.mkdir()
    (disk / "src").mkdir()
    for lib in ("lib", "usr/lib"):
        if (tree / lib / "modules").exists():
            run(["cp", "-aT", tree / lib / "modules", disk / "modules"])
    if (tree / "usr/src").exists():
        run(["cp", "-aT", tree / "usr/src", disk / "src"])
    base = disk.parent / "depmod/lib"
    base.mkdir(parents=True)
    (base / "modules").symlink_to(disk / "modules")
    return disk


def _release(disk: Path) -> str:
    found = [folder.name for folder in (disk / "modules").iterdir() if (folder / "kernel").exists()]
    if len(found) != 1:
        raise VmError(f"one kernel was expected in the packages, not {found or 'none'}")
    return found[0]


def _image(tree: Path, release: str) -> Path:
    """/boot has it; since 7.x the package keeps it with the modules."""
    places = (
        f"boot/vmlinuz-{release}",
        f"usr/lib/modules/{release}/vmlinuz",
        f"lib/modules/{release}/vmlinuz",
    )
    for place in places:
        if (tree / place).exists():
            return tree / place
    raise VmError(f"no kernel image for {release} in its packages")


def _initrd(modules: Path, tree: Path, initrd: Path) -> None:
    for name in ("bin", "dev", "root", "modules"):
        (tree / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, tree / "bin/busybox")
    order = []
    for path in boot_order(modules / "modules.dep"):
        content = (modules / path).read_bytes()
        name = Path(path).name.removesuffix(".xz")
        (tree / "modules" / name).write_bytes(lzma.decompress(content) if path.endswith(".xz") else content)
        order.append(name)
    (tree / "order").write_text("\n".join(order))
    (tree / "init").write_text(INIT)
    (tree / "init").chmod(0o755)
    archive = subprocess.run(
        f"cd {tree} && find . | {BUSYBOX} cpio -o -H newc", shell=True, capture_output=True, check=True
    )
    initrd.write_bytes(gzip.compress(archive.stdout))


def boot_order(modules_dep: Path) -> list[str]:
    """Paths of BOOT_MODULES and of all they need, in an order to load them, without what is built in."""
    needs = {}
    for line in modules_dep.read_text().splitlines():
        path, _, needed = line.partition(":")
        needs[path] = needed.split()
    order: dict[str, None] = {}
    for path in needs:
        if Path(path).name.partition(".")[0] in BOOT_MODULES:
            # modules.dep has the nearest first
            order.update(dict.fromkeys([*reversed(needs[path]), path]))
    return list(order)
