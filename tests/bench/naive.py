"""The peer that tcpmon is measured against: a bcc script that sends every event to Python and counts there.

Run as `python -m tests.bench.naive PORT`. Says when it is ready, serves /metrics on PORT, and on SIGTERM
empties its buffer and prints a line of JSON: {"lost": as bcc reported, "events": {service port: as counted}}.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections import Counter as Tally
from pathlib import Path
from typing import Any

import prometheus_client

from tcpmon.kernel import btf, headers

SYN_SENT, CLOSE = 2, 7
POLL_MS = 200


def compiled() -> Any:
    """The loaded program; bcc compiles it against the header tree that tcpmon makes of the kernel's BTF."""
    with tempfile.TemporaryDirectory() as folder:
        headers.write_tree(Path(folder), btf.load())
        os.environ["BCC_KERNEL_SOURCE"] = folder
        from bcc import BPF

        return BPF(text=Path(__file__).with_name("naive.bpf.c").read_text())


class Counts:
    """What was seen: in Prometheus's counters, and by service port for the bench."""

    def __init__(self) -> None:
        self.families = {
            name: prometheus_client.Counter(f"naive_{name}", f"{name} seen", ["comm", "port"])
            for name in ("connects", "accepts", "closes")
        }
        self.seen: Tally[int] = Tally()
        self.lost = 0

    def on_lost(self, number: int) -> None:
        self.lost += number

    def on_event(self, event: Any) -> None:
        name, port = kind_and_port(event)
        self.families[name].labels(event.comm.decode(errors="replace"), port).inc()
        self.seen[port] += 1


def kind_and_port(event: Any) -> tuple[str, int]:
    """Which event it is and the service port, for a close a guess: who connected is not known by then."""
    if event.newstate == CLOSE:
        return "closes", min(event.sport, event.dport)
    if event.oldstate == SYN_SENT:
        return "connects", event.dport
    return "accepts", event.sport


def poll_until_term(bpf: Any) -> None:
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stop.append(number))
    while not stop:
        bpf.perf_buffer_poll(timeout=POLL_MS)


def drain(bpf: Any, seen: Tally[int]) -> None:
    """Reads what is left in the buffer: until a poll brings nothing new."""
    before = None
    while before != seen:
        before = seen.copy()
        bpf.perf_buffer_poll(timeout=POLL_MS)


def main() -> None:
    bpf, counts = compiled(), Counts()
    table = bpf["events"]
    table.open_perf_buffer(
        lambda _cpu, data, _size: counts.on_event(table.event(data)), lost_cb=counts.on_lost
    )
    bpf.attach_tracepoint(tp="sock:inet_sock_set_state", fn_name="on_set_state")
    prometheus_client.start_http_server(int(sys.argv[1]), addr="127.0.0.1")
    print("naive: ready", flush=True)
    poll_until_term(bpf)
    drain(bpf, counts.seen)
    print(json.dumps({"lost": counts.lost, "events": counts.seen}), flush=True)
    os._exit(0)  # bcc's exit handlers end in a traceback here


if __name__ == "__main__":
    main()
