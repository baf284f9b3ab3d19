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
    optional: bool = False  # where the kernel lacks the hook there is nothing to trace

    @property
    def name(self) -> str:
        """Of the loaded program: for a hook of its own, or for all of them."""
        if self.kind in (attach.FENTRY, attach.FEXIT):
            return f"{self.kind}_{self.hook}"
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

# From connect() down to TCP. The first is not there, or has nothing to say, where the kernel has no security
# modules, the next two where no BPF programs of cgroups.
_PERMISSION = "security_socket_connect"
_PRE_CONNECTS = ("tcp_v4_pre_connect", "tcp_v6_pre_connect")
_CONNECTS = ("tcp_v4_connect", "tcp_v6_connect")


def _calls(entry: str, exit_: str, programs: tuple[str, str, str]) -> tuple[Probe, ...]:
    """Probes on entry and return of each of them. `programs`: for the entry, for the permission's, for the
    return."""
    on_entry, on_asking, on_return = programs
    return tuple(
        Probe("connect", kind, function, program, optional=function not in _CONNECTS)
        for function in (_PERMISSION, *_PRE_CONNECTS, *_CONNECTS)
        for kind, program in (
            (entry, on_asking if function == _PERMISSION else on_entry),
            (exit_, on_return),
        )
    )


_BY_FEXIT = _calls(attach.FENTRY, attach.FEXIT, ("fentry_connect", "fentry_permission", "fexit_connect"))
_OF_KPROBES = ("enter_connect", "enter_permission", "exit_connect")
_ACCEPT_BY_FEXIT = (Probe("accept", attach.FEXIT, "inet_csk_accept", "fexit_accept"),)

# What a process sees of it. fprobe and fexit ask for the least privilege. While a process is preempted inside
# an fexit's program (preempt=full or lazy) the kernel skips that program for all others of the CPU. It skips
# an fprobe's for as long as one is preempted inside a system call on a BPF map. So fexit's run behind
# fprobe's: what is taken already they leave alone. A kretprobe loses calls beyond its maxactive; a system
# call tracepoint cannot see io_uring's calls.
MECHANISMS: Mapping[str, Mapping[str, tuple[Probe, ...]]] = {
    "connect": {
        "fprobe": _calls(attach.FPROBE, attach.FPROBE_RETURN, _OF_KPROBES) + _BY_FEXIT,
        "fexit": _BY_FEXIT,
        "kretprobe": _calls(attach.KPROBE, attach.KRETPROBE, _OF_KPROBES),
        "tracepoint": (
            Probe("connect", attach.TRACEPOINT, "syscalls:sys_enter_connect", "enter_connect"),
            Probe("connect", attach.TRACEPOINT, "syscalls:sys_exit_connect", "exit_connect"),
        ),
    },
    "accept": {
        "fprobe": (
            Probe("accept", attach.FPROBE_RETURN, "inet_csk_accept", "exit_accept"),
            *_ACCEPT_BY_FEXIT,
        ),
        "fexit": _ACCEPT_BY_FEXIT,
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
            certain = first_only and name == list(mechanisms)[-1]
            present = _present(probes, types)
            finding = _finding(event, name, present, None if certain else _problem(present, types))
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
                "run as root; `tcpmon check-kernel` shows all that was tried",
            )
    return [finding for finding in findings if finding.chosen]


def probes_of(finding: Finding, types: btf.Btf) -> tuple[Probe, ...]:
    return _present(_ALL[finding.event][finding.mechanism], types)


def _present(probes: tuple[Probe, ...], types: btf.Btf) -> tuple[Probe, ...]:
    """Without those that are optional, and not here."""
    return tuple(
        probe
        for probe in probes
        if not (probe.optional and types.find(probe.function, btf.KIND_FUNC) is None)
    )


def _finding(event: str, mechanism: str, probes: tuple[Probe, ...], problem: str | None) -> Finding:
    functions = tuple(dict.fromkeys(probe.function for probe in probes))
    return Finding(event, mechanism, functions, problem, problem is None)


def _problem(probes: tuple[Probe, ...], types: btf.Btf) -> str | None:
    hooks = dict.fromkeys((probe.kind, probe.hook) for probe in probes if not probe.optional)
    return next(filter(None, (attach.problem(kind, hook, types) for kind, hook in hooks)), None)
