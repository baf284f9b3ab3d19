"""The package as a service, under the real systemd and journald: one story from installation to purge.

The tests go on where the one before left off, and stand in the story's order.
"""

from __future__ import annotations

import grp
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.helpers import Helpers, build
from harness.netns import Netns
from harness.polling import eventually, settled

from tests.vm.guest import service
from tests.vm.guest.kernels import HAS_FPROBE
from tests.vm.guest.service import CONFIG, UNIT, drop_in, log, scrape, sh, show, systemctl, workload

RESTARTS = KILLS = int(os.environ.get("TCPMON_VM_RESTARTS", "10"))
CAP_DAC_READ_SEARCH, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF = 1 << 2, 1 << 21, 1 << 38, 1 << 39
# Before 5.19 the kernel reads maps for nobody without CAP_BPF
KEPT = CAP_BPF if os.environ.get("TCPMON_VM_MACHINE") == "5.10" else 0
EXAMPLES = Path("/usr/share/doc/tcpmon/examples")
TREES = ("etc", "usr", "var", "opt", "run/systemd", "lib/systemd")
# What any installation changes, whatever is installed; and systemctl's, where it could ask for a password
COMMON = re.compile(
    r"^(var/(cache|log|lib/(apt|dpkg|systemd/catalog|systemd/deb-systemd|private)|tmp)|etc/(passwd|group|g?shadow)-?"
    r"$|etc/\.pwd\.lock$|run/systemd/(units|transient|journal|propagate|inaccessible|ask-password)|.*__pycache__)"
)


def package() -> Path:
    return next(Path("/srv/debs").glob("tcpmon_*.deb"))


def files() -> set[str]:
    """All there is below TREES, but for COMMON."""
    found = {
        str(Path(folder) / name).removeprefix("/")
        for tree in TREES
        for folder, folders, names in os.walk(f"/{tree}")
        for name in (*folders, *names)
    }
    return {path for path in found if not COMMON.match(path)}


@pytest.fixture(scope="module")
def before() -> tuple[set[str], set[tuple[str, int]]]:
    return files(), service.in_kernel()


@pytest.fixture(scope="module", autouse=True)
def installed(before: object) -> Iterator[None]:
    sh("apt-get", "install", "-y", package())
    yield
    if CONFIG.exists():  # the test of the purge was not among those asked for
        sh("apt-get", "purge", "-y", "tcpmon")


@pytest.fixture(scope="module")
def helpers(tmp_path_factory: pytest.TempPathFactory) -> Helpers:
    return build(tmp_path_factory.mktemp("helpers"))


def running() -> None:
    systemctl("start", UNIT)


def test_installing_starts_and_enables_nothing() -> None:
    for unit in ("tcpmon.service", "tcpmon.socket"):
        assert sh("systemctl", "is-enabled", unit, check=False).strip() == "disabled"
        assert sh("systemctl", "is-active", unit, check=False).strip() == "inactive"


def test_started_means_ready() -> None:
    running()
    found = scrape()
    assert found.sum("tcpmon_build_info") == 1
    assert show("SubState") == "running"
    mechanisms = {labels["mechanism"] for labels, _value in found.samples["tcpmon_probe_info"]}
    assert ("fprobe_return" if HAS_FPROBE else "fexit") in mechanisms
    assert not mechanisms & {"kprobe", "kretprobe", "tracepoint"}


def test_it_serves_without_any_capability() -> None:
    expect_no_capability(may_bound=CAP_BPF | CAP_PERFMON)


def expect_no_capability(may_bound: int) -> None:
    """In the serving process; `may_bound` are those that its unit bounds it to."""
    status = Path(f"/proc/{service.main_pid()}/status").read_text()
    held = {name: int(value, 16) for name, value in re.findall(r"^Cap(\w+):\s*(\w+)$", status, re.MULTILINE)}
    bound = held.pop("Bnd")
    assert held == {"Inh": held["Inh"], "Prm": KEPT, "Eff": KEPT, "Amb": 0}, status
    assert bound & ~may_bound == 0, status
    assert re.search(r"^NoNewPrivs:\s*1$", status, re.MULTILINE)


def test_the_status_line_is_live() -> None:
    def numbers() -> None:
        assert re.search(r"\d+ scrapes answered", show("StatusText")), show("StatusText")

    eventually(numbers, 20)


def test_the_watchdog_is_fed() -> None:
    """For longer than WatchdogSec= it is not restarted."""
    pid, fed = service.main_pid(), show("WatchdogTimestampMonotonic")
    eventually(lambda: expect_not(fed, show("WatchdogTimestampMonotonic")), 20)
    assert service.main_pid() == pid
    assert show("NRestarts") == "0"


def expect_not(old: str, new: str) -> None:
    assert new != old


def entries(comm: str) -> Counter[str]:
    """What the journal has of this program, by kind."""
    lines = sh("journalctl", "-o", "json", "-t", "tcpmon", f"TCPMON_COMM={comm}", "--no-pager").splitlines()
    return Counter(json.loads(line)["TCPMON_EVENT"] for line in lines if line.startswith("{"))


def test_one_line_of_configuration_logs_events(helpers: Helpers, ns: Netns, comm: str) -> None:
    running()
    text = CONFIG.read_text()
    assert "\n  journal: false" in text
    service.reload(text.replace("\n  journal: false", "\n  journal: true"))
    with workload(helpers, ns, comm) as work:
        time.sleep(2)
        count = work.expect_exact()
    want = {"connect": count, "accept": count, "close": 2 * count}
    settled(lambda: expect_equal(entries(comm), want))
    header, *told = sh("tcpmon", "events", "--comm", comm).splitlines()
    column = header.split().index("TYPE")
    assert Counter(line.split()[column] for line in told) == want
    objects = [json.loads(line) for line in sh("tcpmon", "events", "--comm", comm, "--json").splitlines()]
    assert len(objects) == 4 * count
    explained = sh("journalctl", "-x", "-t", "tcpmon", f"TCPMON_COMM={comm}", "--no-pager")
    assert explained.count("Subject:") == 4 * count
    assert scrape("tcpmon_journal_events_total").sum("tcpmon_journal_events_total") >= 4 * count
    assert not scrape("tcpmon_lost_events_total").losses()
    service.reload(text)


def expect_equal(got: object, want: object) -> None:
    assert got == want


def test_reloads_amid_traffic(helpers: Helpers, ns: Netns, comm: str) -> None:
    running()
    text = CONFIG.read_text()
    with workload(helpers, ns, comm) as work:
        for number in range(5):
            service.reload(text + f"\n# {number}\n")
        service.reload(text)
        assert work.expect_exact() > 0


def test_a_configuration_made_after_the_start() -> None:
    """And one that is gone again is no reason to forget what it said."""
    text = CONFIG.read_text()
    systemctl("stop", UNIT)
    CONFIG.unlink()
    try:
        running()
        assert scrape().sum("tcpmon_config_last_reload_successful") == 1
        CONFIG.write_text("listen: nowhere\n")
        systemctl("reload", UNIT)
        eventually(lambda: expect_equal(scrape().sum("tcpmon_config_last_reload_successful"), 0))
        CONFIG.write_text(text)
        systemctl("reload", UNIT)
        eventually(lambda: expect_equal(scrape().sum("tcpmon_config_last_reload_successful"), 1))
        CONFIG.unlink()
        systemctl("reload", UNIT)
        eventually(lambda: expect_equal(scrape().sum("tcpmon_config_last_reload_successful"), 0))
    finally:
        CONFIG.write_text(text)
    service.reload(text)


def test_nothing_is_lost_over_restarts_and_kills(helpers: Helpers, ns: Netns, comm: str) -> None:
    """From the first start to the end, while systemd holds what is in the kernel."""
    systemctl("stop", UNIT)
    running()
    with workload(helpers, ns, comm) as work:
        for _ in range(RESTARTS):
            systemctl("restart", UNIT)
        for _ in range(KILLS):
            service.kill()
        work.expect_exact()
    invocations = sh("journalctl", "-u", UNIT, "-o", "cat", "--no-pager").count("taken over")
    assert invocations >= RESTARTS + KILLS
    assert not scrape("tcpmon_lost_events_total").losses()


def test_nothing_is_lost_over_an_upgrade(helpers: Helpers, ns: Netns, comm: str) -> None:
    """And what the administrator wrote stays."""
    running()
    CONFIG.write_text(CONFIG.read_text() + "# mine\n")
    pid = service.main_pid()
    with workload(helpers, ns, comm) as work:
        sh("apt-get", "install", "-y", "--reinstall", package())
        eventually(lambda: expect_not(str(pid), show("MainPID")))
        work.expect_exact()
    assert CONFIG.read_text().endswith("# mine\n")


def test_scrapes_wait_while_systemd_holds_the_socket() -> None:
    systemctl("stop", UNIT)
    systemctl("start", "tcpmon.socket")
    running()
    failed: list[OSError] = []
    over = threading.Event()

    def keep_scraping() -> None:
        while not over.is_set():
            try:
                scrape("tcpmon_build_info")
            except OSError as error:
                failed.append(error)

    scraping = threading.Thread(target=keep_scraping)
    scraping.start()
    try:
        systemctl("restart", UNIT)
    finally:
        over.set()
        scraping.join()
        systemctl("stop", "tcpmon.socket", UNIT)
    assert not failed


def test_stopped_it_leaves_nothing_in_the_kernel(before: tuple[set[str], set[tuple[str, int]]]) -> None:
    running()
    assert service.in_kernel() - before[1]
    systemctl("stop", UNIT)

    def nothing() -> None:
        assert not service.in_kernel() - before[1]

    eventually(nothing)


@pytest.mark.parametrize("left, missing", [("CAP_BPF", "CAP_PERFMON"), ("CAP_PERFMON", "CAP_BPF")])
def test_one_capability_less_fails_with_the_hint(left: str, missing: str) -> None:
    systemctl("stop", UNIT)
    with drop_in(f"AmbientCapabilities=\nAmbientCapabilities={left}\nRestart=no"):
        done = subprocess.run(["systemctl", "start", UNIT], capture_output=True, text=True)
        assert done.returncode != 0
        said = log(12)
        assert f"without {missing}" in said
        assert "hint: " in said
        assert "Traceback" not in said


@pytest.mark.parametrize(
    "mechanism, example, granted",
    [
        ("kretprobe", "kprobes.conf", CAP_SYS_ADMIN),
        ("tracepoint", "tracepoints.conf", CAP_SYS_ADMIN | CAP_DAC_READ_SEARCH),
    ],
)
def test_the_drop_ins_are_enough(
    mechanism: str, example: str, granted: int, helpers: Helpers, ns: Netns, comm: str
) -> None:
    """With Debian's own kernel.perf_event_paranoid."""
    systemctl("stop", UNIT)
    forced = " ".join(f"--force {event}={mechanism}" for event in ("connect", "accept"))
    start = f"ExecStart=\nExecStart=/usr/bin/tcpmon run -c {CONFIG} {forced}"
    with drop_in(start):
        shutil.copy(EXAMPLES / example, service.DROP_INS)
        systemctl("daemon-reload")
        running()
        expect_no_capability(may_bound=CAP_BPF | CAP_PERFMON | granted)
        with workload(helpers, ns, comm) as work:
            time.sleep(1)
            assert work.expect_exact() > 0


def test_the_owner_of_a_key_outlives_a_purge() -> None:
    key = CONFIG.with_name("web.key")
    key.touch()
    shutil.chown(key, group="tcpmon")
    owner = key.stat().st_gid
    sh("apt-get", "purge", "-y", "tcpmon")
    assert grp.getgrnam("tcpmon").gr_gid == owner
    key.unlink()
    sh("apt-get", "install", "-y", package())


def test_nothing_is_left_after_the_purge(before: tuple[set[str], set[tuple[str, int]]]) -> None:
    running()
    sh("apt-get", "purge", "-y", "tcpmon")
    assert files() - before[0] == set()
    assert "tcpmon" not in Path("/etc/passwd").read_text() + Path("/etc/group").read_text()
    eventually(lambda: expect_equal(service.in_kernel() - before[1], set()))
