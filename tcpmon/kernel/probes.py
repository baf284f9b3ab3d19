"""The table of probes: for each event the hooks, and where kernels differ the mechanisms, preferred first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tcpmon.errors import KernelError
from tcpmon.kernel import attach, btf

EVENTS = ("connect", "accept", "close")


@dataclass(frozen=True)
class Probe:
    """A BPF function (`program`, of tcpmon/bpf) on a hook of the kernel, for one of EVENTS."""

    event: str
    kind: str  # one of attach.py
    hook: str
    program: str
    copy: int = 1  # of several that are loaded from the same function

    @property
    def name(self) -> str:
        return self.program if self.copy == 1 else f"{self.program}_{self.copy}"

    @property
    def function(self) -> str:
        return self.hook.partition(":")[2] or self.hook


# The socket's states, which serve all three events. Why thrice or twice: bpf/state.bpf.c.
_TRACEPOINTS = (
    Probe("connect", attach.RAW_TRACEPOINT, "inet_sock_set_state", "state_changed"),
    Probe("connect", attach.RAW_TRACEPOINT, "inet_sock_set_state", "state_changed", copy=2),
    Probe("close", attach.RAW_TRACEPOINT, "tcp_destroy_sock", "socket_destroyed"),
)
STATES: Mapping[str, tuple[Probe, ...]] = {
    "fprobe": (
        Probe("connect", attach.FPROBE, "inet_sk_state_store", "state_stored"),
        Probe("connect", attach.FPROBE, "inet_sk_set_state", "state_stored"),
        Probe("close", attach.FPROBE, "tcp_v4_destroy_sock", "destroying_socket"),
        *_TRACEPOINTS,
    ),
    "raw_tracepoint": _TRACEPOINTS,
}

# What a process sees of it. fprobe and fexit ask for the least privilege. While a process is preempted inside
# an fexit's program (preempt=full or lazy) the kernel skips that program for all others of the CPU; nobody is
# preempted inside an fprobe's. A kretprobe loses calls beyond its maxactive; a system call tracepoint cannot
# see io_uring's calls.
MECHANISMS: Mapping[str, Mapping[str, tuple[Probe, ...]]] = {
    "connect": {
        "fprobe": (
            Probe("connect", attach.FPROBE, "tcp_v4_connect", "enter_connect"),
            Probe("connect", attach.FPROBE_RETURN, "tcp_v4_connect", "exit_connect"),
            Probe("connect", attach.FPROBE, "tcp_v6_connect", "enter_connect"),
            Probe("connect", attach.FPROBE_RETURN, "tcp_v6_connect", "exit_connect"),
        ),
        "fexit": (
            Probe("connect", attach.FENTRY, "tcp_v4_connect", "enter_tcp_v4_connect"),
            Probe("connect", attach.FEXIT, "tcp_v4_connect", "exit_tcp_v4_connect"),
            Probe("connect", attach.FENTRY, "tcp_v6_connect", "enter_tcp_v6_connect"),
            Probe("connect", attach.FEXIT, "tcp_v6_connect", "exit_tcp_v6_connect"),
        ),
        "kretprobe": (
            Probe("connect", attach.KPROBE, "tcp_v4_connect", "enter_connect"),
            Probe("connect", attach.KRETPROBE, "tcp_v4_connect", "exit_connect"),
            Probe("connect", attach.KPROBE, "tcp_v6_connect", "enter_connect"),
            Probe("connect", attach.KRETPROBE, "tcp_v6_connect", "exit_connect"),
        ),
        "tracepoint": (
            Probe("connect", attach.TRACEPOINT, "syscalls:sys_enter_connect", "enter_connect"),
            Probe("connect", attach.TRACEPOINT, "syscalls:sys_exit_connect", "exit_connect"),
        ),
    },
    "accept": {
        "fprobe": (Probe("accept", attach.FPROBE_RETURN, "inet_csk_accept", "exit_accept"),),
        "fexit": (Probe("accept", attach.FEXIT, "inet_csk_accept", "exit_inet_csk_accept"),),
        "kretprobe": (Probe("accept", attach.KRETPROBE, "inet_csk_accept", "exit_accept"),),
        "tracepoint": (
            Probe("accept", attach.TRACEPOINT, "syscalls:sys_exit_accept", "exit_accept"),
            Probe("accept", attach.TRACEPOINT, "syscalls:sys_exit_accept4", "exit_accept"),
        ),
    },
}
_ALL = {"state": STATES, **MECHANISMS}

# For events in the ring: an attempt whose SYN goes unanswered
ATTEMPTS = Probe("connect", attach.RAW_TRACEPOINT, "tcp_retransmit_skb", "segment_retransmitted")
_EVENT_ATTEMPT = 1 << 0


def for_events(events: int) -> list[Probe]:
    """What else is attached for events of these kinds: bits of bpf/types.h's enum event_kind."""
    return [ATTEMPTS] if events & _EVENT_ATTEMPT else []


@dataclass(frozen=True)
class Finding:
    """What this kernel says to one mechanism for one event; `problem` is None where all its probes attach."""

    event: str
    mechanism: str
    functions: tuple[str, ...]
    problem: str | None
    chosen: bool


def survey(
    types: btf.Btf, forced: Mapping[str, str] | None = None, first_only: bool = False
) -> list[Finding]:
    """Tries the mechanisms, and marks the one of each event in use: `forced`, or else the first that works.

    `first_only` does not try those behind it, nor what is chosen anyway, whose problems show when it is
    attached: to try a system call's tracepoint takes the kernel a third of a second.
    """
    findings = []
    for event, mechanisms in _ALL.items():
        choice = (forced or {}).get(event)
        for name, probes in mechanisms.items():
            if first_only and (choice or name) != name:
                continue
            certain = first_only and name == (choice or list(mechanisms)[-1])
            finding = _finding(event, name, probes, None if certain else _problem(probes, types))
            choice = choice or (None if finding.problem else name)
            findings.append(replace(finding, chosen=name == choice and not finding.problem))
    return findings


def choose(findings: list[Finding]) -> list[Finding]:
    """The findings in use; KernelError where an event has none."""
    for event in _ALL:
        of_event = [finding for finding in findings if finding.event == event]
        if not any(finding.chosen for finding in of_event):
            reasons = "; ".join(f"{f.mechanism}: {f.problem}" for f in of_event if f.problem)
            raise KernelError(
                f"this kernel offers no way to trace {event} ({reasons})",
                "run as root; `tcpmon check-kernel` shows more",
            )
    return [finding for finding in findings if finding.chosen]


def probes_of(finding: Finding) -> tuple[Probe, ...]:
    return _ALL[finding.event][finding.mechanism]


def _finding(event: str, mechanism: str, probes: tuple[Probe, ...], problem: str | None) -> Finding:
    functions = tuple(dict.fromkeys(probe.function for probe in probes))
    return Finding(event, mechanism, functions, problem, problem is None)


def _problem(probes: tuple[Probe, ...], types: btf.Btf) -> str | None:
    hooks = dict.fromkeys((probe.kind, probe.hook) for probe in probes)
    return next(filter(None, (attach.problem(kind, hook, types) for kind, hook in hooks)), None)
