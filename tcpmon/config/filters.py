"""The kinds of value that filters take: what is listed, and the two lists of a dimension."""

from __future__ import annotations

import base64
import binascii
import fcntl
import ipaddress
import os
import pwd
import re
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from tcpmon.config.kinds import (
    MAX_ITEMS,
    MAX_PORT,
    Kind,
    Schema,
    World,
    integer,
    list_items,
    parse_text,
    parse_whole,
    whole,
    without_zone,
)
from tcpmon.config.yamlmap import Node, children, collect, printable

T = TypeVar("T")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# As the kernel's PID_MAX_LIMIT.
MAX_PID = 4_194_304
# uid_t's -1 means "no user".
MAX_UID = 0xFFFF_FFFE
MAX_INUM = 0xFFFF_FFFF
# A name in the kernel is 16 bytes with its terminating zero.
MAX_COMM_BYTES = 15

# From linux/nsfs.h and linux/sched.h.
NS_GET_NSTYPE = 0xB703
CLONE_NEWNET = 0x40000000

_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_PID_NETNS = re.compile(r"pid:([0-9]{1,9})")
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


@dataclass(frozen=True)
class Selection(Generic[T]):
    """What a filter lets through: what is in `include` (everything, if empty) and not in `exclude`."""

    include: tuple[T, ...] = ()
    exclude: tuple[T, ...] = ()


def selection(item: Kind) -> Kind:
    """A Selection of what `item` reads, from a list or a mapping of include and exclude; null is empty."""

    def parse_list(node: Node, world: World) -> tuple[object, ...]:
        nodes = () if node.tag == "null" else list_items(node)
        return tuple(dict.fromkeys(collect(lambda one: item.parse(one, world), nodes)))

    def parse(node: Node, world: World) -> Selection[object]:
        if node.tag == "seq":
            return Selection(include=parse_list(node, world))
        if node.tag not in ("map", "null"):
            raise node.expected("a list, or a mapping of include and exclude")
        parts, faults = children(node, ("include", "exclude"))
        lists = collect(lambda part: parse_list(part, world), parts.values(), faults)
        return Selection(**dict(zip(parts, lists, strict=True)))

    array: Schema = {"type": "array", "items": item.schema, "maxItems": MAX_ITEMS}
    lists = {name: {"anyOf": [array, {"type": "null"}]} for name in ("include", "exclude")}
    mapping = {"type": ["object", "null"], "properties": lists, "additionalProperties": False}
    return Kind(f"`{{include: […], exclude: […]}}` of {item.text}", parse, {"anyOf": [array, mapping]})


PIDS = selection(replace(whole(1, MAX_PID), text="process ids"))


def _ports(node: Node, _: World) -> tuple[int, int]:
    """An inclusive range."""
    number = integer(node)
    match = _PORTS.fullmatch(node.text) if node.tag == "str" else None
    if number is None and not match:
        raise node.expected('a port or a range such as "8000-8099"')
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (number or 0, number or 0)
    if not (1 <= low <= MAX_PORT and 1 <= high <= MAX_PORT):
        raise node.bad(f"ports run from 1 to {MAX_PORT}")
    if low > high:
        raise node.bad(f"the range runs backwards; write {high}-{low}")
    return low, high


PORTS = selection(
    Kind(
        'ports (1 to 65535) and inclusive ranges such as `"8000-8099"`',
        _ports,
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": MAX_PORT},
                {"type": "string", "pattern": "^[0-9]{1,5}(-[0-9]{1,5})?$"},
            ]
        },
    )
)


def _netns(node: Node, world: World) -> int:
    if node.tag == "int":
        return parse_whole(node, 1, MAX_INUM, f"an inum from 1 to {MAX_INUM}, or a namespace's name")
    name = parse_text(node, "an inum, self, a name, pid:NUMBER or a path")
    process = _PID_NETNS.fullmatch(name)
    if name == "self":
        return _inum(node, f"{world.proc}/self/ns/net", "not readable here")
    if process:
        missing = f"no process {process[1]} is running that tcpmon may see"
        return _inum(node, f"{world.proc}/{process[1]}/ns/net", missing)
    if name.startswith("pid:"):
        raise node.bad("behind pid: stands the number of a process")
    if name.startswith("/"):
        return _inum(node, name, "no such file")
    if "/" in name or name in (".", ".."):
        raise node.bad(f"neither a name under {world.run_netns} nor an absolute path")
    return _inum(node, f"{world.run_netns}/{name}", f"no namespace {printable(name)} under {world.run_netns}")


def _inum(node: Node, path: str, if_missing: str) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise node.bad(if_missing) from None
    except OSError as error:
        raise node.bad(f"cannot be read: {error.strerror}") from None
    try:
        if not _is_netns(descriptor):
            raise node.bad("not a network namespace")
        return os.fstat(descriptor).st_ino
    finally:
        os.close(descriptor)


def _is_netns(descriptor: int) -> bool:
    try:
        return fcntl.ioctl(descriptor, NS_GET_NSTYPE) == CLONE_NEWNET
    except OSError:  # ENOTTY of most files that are no namespace; devices have answers of their own
        return False


NETNS = selection(
    Kind(
        "network namespaces: an inum, `self`, a name under `/run/netns`, `pid:1234`, or an absolute path",
        _netns,
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": MAX_INUM},
                {"type": "string", "pattern": "^(/.*|[^/]+)$"},
            ]
        },
    )
)


def _comm(node: Node, _: World) -> bytes:
    if node.tag in ("int", "float", "bool", "timestamp"):
        raise node.expected("a process name", "; put it in quotes")
    name = _binary(node) if node.tag == "binary" else parse_text(node, "a process name").encode()
    if not name or b"\0" in name:
        raise node.bad("holds a zero byte, or nothing")
    if len(name) > MAX_COMM_BYTES:
        kept = name[:MAX_COMM_BYTES].decode(errors="replace")
        hint = f'; write "{kept}"' if kept.isprintable() and "\ufffd" not in kept else ""
        raise node.bad(f"{len(name)} bytes, and the kernel keeps {MAX_COMM_BYTES} of a name{hint}")
    return name


def _binary(node: Node) -> bytes:
    try:
        return base64.b64decode("".join(node.text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise node.bad("not base64") from None


COMMS = selection(
    Kind(
        "process names of up to 15 bytes (`!!binary` and base64 for one that is not UTF-8)",
        _comm,
        {"type": "string", "minLength": 1, "maxLength": MAX_COMM_BYTES},
    )
)


def _uid(node: Node, _: World) -> int:
    if node.tag == "int":
        return parse_whole(node, 0, MAX_UID, f"a user id from 0 to {MAX_UID}, or a user's name")
    name = parse_text(node, "a user id or a user's name")
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise node.bad("no such user on this machine") from None


UIDS = selection(
    Kind(
        "user ids and user names",
        _uid,
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": MAX_UID},
                {"type": "string", "minLength": 1},
            ]
        },
    )
)


def _remote(node: Node, _: World) -> Network:
    text = parse_text(node, "an IP address or network")
    address, slash, prefix = text.partition("/")
    try:
        if slash and not (prefix.isascii() and prefix.isdecimal() and len(prefix) <= 3):
            raise ValueError(prefix)
        network = ipaddress.ip_network(without_zone(text), strict=False)
    except ValueError:
        raise node.bad("not an IP address, nor a network such as 10.0.0.0/8 or fd00::/8") from None
    if network.network_address != ipaddress.ip_address(address):
        raise node.bad(f"the address has bits beyond its prefix; write {network}")
    return _unmapped(network)


def _unmapped(network: Network) -> Network:
    """The IPv4 network of an IPv4-mapped one, since such connections count as IPv4."""
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        low = int(network.network_address) & 0xFFFF_FFFF
        return ipaddress.IPv4Network((low, network.prefixlen - _MAPPED.prefixlen))
    return network


REMOTES = selection(
    Kind(
        "IPv4 and IPv6 addresses and networks (CIDR)",
        _remote,
        {"type": "string", "pattern": "^[0-9a-fA-F:.]+(/[0-9]{1,3})?$"},
    )
)
