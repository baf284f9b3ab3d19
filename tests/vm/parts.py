"""The parts of a run: what pytest is given in the guest, and how. The one place where tests are chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

LIVE, GUEST = "tests/live/", "tests/vm/guest/"

# Each case of the truth list at least once, for each mechanism: what fits into four minutes of emulation.
# Those that share the session's daemon cost two seconds; the others wait for a start of their own.
# By file: a test, or a test and those of its variants that are wanted.
_TRUTH: Mapping[str, tuple[str | tuple[str, ...], ...]] = {
    "test_connect_accept.py": (
        ("test_both_ends", "ipv4-blocking-plain_accept", "ipv4-nonblocking-accept4", "ipv6-blocking-accept4"),
        ("test_both_ends", "ipv6-nonblocking-plain_accept", "mapped-blocking-accept4"),
        ("test_both_ends", "mapped-client-nonblocking-plain_accept", "mapped-server-blocking-plain_accept"),
        ("test_two_namespaces", "ipv4", "ipv6"),
        "test_client_socket_keeps_its_namespace",
        "test_listener_keeps_its_namespace",
    ),
    "test_failures.py": (
        ("test_refused", "127.0.0.1-blocking", "::1-nonblocking", "::ffff:127.0.0.1-blocking"),
        ("test_timeout", "10.83.0.99-blocking", "fd00:83::99-nonblocking"),
        ("test_before_any_syn", "unreachable-101-None-10.99.0.1-blocking"),
        ("test_before_any_syn", "unreachable-101-None-::ffff:10.99.0.1-nonblocking"),
        ("test_before_any_syn", "unreachable-113-unreachable fd00:99::/64-fd00:99::1-blocking"),
        ("test_before_any_syn", "denied-13-prohibit 10.99.0.0/16-10.99.0.1-nonblocking"),
        ("test_before_any_syn", "denied-13-prohibit fd00:99::/64-fd00:99::1-blocking"),
        ("test_denied_by_a_cgroup", "127.0.0.1-nonblocking", "::1-blocking", "::ffff:127.0.0.1-blocking"),
        ("test_denied_by_a_security_module", "127.0.0.1-blocking", "::1-nonblocking"),
        ("test_no_port", "127.0.0.1-blocking", "::1-nonblocking"),
        ("test_closed_while_connecting", "10.83.0.99", "fd00:83::99"),
        "test_killed_while_connecting",
        "test_reset_after_establishment_is_no_failure",
        "test_reset_in_the_handshake",
    ),
    "test_accepts.py": (
        "test_blocked_since_before_the_daemon",
        "test_a_hundred_threads_blocked_in_accept",
        "test_reset_before_it_was_accepted",
        "test_prefork_workers",
        "test_reuseport",
    ),
    "test_protocols.py": (
        ("test_fastopen", "send_fastopen", "connect_fastopen"),
        "test_fastopen_accepted_during_the_handshake",
        ("test_mptcp", "both-plain_accept", "client-accept4", "server-accept4"),
        "test_io_uring_accept",
    ),
    "test_closes.py": (
        ("test_one_end_goes_first", "client-shut_write", "client-reset", "client-exit_at_once"),
        ("test_one_end_goes_first", "client-kill_myself", "server-close", "server-shut_both", "server-reset"),
        "test_closed_by_an_heir",
        "test_simultaneous_open",
    ),
    "test_comm.py": (
        "test_threads_count_for_their_process",
        "test_a_renamed_process",
        "test_a_name_of_15_bytes",
        ("test_a_name_comes_back_as_it_was", "\\xe9"),
    ),
    "test_field_bugs.py": ("test_tcptracer_bpf_34_more_blocked_accepts_than_a_kretprobe_has_instances",),
    "test_histograms.py": ("test_default_bounds",),
    "test_throughput.py": (
        "test_a_crowd",
        "test_interrupted_in_the_middle_of_counting",
        "test_preempted_in_the_middle_of_counting",
    ),
    # The last one: with its label sets, each scrape takes much longer
    "test_idle.py": ("test_traffic_on_the_very_label_sets_that_are_folded",),
}
# What `live` runs whole, in the mechanism that the kernel chooses
REST = (
    "test_accepts.py",
    "test_closes.py",
    "test_comm.py",
    "test_connect_accept.py",
    "test_failures.py",
    "test_field_bugs.py",
    "test_filters.py",
    "test_idle.py",
    "test_histograms.py",
    "test_privileges.py",
    "test_reload.py",
    "test_series.py",
    "test_throughput.py",
)


@dataclass(frozen=True)
class Part:
    """A run of pytest in the guest, for at most `limit_s`; more than that is a failure."""

    what: str
    tests: tuple[str, ...]
    limit_s: int
    environment: Mapping[str, str] = field(default_factory=dict)
    machines: tuple[str, ...] = ()  # none: all
    without: tuple[str, ...] = ()  # of these tests
    with_package: bool = False  # tcpmon's, for the tests to install


def _nodes() -> Iterator[str]:
    for file, tests in _TRUTH.items():
        for test in tests:
            name, *variants = (test,) if isinstance(test, str) else test
            yield from (f"{LIVE}{file}::{name}[{variant}]" for variant in variants)
            if not variants:
                yield f"{LIVE}{file}::{name}"


# Of calls beyond a kretprobe's maxactive (on Debian's 5.10 the number of CPUs) the return is not seen: such
# an accept is counted when it closes, but how long it waited is not known. (That all are counted is
# test_tcptracer_bpf_34.) The last of these has three processes in accept() at once.
_WITHOUT = {
    "kretprobe": (
        f"{LIVE}test_accepts.py::test_a_hundred_threads_blocked_in_accept",
        f"{LIVE}test_accepts.py::test_prefork_workers",
        f"{LIVE}test_throughput.py::test_interrupted_in_the_middle_of_counting",
    )
}


def _truth(mechanism: str, *machines: str) -> Part:
    return Part(
        f"the truth suite by {mechanism}",
        tuple(_nodes()),
        limit_s=1800,
        environment={"TCPMON_MECHANISM": mechanism},
        machines=machines,
        without=_WITHOUT.get(mechanism, ()),
    )


_SERVICE = Part("the package, as a service", (GUEST + "test_service.py",), 1800, with_package=True)
PARTS = {
    "kernel": Part("what the kernel offers", (GUEST + "test_kernel.py",), 240),
    "fprobe": _truth("fprobe", "7.x"),
    "fexit": _truth("fexit"),
    "kretprobe": _truth("kretprobe"),
    "tracepoint": _truth("tracepoint"),
    "service": _SERVICE,
    "restarts": replace(
        _SERVICE, what="the service, with fewer restarts", environment={"TCPMON_VM_RESTARTS": "3"}
    ),
    # bcc's tools compile the kernel's headers: minutes each
    "judge": Part("bcc's tools and ours", (GUEST + "test_judge.py",), 2700, machines=("6.1", "6.12", "7.x")),
    # As is every round of theirs
    "bench": Part(
        "what tcpmon costs, beside bcc's tools and libbpf-tools'",
        (GUEST + "test_bench.py",),
        7200,
        machines=("6.1", "6.12"),
    ),
    "live": Part("all of the live suite", tuple(LIVE + test for test in REST), 3600),
}
DEFAULT = tuple(name for name in PARTS if name not in ("live", "restarts", "bench"))
# The oldest and the newest kernel, for every day; where tests/live runs, it runs by tracepoint
SHORT: Mapping[str, tuple[str, ...]] = {
    "5.10": ("kernel", "fexit"),
    "7.x": ("kernel", "fprobe"),
}
