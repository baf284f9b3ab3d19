"""The tools' options as tables. The parser, the help and the manual page derive from them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tcpmon.config.filters import MAX_INUM, MAX_PID, MAX_UID
from tcpmon.config.kinds import MAX_PORT


@dataclass(frozen=True)
class Option:
    """`parse` makes an argument's value of its text, and raises ArgumentTypeError; None for a flag. Of one
    that `adds_up` it makes a sequence; given again, the option adds to it."""

    short: str
    long: str
    help: str
    metavar: str = ""
    parse: Callable[[str], Any] | None = None
    exclusive: bool = False  # at most one of those may be given
    adds_up: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in (self.short, self.long) if name)


@dataclass(frozen=True)
class Example:
    """A command as it may be pasted, without `tcpmon TOOL`, and what it does. `before` comes first."""

    arguments: str
    what: str
    before: str = ""


def whole(what: str, low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdecimal()):
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number; {what} run from {low} to {high}")
        if not low <= int(text[:20]) <= high:
            raise argparse.ArgumentTypeError(f"{text!r}: {what} run from {low} to {high}")
        return int(text)

    return parse


def _ports(text: str) -> tuple[int, ...]:
    port = whole("ports", 1, MAX_PORT)
    return tuple(port(part.strip()) for part in text.split(","))


TIMESTAMP = Option(
    "-t", "--timestamp", "A first column with the seconds since the first event that is printed."
)
PID = Option("-p", "--pid", "Only this process.", "PID", whole("process ids", 1, MAX_PID))
NETNS = Option(
    "-N",
    "--netns",
    "Only this network namespace, by its inum (`stat -L -c %i /proc/self/ns/net`).",
    "NETNS",
    whole("namespaces", 1, MAX_INUM),
)
UID = Option("-u", "--uid", "Only this user, by number.", "UID", whole("user ids", 0, MAX_UID))
LOCAL_PORTS = Option("-P", "--port", "Only these local ports, separated by commas.", "PORTS", _ports)
REMOTE_PORTS = Option("-P", "--port", "Only these destination ports, separated by commas.", "PORTS", _ports)
IPV4 = Option("-4", "--ipv4", "Only IPv4, IPv4-mapped IPv6 addresses included.", exclusive=True)
IPV6 = Option("-6", "--ipv6", "Only IPv6.", exclusive=True)
CGROUP_MAP = Option(
    "",
    "--cgroupmap",
    "Only processes in a cgroup whose id (v2) is a key of the BPF hash pinned at PATH: "
    "8-byte keys. Its changes take effect at once.",
    "PATH",
    str,
)
MNTNS_MAP = Option(
    "",
    "--mntnsmap",
    "Only processes in a mount namespace whose inum is a key of the BPF hash pinned at PATH: "
    "8-byte keys. Its changes take effect at once.",
    "PATH",
    str,
)
MAPS = (CGROUP_MAP, MNTNS_MAP)

# Pasted as they are, these make a map and let through what the shell does that they are pasted into
_MAKE_CGROUP_MAP = """\
bpftool map create /sys/fs/bpf/test01 type hash key 8 value 8 entries 128 name cgroupset flags 0
id=$(stat -c %i $(findmnt -nt cgroup2 -o TARGET | head -1)$(sed -n 's/^0:://p' /proc/self/cgroup))
key=$(printf '%016x\\n' $id | fold -w2 | tac)
bpftool map update pinned /sys/fs/bpf/test01 key hex $key value 0 0 0 0 0 0 0 0"""
_MAKE_MNTNS_MAP = """\
bpftool map create /sys/fs/bpf/mnt_ns_set type hash key 8 value 4 entries 128 name mnt_ns_set flags 0
id=$(stat -L -c %i /proc/self/ns/mnt)
key=$(printf '%016x\\n' $id | fold -w2 | tac)
bpftool map update pinned /sys/fs/bpf/mnt_ns_set key hex $key value 0 0 0 0"""
MAP_EXAMPLES = (
    Example("--cgroupmap /sys/fs/bpf/test01", "Only some cgroups", _MAKE_CGROUP_MAP),
    Example("--mntnsmap /sys/fs/bpf/mnt_ns_set", "Only some mount namespaces", _MAKE_MNTNS_MAP),
)


def add(
    parser: argparse.ArgumentParser, name: str, options: Sequence[Option], examples: Sequence[Example]
) -> None:
    """Gives a parser a tool's options, and its examples as the help's end."""
    # An empty group is more than the help can format
    exclusive = parser.add_mutually_exclusive_group() if any(one.exclusive for one in options) else parser
    for option in options:
        group = exclusive if option.exclusive else parser
        text = plain(option.help).replace("%", "%%")
        if option.parse is None:
            group.add_argument(*option.names, action="store_true", help=text)
        else:
            action = "extend" if option.adds_up else "store"
            group.add_argument(
                *option.names, metavar=option.metavar, type=option.parse, action=action, help=text
            )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _epilog(name, examples)


def _epilog(name: str, examples: Sequence[Example]) -> str:
    commands = [f"tcpmon {name} {example.arguments}".rstrip() for example in examples]
    width = max(map(len, commands))
    lines = [
        f"  {command:<{width}}  # {plain(example.what)}"
        for command, example in zip(commands, examples, strict=True)
    ]
    return "\n".join(["examples:", *lines, "", f"columns, and more: man tcpmon-{name}"])


def plain(text: str) -> str:
    """Without the marks that a manual page sets in bold."""
    return text.replace("`", "")
