"""The names that programs looked up: from the DNS answers that came in to a column.

The only importer of dnspython.
"""

from __future__ import annotations

import ctypes as ct
import socket
import struct
import time
from collections.abc import Callable, Iterator
from socket import AF_INET, AF_INET6, inet_pton

from tcpmon.errors import TcpmonError
from tcpmon.events.record import MAPPED

_ETH_P_ALL = 0x0003
_SO_ATTACH_FILTER = 26
_MAX_PACKET_BYTES = 4096  # more than EDNS servers send; what is cut is used as far as it is whole
_MAX_AT_ONCE = 256
# linux/filter.h: (code, lines to skip if true, if false, operand). Of the packets that come in, of IPv4
# and IPv6, UDP from port 53.
_LDB, _LDH, _LD, _LDX_IHL, _LDH_X, _JEQ, _JSET, _RET = 0x30, 0x28, 0x20, 0xB1, 0x48, 0x15, 0x45, 0x06
_PKTTYPE, _PROTOCOL = 0xFFFFF004, 0xFFFFF000  # SKF_AD_OFF + SKF_AD_…
_OUTGOING, _IPV4, _IPV6, _UDP, _DNS = 4, 0x0800, 0x86DD, 17, 53
_FILTER = (
    (_LD, 0, 0, _PKTTYPE),
    (_JEQ, 14, 0, _OUTGOING),
    (_LD, 0, 0, _PROTOCOL),
    (_JEQ, 8, 0, _IPV6),
    (_JEQ, 0, 11, _IPV4),
    (_LDB, 0, 0, 9),
    (_JEQ, 0, 9, _UDP),
    (_LDH, 0, 0, 6),
    (_JSET, 7, 0, 0x1FFF),  # not a first fragment
    (_LDX_IHL, 0, 0, 0),
    (_LDH_X, 0, 0, 0),
    (_JEQ, 5, 4, _DNS),
    (_LDB, 0, 0, 6),
    (_JEQ, 0, 2, _UDP),
    (_LDH, 0, 0, 40),
    (_JEQ, 1, 0, _DNS),
    (_RET, 0, 0, 0),
    (_RET, 0, 0, _MAX_PACKET_BYTES),
)
_IPV6_HEADER_BYTES, _UDP_HEADER_BYTES = 40, 8
# As many, as long and as old as bcc's
_MAX_ADDRESSES = 10_240
_MAX_AGE_NS = 86_400 * 10**9
_TELL_FROM_NS = 100 * 10**6
_LOCAL = (MAPPED + b"\x7f\0\0\1", bytes(15) + b"\1")


class Answers:
    """The DNS answers that come in over UDP, in the network namespace that this is made in."""

    def __init__(self) -> None:
        """TcpmonError without CAP_NET_RAW."""
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
        try:
            self._socket = socket.socket(socket.AF_PACKET, kind, socket.htons(_ETH_P_ALL))
        except PermissionError:
            raise TcpmonError(
                "-d may not listen to DNS answers", "run as root, or grant CAP_NET_RAW"
            ) from None
        program = ct.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in _FILTER))
        wanted = struct.pack("@HP", len(_FILTER), ct.addressof(program))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, wanted)

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> list[bytes]:
        """The UDP payloads that came since, some hundred at most."""
        payloads: list[bytes] = []
        try:
            while len(payloads) < _MAX_AT_ONCE:
                payloads.append(_payload(self._socket.recv(_MAX_PACKET_BYTES)))
        except BlockingIOError:
            pass
        return payloads

    def close(self) -> None:
        self._socket.close()


def _payload(packet: bytes) -> bytes:
    """Of an IP packet that the filter has let pass; packets from before it was attached are not of UDP's port
    53, or are, too."""
    if not packet:
        return b""
    header = (packet[0] & 0xF) * 4 if packet[0] >> 4 == 4 else _IPV6_HEADER_BYTES
    return packet[header + _UDP_HEADER_BYTES :]


class Names:
    """Which name was asked for, and when, by the address it was answered with (16 bytes). Bounded: the oldest
    answer goes first."""

    def __init__(self, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._now_ns = now_ns
        self._names: dict[bytes, tuple[bytes, int]] = {}

    def learn(self, payload: bytes) -> None:
        """Takes in an answer. What is none of a name server is passed over."""
        for address, name in _answers(payload):
            self.remember(address, name)

    def remember(self, address: bytes, name: bytes) -> None:
        self._names.pop(address, None)  # so that the newest is always the last
        self._names[address] = name, self._now_ns()
        if len(self._names) > _MAX_ADDRESSES:
            del self._names[next(iter(self._names))]

    def query(self, remote: bytes, ns: int) -> bytes:
        """The cell for a connect to this address at this time."""
        name, learned = self._names.get(remote, (b"", 0))
        age = ns - learned
        if not name or age >= _MAX_AGE_NS:
            return b"localhost" if remote in _LOCAL else b"No DNS Query"
        return b"%s (%.3fms)" % (name, age / 1e6) if age > _TELL_FROM_NS else name


def require() -> None:
    """TcpmonError unless answers can be read."""
    try:
        import dns.message  # noqa: F401
    except ImportError:
        raise TcpmonError("-d needs dnspython", "install it: apt install python3-dnspython") from None


def _answers(payload: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The addresses in an answer, each with the name asked for; of one that was cut, what is whole."""
    import dns.exception
    import dns.flags
    import dns.message
    import dns.opcode
    import dns.rdataclass
    import dns.rdatatype

    families = {dns.rdatatype.A: (AF_INET, MAPPED), dns.rdatatype.AAAA: (AF_INET6, b"")}
    try:
        message = dns.message.from_wire(payload, keyring=False, ignore_trailing=True, continue_on_error=True)
    except (dns.exception.DNSException, ValueError, struct.error):  # whatever a stranger may send
        return
    if not message.flags & dns.flags.QR or message.opcode() != dns.opcode.QUERY or len(message.question) != 1:
        return
    name = message.question[0].name.to_text(omit_final_dot=True).encode()
    for answers in message.answer:
        if answers.rdclass == dns.rdataclass.IN and answers.rdtype in families:
            family, prefix = families[answers.rdtype]
            yield from ((prefix + inet_pton(family, answer.address), name) for answer in answers)
