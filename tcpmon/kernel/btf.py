"""The running kernel's types (BTF), read by libbpf: C text of types, sizes and offsets, functions' arguments.

Source: /sys/kernel/btf/vmlinux; the data's layout is include/uapi/linux/btf.h.
"""

from __future__ import annotations

import ctypes as ct
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tcpmon.errors import KernelError
from tcpmon.kernel import libbpf

KIND_STRUCT, KIND_UNION, KIND_ENUM, KIND_FUNC = 4, 5, 6, 12
_KIND_TYPEDEF = 8
_ANONYMOUS_MEMBER_DEPTH = 8
_LIBC = ct.CDLL(None)
_PRINT = ct.CFUNCTYPE(None, ct.c_void_p, ct.c_char_p, ct.c_void_p)


class _Type(ct.Structure):
    _fields_ = [("name_off", ct.c_uint32), ("info", ct.c_uint32), ("size", ct.c_uint32)]

    @property
    def kind(self) -> int:
        return int(self.info >> 24 & 0x1F)

    @property
    def vlen(self) -> int:
        return int(self.info & 0xFFFF)


class _Member(ct.Structure):
    _fields_ = [("name_off", ct.c_uint32), ("type", ct.c_uint32), ("offset", ct.c_uint32)]


@dataclass(frozen=True)
class Btf:
    """A handle on the kernel's BTF; get one from `load`."""

    handle: ct.c_void_p

    def find(self, name: str, kind: int) -> int | None:
        """The id of a type, or None."""
        number = libbpf.library().btf__find_by_name_kind(self.handle, name.encode(), kind)
        return number if number > 0 else None

    def has_struct(self, name: str) -> bool:
        return self.find(name, KIND_STRUCT) is not None

    def size(self, struct: str) -> int:
        """A struct's size in bytes."""
        return int(self._type(self._struct_id(struct)).size)

    def offset(self, struct: str, member: str) -> int | None:
        """A member's offset in bytes, also of one within anonymous members, or outer.inner of a struct
        within; None where there is none."""
        bits, kind = 0, self._struct_id(struct)
        for name in member.split("."):
            found = self._member(self._without_typedef(kind), name, _ANONYMOUS_MEMBER_DEPTH)
            if found is None:
                return None
            bits, kind = bits + found[0], found[1]
        return bits // 8

    def argument_count(self, function: str) -> int | None:
        """How many arguments a kernel function takes; None where BTF does not have it."""
        number = self.find(function, KIND_FUNC)
        return None if number is None else self._type(self._type(number).size).vlen

    def c_text(self, types: Iterable[tuple[str, int]]) -> str:
        """C definitions of (name, kind) types and of all that they embed, in an order that compiles."""
        pieces: list[bytes] = []
        failures: list[KernelError] = []

        def take(_context: object, form: bytes, arguments: int) -> None:
            try:
                pieces.append(_format(form, arguments))
            except KernelError as error:  # ctypes would print and forget it
                failures.append(error)

        printer = _PRINT(take)
        library = libbpf.library()
        dump = ct.c_void_p(_new_dump(library, self.handle, printer))
        try:
            for name, kind in types:
                number = self.find(name, kind)
                if number is None or library.btf_dump__dump_type(dump, ct.c_uint32(number)) < 0:
                    raise KernelError(
                        f"this kernel's BTF does not give {name}", "please report this with `uname -r`"
                    )
        finally:
            library.btf_dump__free(dump)
        if failures:
            raise failures[0]
        return b"".join(pieces).decode()

    def _struct_id(self, name: str) -> int:
        number = self.find(name, KIND_STRUCT)
        if number is None:
            raise KernelError(
                f"this kernel's BTF has no struct {name}", "tcpmon needs a kernel with networking built in"
            )
        return number

    def _pointer(self, number: int) -> int:
        btf_type_by_id = libbpf.library().btf__type_by_id
        btf_type_by_id.restype = ct.c_void_p
        return int(btf_type_by_id(self.handle, ct.c_uint32(number)))

    def _type(self, number: int) -> _Type:
        return _Type.from_address(self._pointer(number))

    def _name(self, offset: int) -> str:
        name_by_offset = libbpf.library().btf__name_by_offset
        name_by_offset.restype = ct.c_char_p
        return bytes(name_by_offset(self.handle, ct.c_uint32(offset)) or b"").decode()

    def _without_typedef(self, number: int) -> int:
        while (kind := self._type(number)).kind == _KIND_TYPEDEF:
            number = kind.size  # there stands the type that it is a name for
        return number

    def _member(self, number: int, wanted: str, depth: int) -> tuple[int, int] | None:
        """Offset in bits, and the type."""
        pointer = self._pointer(number)
        kind = _Type.from_address(pointer)
        if kind.kind not in (KIND_STRUCT, KIND_UNION) or not depth:
            return None
        bits_mask = 0xFFFFFF if kind.info >> 31 else 0xFFFFFFFF  # kind_flag: bitfield sizes above
        for member in (_Member * kind.vlen).from_address(pointer + ct.sizeof(_Type)):
            name, start = self._name(member.name_off), member.offset & bits_mask
            if name == wanted:
                return int(start), int(member.type)
            inner = self._member(member.type, wanted, depth - 1) if not name else None
            if inner is not None:
                return int(start) + inner[0], inner[1]
        return None


def load() -> Btf:
    """The running kernel's BTF; KernelError where it has none."""
    new = libbpf.library().btf__load_vmlinux_btf
    new.restype = ct.c_void_p
    handle = new()
    if not handle:
        raise KernelError(
            "this kernel has no BTF (/sys/kernel/btf/vmlinux)",
            "use a distribution kernel of 5.10 or later, or build yours with CONFIG_DEBUG_INFO_BTF=y",
        )
    return Btf(ct.c_void_p(handle))


def _format(form: bytes, arguments: int) -> bytes:
    """libbpf prints through a va_list, which libc formats. Its lines are far shorter than the buffer."""
    buffer = ct.create_string_buffer(4096)
    length = _LIBC.vsnprintf(buffer, ct.c_size_t(len(buffer)), form, ct.c_void_p(arguments))
    if length >= len(buffer):
        raise KernelError(
            f"a line of {length} bytes in the kernel's type dump", "report this, with `uname -a`"
        )
    return buffer.value


def _new_dump(library: ct.CDLL, handle: ct.c_void_p, printer: Callable[..., None]) -> int:
    """btf_dump__new of libbpf 1.x; 0.x took (btf, ext, opts, printer)."""
    new = library.btf_dump__new
    new.restype = ct.c_void_p
    if hasattr(library, "libbpf_major_version") and library.libbpf_major_version() >= 1:
        dump = new(handle, printer, None, None)
    else:
        dump = new(handle, None, None, printer)
    if not dump:
        raise KernelError("libbpf cannot print the kernel's types", "update libbpf")
    return int(dump)
