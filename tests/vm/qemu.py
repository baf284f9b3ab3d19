"""A virtual machine from its start to its end: the lines it says, and its console for when it hangs."""

from __future__ import annotations

import selectors
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.vm.kernel import Kernel

# Nothing is said for so long only by a machine that hangs
SILENCE_S = 1800
# oops=panic with -no-reboot: a kernel that fails ends the machine
CMDLINE = "console=ttyS0 quiet panic=-1 oops=panic net.ifnames=0 mitigations=off systemd.show_status=no"
_MACHINE = shlex.split("""
qemu-system-x86_64 -accel tcg,thread=multi,tb-size=512 -machine q35 -cpu max -smp 2 -m 2G
-display none -monitor none -no-reboot -nodefaults -nic none
""")


class Hung(Exception):
    """The machine was ended from outside; the message says why."""


def lines(kernel: Kernel, disks: list[Path], console: Path, limit_s: float) -> Iterator[str]:
    """Boots with the disks as vda, vdb, … and yields what the guest says on its second serial line, until
    it powers off. Disks are left as they were. Hung where it takes too long; QEMU is gone in any case."""
    command = [*_MACHINE, "-append", CMDLINE]
    command += ["-kernel", str(kernel.folder / "vmlinuz"), "-initrd", str(kernel.folder / "initrd.gz")]
    for disk in disks:
        command += ["-drive", f"file={disk},if=virtio,format=raw,snapshot=on"]
    command += ["-serial", f"file:{console}", "-serial", "stdio"]
    with console.with_suffix(".qemu").open("wb") as complaints:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaints
        )
    try:
        yield from _lines(process, limit_s)
    finally:
        process.kill()
        process.wait()


def _lines(process: subprocess.Popen[bytes], limit_s: float) -> Iterator[str]:
    assert process.stdout is not None
    end, rest = time.monotonic() + limit_s, b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            left = end - time.monotonic()
            if left <= 0:
                raise Hung(f"it was not done after {limit_s:.0f} s")
            if not selector.select(min(left, SILENCE_S)):
                raise Hung(f"it said nothing for {min(left, SILENCE_S):.0f} s")
            chunk = process.stdout.read1(1 << 16)  # type: ignore[attr-defined]
            if not chunk:
                return
            *whole, rest = (rest + chunk).split(b"\n")
            yield from (line.decode(errors="replace").rstrip("\r") for line in whole)


def tail(console: Path, count: int = 40) -> str:
    """The last lines of the console, and what QEMU complained of."""
    files = filter(Path.exists, (console, console.with_suffix(".qemu")))
    text = "".join(path.read_text(errors="replace") for path in files)
    return "\n".join(text.replace("\r", "").splitlines()[-count:])


def patched_too_late(console: Path) -> bool:
    """Whether the kernel fell over a breakpoint of its own. It puts one where it patches its code while other
    CPUs run it, and takes it away; QEMU's emulated CPUs may still run it then, which no real one does."""
    return b"Oops: int3" in console.read_bytes()
