"""Addresses that do not answer, on a veth pair: the neighbour entry names a MAC that nobody has."""

from __future__ import annotations

from .netns import Netns

NOBODY = "02:00:00:00:00:99"
SILENT4, SILENT6 = "10.83.0.99", "fd00:83::99"


def silence(ns: Netns, address: str) -> None:
    """Packets from `ns` to `address` reach nobody from now on, and no error comes back."""
    ns.ip(f"neigh replace {address} lladdr {NOBODY} dev eth0 nud permanent")


def reach(ns: Netns, address: str, peer: Netns) -> None:
    """Packets from `ns` to `address` reach `peer` again."""
    ns.ip(f"neigh replace {address} lladdr {mac(peer)} dev eth0 nud permanent")


def mac(ns: Netns) -> str:
    """The hardware address of the namespace's eth0."""
    words = ns.ip("-o link show dev eth0").split()
    return words[words.index("link/ether") + 1]
