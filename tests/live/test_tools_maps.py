"""--cgroupmap and --mntnsmap: maps that others made and change, and those that cannot be used."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable

import pytest
from harness.netns import Netns
from harness.tool import Tool, command
from harness.watched import accepted, attempted, mirrors, same, traced
from helpers.b_pinned import PinnedMap, bpffs, cgroup
from helpers.parties import close, dial, exchange, party, serve, take

COUNT = 7
CLONE_NEWNS = 0x20000
TOOLS = ["tcptracer", "tcpaccept", "tcpconnect"]
StartTool = Callable[..., Tool]


def test_cgroup_map(start_tool: StartTool, ns: Netns, comm: str) -> None:
    """Who is in a cgroup of the map at the time of the deed; the map's changes count at once."""
    with (
        bpffs() as folder,
        PinnedMap(folder / comm, value_size=8) as pinned,
        cgroup(comm) as group,
        party(ns, comm + ".s") as server,
        party(ns, comm) as client,
    ):
        tool = start_tool("tcptracer", "-v", "-N", ns.inum, "--cgroupmap", str(pinned.path))
        (group / "cgroup.procs").write_text(str(client.pid))
        port = server.ask(serve)
        before = client.ask(dial, COUNT, "127.0.0.1", port)
        same(tool, [])
        pinned.add(group.stat().st_ino)
        opens = client.did(client.ask(exchange, COUNT, "127.0.0.1", port))
        closes = opens + client.did(before)  # `exchange` closes whatever there is
        want = [traced("connect", deed) for deed in opens] + [traced("close", deed) for deed in closes]
        same(tool, want)
        pinned.remove(group.stat().st_ino)
        client.ask(exchange, COUNT, "127.0.0.1", port)
        same(tool, want)


def test_mntns_map(start_tool: StartTool, ns: Netns, comm: str) -> None:
    """The same by mount namespaces, with values of 4 bytes, in the other two tools."""
    with (
        bpffs() as folder,
        PinnedMap(folder / comm, value_size=4) as pinned,
        party(ns, comm + ".s") as server,
        party(ns, comm) as client,
    ):
        of_map = ("--mntnsmap", str(pinned.path))
        acceptor = start_tool("tcpaccept", *of_map, wait=False)
        connector = start_tool("tcpconnect", "-U", "-L", *of_map, wait=False)
        acceptor.ready(), connector.ready()
        port = server.ask(serve)
        inside = {each: each.ask(unshare_mounts) for each in (client, server)}
        client.ask(exchange, COUNT, "127.0.0.1", port)
        pinned.add(inside[client])
        seen = client.did(client.ask(dial, COUNT, "127.0.0.1", port))
        same(connector, [*map(attempted, seen)])
        server.ask(take, COUNT)
        pinned.add(inside[server])
        server.ask(take, COUNT)
        same(acceptor, [accepted(deed) for deed in server.did(mirrors(deed.flow for deed in seen))])
        client.ask(close)


def unshare_mounts() -> int:
    """A mount namespace of the process's own; its inum."""
    assert ctypes.CDLL(None).unshare(CLONE_NEWNS) == 0
    return os.stat("/proc/self/ns/mnt").st_ino


def refused(name: str, *args: str) -> str:
    """What a tool says that ends before it begins: one line, a hint, and exit status 1."""
    done = subprocess.run(command(name, *args), capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (1, "")
    message, hint = done.stderr.splitlines()
    assert "bpftool map create" in hint
    return message


@pytest.mark.parametrize("option", ["--cgroupmap", "--mntnsmap"])
def test_maps_that_cannot_be_used(comm: str, option: str) -> None:
    with bpffs() as folder, PinnedMap(folder / comm, key_size=4) as pinned:
        for name in TOOLS:
            assert option in refused(name, option, str(pinned.path))
            assert "4" in refused(name, option, str(pinned.path))
        missing = folder / (comm + "m")
        assert str(missing) in refused("tcpconnect", option, str(missing))
        assert not missing.exists()
        assert "/etc/hostname" in refused("tcpaccept", option, "/etc/hostname")


def test_no_map_is_made_or_unmade(start_tool: StartTool, comm: str) -> None:
    """The pinned map is its owner's: it is there when the tool has gone."""
    with bpffs() as folder, PinnedMap(folder / comm) as pinned:
        start_tool("tcpconnect", "--cgroupmap", str(pinned.path)).stop()
        assert [*folder.glob(comm + "*")] == [pinned.path]
