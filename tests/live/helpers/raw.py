"""TCP segments made by hand, from an address that is nobody's."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable

SYN, RST = 0x02, 0x04
_IP_TRANSPARENT = 19


def segment(port: int, peer_port: int, sequence: int, flags: int, source: str, target: str) -> bytes:
    """A TCP segment without options or data, checksummed."""
    header = struct.pack("!HHIIBBHHH", port, peer_port, sequence, 0, 5 << 4, flags, 65535, 0, 0)
    pseudo = socket.inet_aton(source) + socket.inet_aton(target) + struct.pack("!BBH", 0, 6, len(header))
    words = struct.unpack("!16H", pseudo + header)
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return header[:16] + struct.pack("!H", ~total & 0xFFFF) + header[18:]


def send_each(flags: int, sequence: int, source: str, port: int, target: str, ports: Iterable[int]) -> None:
    """One from `source`, `port` to each of `ports` of `target`."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
        raw.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
        raw.bind((source, 0))
        for peer_port in ports:
            raw.sendto(segment(port, peer_port, sequence, flags, source, target), (target, 0))
