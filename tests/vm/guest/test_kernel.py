"""What this kernel offers to trace with, and what is chosen."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

from tcpmon.kernel import btf, headers
from tests.vm.guest.kernels import HAS_FPROBE
from tests.vm.machines import DEBIANS

MECHANISMS = ("fprobe", "fexit", "kretprobe", "tracepoint")


def survey() -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "tcpmon", "check-kernel", "--json"], stdout=subprocess.PIPE, check=True
    )
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_all_mechanisms_are_here_and_the_best_is_chosen() -> None:
    found = survey()
    assert found["usable"] is True
    assert found["problems"] == []
    probes = found["probes"]
    assert isinstance(probes, list)
    for event in ("connect", "accept"):
        of_event = {probe["mechanism"]: probe for probe in probes if probe["event"] == event}
        assert tuple(of_event) == MECHANISMS
        missing = [name for name, probe in of_event.items() if probe["problem"]]
        assert missing == ([] if HAS_FPROBE else ["fprobe"])
        chosen = [name for name, probe in of_event.items() if probe["chosen"]]
        assert chosen == ["fprobe" if HAS_FPROBE else "fexit"]


def test_the_bcc_generation() -> None:
    """bcc's version is what this Debian is here for."""
    import bcc

    assert bcc.__version__.startswith(DEBIANS[os.environ["TCPMON_VM_DEBIAN"]].bcc + ".")


ADD_IMMEDIATE = 0x07  # r += imm
LOOK = """
int look%d(void *ctx) {
	u64 seen = 0;
	struct %s *in = (void *)bpf_get_current_task();
	bpf_probe_read_kernel(&seen, 8, (void *)&in->%s);
	return seen;
}
"""


def test_the_code_looks_where_the_kernel_has_it(tmp_path: Path) -> None:
    """Clang 14's __builtin_offsetof may say one thing, and the code that it makes do another."""
    import bcc

    types = btf.load()
    members = [(name, member) for name, found in headers.used_here(types).items() for member in found]
    headers.write_tree(tmp_path / "tree", types)
    text = "#include <kernel_types.h>\n" + "".join(LOOK % (n, *each) for n, each in enumerate(members))
    os.environ["BCC_KERNEL_SOURCE"] = str(tmp_path / "tree")
    compiled = bcc.BPF(text=text.encode(), cflags=["-g0", "-fms-extensions", "-Wno-microsoft-anon-tag"])
    got = {
        member: offset_in(compiled.dump_func(f"look{number}".encode()))
        for number, member in enumerate(members)
    }
    assert got == {member: types.offset(*member) for member in members}


def offset_in(code: bytes) -> int:
    """What is added to a pointer; negative numbers are places on the stack."""
    instructions = (struct.unpack_from("<BBhi", code, at) for at in range(0, len(code), 8))
    added = [number for operation, _, _, number in instructions if operation == ADD_IMMEDIATE and number > 0]
    return sum(added)
