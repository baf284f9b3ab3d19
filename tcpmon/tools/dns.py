"""The names that programs looked up: from the DNS answers they received to a column.

The only importer of dnspython.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from socket import AF_INET, AF_INET6, inet_pton

from tcpmon.errors import TcpmonError
from tcpmon.events.record import MAPPED
from tcpmon.kernel.ring import HEADER_BYTES, stride

ANSWER_BYTES = 4 + 512  # struct dns_answer of bpf/types.h: the length, and as much of the payload
_LENGTH = struct.Struct("=I")
# As many, as long and as old as bcc's
_MAX_ADDRESSES = 10_240
_MAX_AGE_NS = 86_400 * 10**9
_TELL_FROM_NS = 100 * 10**6
_LOCAL = (MAPPED + b"\x7f\0\0\1", bytes(15) + b"\1")


class Names:
    """Which name was asked for, and when, by the address it was answered with (16 bytes). Bounded: the oldest
    answer goes first."""

    def __init__(self, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._now_ns = now_ns
        self._names: dict[bytes, tuple[bytes, int]] = {}

    def learn(self, records: bytes) -> None:
        """Takes in answers as Ring.read gives them. What is no answer of a name server is passed over."""
        step = stride(ANSWER_BYTES)
        for start in range(HEADER_BYTES, len(records), step):
            (length,) = _LENGTH.unpack_from(records, start)
            payload = start + _LENGTH.size
            self.learn_payload(records[payload : payload + min(length, ANSWER_BYTES - _LENGTH.size)])

    def learn_payload(self, payload: bytes) -> None:
        """The same with one UDP payload."""
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
