"""The child process that compiles, loads and attaches; the only importer of bcc.

It is started by kernel/load.py with one end of a unix socket, answers with one message (JSON, and the
descriptors of maps, programs and links), and exits: LLVM's memory and the capabilities go with it.
"""

from __future__ import annotations

import contextlib
import ctypes as ct
import json
import os
import resource
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tcpmon.errors import KernelError, TcpmonError
from tcpmon.kernel import attach, btf, headers, load, probes, source
from tcpmon.kernel.load import Layout, Loaded, Table

_MAX_REQUEST_BYTES = 1 << 20
MAPS = (
    "series",
    "leaving",
    "leaving_now",
    "folded",
    "fold",
    "connections",
    "counters",
    "active",
    "settings",
    "filter_values",
    "filter_ports",
    "filter_remotes",
)
EVENT_MAPS = ("events", "journal_tally")
# bcc tells no layout of a ring's records
_LAYOUT_OF = {"events": "event_layout"}
BCC_HINT = "install it: apt install python3-bpfcc, and run with the distribution's python3 (/usr/bin/python3)"
_VERIFIER_LOG_BYTES = 1 << 20
_CLONE_NEWNS, _MS_PRIVATE, _MS_REC = 0x20000, 1 << 18, 1 << 14


@dataclass(frozen=True)
class Ready:
    """What loading needs and no request changes: bcc, the kernel's types, and headers made of them."""

    bcc: Any
    types: btf.Btf
    headers: Path


def main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    with tempfile.TemporaryDirectory(prefix="tcpmon-") as folder:
        fault = None
        try:
            ready = prepare(Path(folder))
        except TcpmonError as error:
            fault = error
        request = channel.recv(_MAX_REQUEST_BYTES)
        if not request:  # nobody wants it any more
            return
        try:
            if fault:
                raise fault
            wanted = json.loads(request)
            loaded = serve(ready, source.Module(**wanted["module"]), wanted["mechanisms"])
            answer, fds = load.describe(loaded), load.descriptors(loaded)
        except TcpmonError as error:
            answer, fds = {"error": error.message, "hint": error.hint}, []
    socket.send_fds(channel, [json.dumps(answer).encode()], fds)
    channel.close()
    sys.stdout.flush()
    sys.stderr.flush()
    # bcc's exit handler detaches what now belongs to the daemon, and fails where tracefs cannot be read
    os._exit(0)


def prepare(folder: Path) -> Ready:
    """Writes the headers into `folder`."""
    bcc = _import_bcc()
    _raise_memlock()
    see_tracefs()
    types = btf.load()
    try:
        headers.write_tree(folder, types)
    except OSError as error:
        raise KernelError(
            f"the kernel's types cannot be written to {folder} ({_reason(error)})", load.ROOM_HINT
        ) from None
    return Ready(bcc, types, folder)


def _reason(error: OSError) -> str:
    """What copytree raises has a list of (from, to, what happened)."""
    if isinstance(error, shutil.Error):
        return str(error.args[0][0][2]).partition(": ")[0]
    return str(error.strerror)


def serve(ready: Ready, module: source.Module, forced: dict[str, str]) -> Loaded:
    """Compiles, loads and attaches."""
    chosen = probes.choose(probes.survey(ready.types, forced, first_only=True))
    loaded = _compile(ready, module, {finding.event: finding.mechanism for finding in chosen})
    attached = [probe for finding in chosen for probe in probes.probes_of(finding, ready.types)]
    attached += probes.for_events(module.events)
    once = {probe.name: probe for probe in attached}
    programs = {name: _load(ready, loaded, probe) for name, probe in once.items()}
    links = [_attach(probe, programs[probe.name]) for probe in attached]
    return Loaded(
        tables={name: _table(loaded, name) for name in (*MAPS, *(EVENT_MAPS if module.events else []))},
        programs=programs,
        links=tuple(links),
        probes=tuple(attached),
        bcc=ready.bcc.__version__,
    )


def _raise_memlock() -> None:
    """Before 5.11 the kernel charges maps to RLIMIT_MEMLOCK; where raising it fails, loading will tell."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def see_tracefs() -> None:
    """Where tracefs is not mounted, mounts it for this process alone, in a mount namespace of its own."""
    if os.geteuid() != 0 or any((root / "events").is_dir() for root in attach.TRACEFS):
        return
    libc = ct.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) == 0 and libc.mount(b"none", b"/", None, _MS_PRIVATE | _MS_REC, None) == 0:
        libc.mount(
            b"tracefs", bytes(attach.TRACEFS[0]), b"tracefs", 0, None
        )  # failing is told by who needs it


def _import_bcc() -> Any:
    try:
        import bcc
    except (ImportError, OSError, AttributeError) as error:  # it, or the library that it binds
        hint = load.MEMORY_HINT if load.lacks_memory(str(error)) else BCC_HINT
        raise KernelError(f"bcc cannot be imported ({error})", hint) from None
    return bcc


def _compile(ready: Ready, module: source.Module, mechanisms: dict[str, str]) -> Any:
    flags = source.definitions(module, mechanisms, ready.types.argument_count("inet_csk_accept"))
    os.environ["BCC_KERNEL_SOURCE"] = str(ready.headers)
    try:
        return ready.bcc.BPF(text=source.text(), cflags=flags)
    except Exception as error:  # bcc raises nothing more specific  # noqa: BLE001
        raise KernelError(
            f"the BPF module does not load: {error}", "see the messages above; please report them"
        ) from None


def _load(ready: Ready, loaded: Any, probe: probes.Probe) -> int:
    if probe.kind in (attach.FENTRY, attach.FEXIT, attach.FPROBE, attach.FPROBE_RETURN):
        return _load_without_bcc(loaded, probe, ready.types)
    bcc = ready.bcc
    kinds = {
        attach.RAW_TRACEPOINT: bcc.BPF.RAW_TRACEPOINT,
        attach.TRACEPOINT: bcc.BPF.TRACEPOINT,
        attach.KPROBE: bcc.BPF.KPROBE,
        attach.KRETPROBE: bcc.BPF.KPROBE,
    }
    name = probe.program.encode()
    if probe.copy > 1:
        del loaded.funcs[name]  # bcc would give the one that it has
    try:
        return int(loaded.load_func(name, kinds[probe.kind]).fd)
    except Exception as error:  # bcc raises nothing more specific  # noqa: BLE001
        raise _refused(probe, error) from None


def _load_without_bcc(loaded: Any, probe: probes.Probe, types: btf.Btf) -> int:
    """What bcc has no way for (fprobe), or its own names for programs, which differ with its versions."""
    instructions = loaded.dump_func(probe.program.encode())
    function = attach.function_id(probe.kind, probe.function, types)
    try:
        return attach.load(probe.kind, probe.program, instructions, function)
    except OSError as error:
        log = ct.create_string_buffer(_VERIFIER_LOG_BYTES)
        with contextlib.suppress(OSError):
            os.close(attach.load(probe.kind, probe.program, instructions, function, log))
        sys.stderr.write(log.value.decode(errors="replace"))
        raise _refused(probe, error) from None


def _refused(probe: probes.Probe, error: Exception) -> KernelError:
    return KernelError(f"the kernel refuses the BPF program {probe.program}: {error}", "please report this")


def _attach(probe: probes.Probe, program_fd: int) -> int:
    try:
        return attach.attach(probe.kind, probe.hook, program_fd)
    except OSError as error:
        raise KernelError(
            f"{probe.hook} cannot be attached to ({error})", "`tcpmon check-kernel` shows what can"
        ) from None


def _table(loaded: Any, name: str) -> Table:
    """A map and its layout: of a ring, that of the records that it holds."""
    shape = loaded[_LAYOUT_OF.get(name, name)]
    return Table(loaded[name].map_fd, _layout(shape.Key), _layout(shape.Leaf))


def _layout(kind: Any) -> Layout:
    """Of a C type; of a struct with `outer.inner` for the fields of a struct within."""
    return Layout(ct.sizeof(kind), dict(_places(kind)))


def _places(kind: Any, prefix: str = "", start: int = 0) -> Iterator[tuple[str, tuple[int, int]]]:
    for name, inner, *_ in getattr(kind, "_fields_", ()):
        place = getattr(kind, name)
        if issubclass(inner, ct.Structure):
            yield from _places(inner, f"{prefix}{name}.", start + place.offset)
        elif not name.startswith("__pad"):
            yield prefix + name, (start + place.offset, place.size)


if __name__ == "__main__":
    main()
