"""The running kernel's types as tcpmon reads them, against what bpftool and a compiler say."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tcpmon.errors import KernelError
from tcpmon.kernel import btf, headers

VMLINUX = Path("/sys/kernel/btf/vmlinux")
GCC = ["gcc", "-std=gnu11", "-fms-extensions", "-x", "c", "-"]
# Besides those in use, more that every kernel has, some in nested anonymous members
MORE = {
    "sock_common": ("skc_addrpair", "skc_portpair", "skc_hash", "skc_rcv_saddr", "skc_refcnt"),
    "sk_buff": ("next", "sk", "tstamp", "protocol", "head", "end"),
    "sock": ("sk_socket", "sk_rcvbuf", "sk_uid", "sk_destruct"),
    "hlist_node": ("next", "pprev"),
}
FUNCTIONS = ("inet_csk_accept", "tcp_v4_connect", "tcp_v6_connect", "tcp_sendmsg", "tcp_init_sock")


def bpftool(form: str) -> str:
    command = ["bpftool", "btf", "dump", "file", str(VMLINUX), "format", form]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def wanted(types: btf.Btf) -> dict[str, tuple[str, ...]]:
    used = headers.used_here(types)
    return {name: (*used.get(name, ()), *MORE.get(name, ())) for name in {**used, **MORE}}


@pytest.fixture(scope="module")
def types() -> btf.Btf:
    return btf.load()


@pytest.fixture(scope="module")
def compiled(types: btf.Btf, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, int]:
    """Sizes and offsets by the compiler, of the whole of the kernel's types as bpftool prints them."""
    lines = []
    for struct, members in wanted(types).items():
        lines.append(f'printf("{struct} %lu\\n", sizeof(struct {struct}));')
        for member in members:
            lines.append(
                f'printf("{struct}.{member} %lu\\n", __builtin_offsetof(struct {struct}, {member}));'
            )
    main = "int printf(const char *, ...);\nint main(void) {\n" + "\n".join(lines) + "\n}\n"
    program = tmp_path_factory.mktemp("offsets") / "offsets"
    subprocess.run([*GCC, "-w", "-o", str(program)], input=bpftool("c") + main, text=True, check=True)
    said = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout
    return {name: int(number) for name, number in map(str.split, said.splitlines())}


def test_sizes(types: btf.Btf, compiled: Mapping[str, int]) -> None:
    structs = wanted(types)
    assert len(structs) > 15
    assert {name: types.size(name) for name in structs} == {name: compiled[name] for name in structs}


def test_offsets(types: btf.Btf, compiled: Mapping[str, int]) -> None:
    members = [(name, member) for name, members in wanted(types).items() for member in members]
    assert len(members) > 50
    ours = {f"{struct}.{member}": types.offset(struct, member) for struct, member in members}
    assert ours == {name: compiled[name] for name in ours}


def test_anonymous_members_are_looked_into(types: btf.Btf) -> None:
    """skc_num and skc_dport share a struct in a union, neither with a name: as every kernel has had them."""
    pair = types.offset("sock_common", "skc_portpair")
    assert types.offset("sock_common", "skc_dport") == pair
    assert types.offset("sock_common", "skc_num") == (pair or 0) + 2
    assert types.offset("sock_common", "skc_daddr") == 0


def test_what_is_not_there(types: btf.Btf) -> None:
    assert types.offset("sock", "sk_none") is None
    assert types.offset("sock", "skc_num") is None  # within a member that has a name
    assert types.find("no_such_thing", btf.KIND_STRUCT) is None
    assert types.find("sock", btf.KIND_FUNC) is None
    assert not types.has_struct("no_such_thing")
    assert types.argument_count("no_such_thing") is None
    with pytest.raises(KernelError, match="struct no_such_thing"):
        types.size("no_such_thing")


@pytest.fixture(scope="module")
def raw() -> str:
    return bpftool("raw")


def test_bitfields(types: btf.Btf, raw: str) -> None:
    """A struct that has any says its members' offsets in another form."""
    (block,) = re.findall(r"^\[\d+\] STRUCT 'tcp_sock' .*\n((?:\t.*\n)+)", raw, re.M)
    found = re.findall(r"\t'(\w+)' .* bits_offset=(\d+) bitfield_size=\d+", block)
    assert len(found) > 10
    ours = {member: types.offset("tcp_sock", member) for member, _bits in found}
    assert ours == {member: int(bits) // 8 for member, bits in found}


def test_argument_counts(types: btf.Btf, raw: str) -> None:
    prototypes = dict(re.findall(r"^\[(\d+)\] FUNC_PROTO .* vlen=(\d+)", raw, re.M))
    functions = dict(re.findall(r"^\[\d+\] FUNC '(\w+)' type_id=(\d+)", raw, re.M))
    expected = {name: int(prototypes[functions[name]]) for name in FUNCTIONS if name in functions}
    assert len(expected) >= 2
    assert {name: types.argument_count(name) for name in expected} == expected


def check(text: str) -> list[str]:
    """The assertions that a compiler finds broken, with the stubs that bcc compiles against."""
    command = [*GCC, "-fsyntax-only", "-w", "-fmax-errors=0", "-nostdinc", "-I", str(headers.STUBS)]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    broken = re.findall(r'error: static assertion failed: "([^"]*)"', done.stderr)
    assert len(re.findall(r"error:", done.stderr)) == len(broken), done.stderr
    assert (done.returncode == 0) == (not broken)
    return broken


@pytest.fixture(scope="module")
def text(types: btf.Btf) -> str:
    return headers.kernel_types(types)


def test_the_header_compiles_and_its_assertions_hold(text: str) -> None:
    assert check(text) == []


def test_every_assertion_can_fail(text: str, types: btf.Btf) -> None:
    """Each is made wrong by one, and each must be complained about: what is asserted is looked at."""
    wrong, count = re.subn(r"(_Static_assert\(.* == )(\d+),", lambda m: f"{m[1]}{int(m[2]) + 1},", text)
    used = headers.used_here(types)
    expected = [f"struct {name}" for name in used]
    expected += [f"{name}.{member}" for name, members in used.items() for member in members]
    assert count == len(expected)
    assert sorted(check(wrong)) == sorted(expected)


def test_padding_is_made_of_members(types: btf.Btf, text: str) -> None:
    """clang 14 lays out several unnamed bit fields in a row otherwise than it says: see headers."""
    assert re.search(r"\blong: 64;", types.c_text([("task_struct", btf.KIND_STRUCT)]))
    assert not re.search(r"\blong: 64;", text)


def test_a_member_that_moved_is_noticed(text: str) -> None:
    """What Linux 7 does to a compiler that drops an unnamed member: all behind it moves."""
    smaller = re.sub(r"^struct sock_common \{\n", r"\g<0>\tlong unsigned int grown;\n", text, flags=re.M)
    assert smaller != text
    broken = check(smaller)
    assert "struct sock_common" in broken
    assert "sock_common.skc_num" in broken
    assert "sock.sk_err" in broken


def test_a_missing_member_is_an_operators_error(types: btf.Btf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(headers.USED, "sock", ("sk_none",))
    with pytest.raises(KernelError, match="struct sock has no sk_none"):
        headers.kernel_types(types)


def test_a_line_too_long_to_print_is_not_left_out(types: btf.Btf, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes wrong while libbpf prints comes out of c_text, not out of a callback unheard."""

    def refuse(_form: bytes, _arguments: int) -> bytes:
        raise KernelError("a line of 4097 bytes")

    monkeypatch.setattr(btf, "_format", refuse)
    with pytest.raises(KernelError, match="4097"):
        types.c_text([("sock", btf.KIND_STRUCT)])


def test_the_tree_is_one_that_bcc_accepts(tmp_path: Path, types: btf.Btf, text: str) -> None:
    headers.write_tree(tmp_path / "tree", types)
    include = tmp_path / "tree" / "include"
    assert (include / "linux" / "kconfig.h").is_file()  # bcc's only test
    assert (include / "kernel_types.h").read_text() == text


USED = headers.USED | headers.OPTIONAL | {"file": headers.USED["file"] + headers.FILE_COUNTS}


def code() -> str:
    text = "\n".join(path.read_text() for path in headers.STUBS.parent.glob("*.[ch]"))
    return re.sub(r"//[^\n]*", "", text)


def test_every_member_that_the_c_code_reads_is_asserted() -> None:
    """A member used in the BPF code and not listed in USED would be at an offset that nobody checks."""
    reads = re.findall(r"(?:READ|PEEK)\([^;]*?,\s*&?([^;]*)\);", code())
    used = set(re.findall(r"(?:->|\.)(\w+)", " ".join(reads)))
    used |= set(re.findall(r"(?:->|\.)((?:skc|sk|sin|sin6)_\w+)", code()))
    assert {"sk_err", "skc_num", "skc_daddr", "bytes_acked", "sin6_port", "inum"} <= used
    listed = {name for members in USED.values() for member in members for name in member.split(".")}
    assert used <= listed


def test_no_more_is_asserted_than_is_used() -> None:
    """An assertion on what nobody reads would refuse a kernel for nothing."""
    words = set(re.findall(r"\w+", code()))
    for struct, members in USED.items():
        assert {name for member in members for name in member.split(".")} <= words, struct
