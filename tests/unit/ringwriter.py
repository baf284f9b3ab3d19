"""A real BPF ring buffer, and a BPF program that is run by hand: each run writes the record it is given."""

from __future__ import annotations

import ctypes as ct
import os
import struct

SYS_BPF = {"x86_64": 321, "aarch64": 280}[os.uname().machine]
MAP_CREATE, PROG_LOAD, PROG_TEST_RUN = 0, 5, 10
MAP_TYPE_RINGBUF, PROG_TYPE_SOCKET_FILTER = 27, 1
SKB_LOAD_BYTES, RINGBUF_RESERVE, RINGBUF_SUBMIT, RINGBUF_DISCARD = 26, 131, 132, 133
ETHERNET_HEADER = bytes(14)
R0, R1, R2, R3, R4, R6, R7 = 0, 1, 2, 3, 4, 6, 7


def _bpf(command: int, attr: bytes) -> tuple[int, bytes]:
    """What the call returns, and union bpf_attr as the kernel left it."""
    buffer = ct.create_string_buffer(attr, 128)
    result = ct.CDLL(None, use_errno=True).syscall(ct.c_long(SYS_BPF), command, buffer, len(buffer))
    if result < 0:
        raise OSError(ct.get_errno(), os.strerror(ct.get_errno()))
    return int(result), buffer.raw


def _op(code: int, to: int = 0, of: int = 0, offset: int = 0, number: int = 0) -> bytes:
    return struct.pack("=BBhi", code, of << 4 | to, offset, number)


def _set(register: int, number: int) -> bytes:
    return _op(0xB7, register, number=number)


def _copy(register: int, of: int) -> bytes:
    return _op(0xBF, register, of)


def _call(helper: int) -> bytes:
    return _op(0x85, number=helper)


def _map(register: int, fd: int) -> bytes:
    return _op(0x18, register, 1, number=fd) + _op(0)


EXIT = _op(0x95)


def _reserve(ring: int, size: int, then: bytes) -> bytes:
    """Reserves; where there is room does `then` with it in R7 and returns 0, else returns 1."""
    reserve = _map(R1, ring) + _set(R2, size) + _set(R3, 0) + _call(RINGBUF_RESERVE)
    done = _copy(R7, R0) + then + _set(R0, 0) + EXIT
    return _copy(R6, R1) + reserve + _op(0x15, R0, offset=len(done) // 8) + done + _set(R0, 1) + EXIT


def _output(ring: int, size: int) -> bytes:
    load = _copy(R1, R6) + _set(R2, 0) + _copy(R3, R7) + _set(R4, size) + _call(SKB_LOAD_BYTES)
    return _reserve(ring, size, load + _copy(R1, R7) + _set(R2, 0) + _call(RINGBUF_SUBMIT))


def _discard(ring: int, size: int) -> bytes:
    return _reserve(ring, size, _copy(R1, R7) + _set(R2, 0) + _call(RINGBUF_DISCARD))


def _load(program: bytes) -> int:
    instructions, license_text = (
        ct.create_string_buffer(program, len(program)),
        ct.create_string_buffer(b"GPL"),
    )
    attr = struct.pack(
        "=IIQQ",
        PROG_TYPE_SOCKET_FILTER,
        len(program) // 8,
        ct.addressof(instructions),
        ct.addressof(license_text),
    )
    return _bpf(PROG_LOAD, attr)[0]


class RingWriter:
    """A ring buffer of `size` bytes for records of `record_bytes`."""

    def __init__(self, size: int, record_bytes: int) -> None:
        self.fd = _bpf(MAP_CREATE, struct.pack("=IIII", MAP_TYPE_RINGBUF, 0, 0, size))[0]
        self._output = _load(_output(self.fd, record_bytes))
        self._discard = _load(_discard(self.fd, record_bytes))

    def write(self, record: bytes, times: int = 1) -> bool:
        """Writes it; False where the (last) one found no room."""
        return self._run(self._output, ETHERNET_HEADER + record, times) == 0

    def discard(self) -> None:
        self._run(self._discard, ETHERNET_HEADER, 1)

    def _run(self, program: int, packet: bytes, times: int) -> int:
        data = ct.create_string_buffer(packet, len(packet))
        attr = struct.pack("=IIIIQQI", program, 0, len(packet), 0, ct.addressof(data), 0, times)
        _result, answer = _bpf(PROG_TEST_RUN, attr)
        return int(struct.unpack_from("=i", answer, 4)[0])

    def close(self) -> None:
        for fd in (self.fd, self._output, self._discard):
            os.close(fd)
