"""`python -m tests.bench.fleet`: what a fleet of hosts with tcpmon costs Prometheus, as Markdown tables.

One real daemon counts a host's worth of programs; its scrapes are recorded, and served as those of many
hosts to one real Prometheus (Debian's) with the shipped rules. Beside it two others scrape a few of them
every second, with the rules and without, until each series has as many samples as two hours of every 15
seconds have: what a sample takes on disk is measured on that. Run as root from the checkout's root.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.bench import subjects
from tests.bench.replay import Answer, busy_host, recorded, replayed, settled_size
from tests.bench.scrape import Samples, samples, single, until
from tests.bench.subjects import BenchError, Subject
from tests.bench.table import table
from tests.bench.world import machine

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "rules"
LABELS = ("[comm, netns, port]", "[comm, port]", "[port]", "[comm]", "[]")
OF_A_HOST = '{__name__=~"instance(_[a-z]+)*:tcpmon_.+"}'
OF_ALL = '{__name__=~"job(_[a-z]+)*:tcpmon_.+"}'
SCRAPES = 90
# Seconds. Roll-ups of a whole fleet every minute are enough, and a quarter of the work
SCRAPE_EVERY, EVALUATE_EVERY = 15, 60
BLOCK_HOSTS, BLOCK_SAMPLES = 5, 480
START_SECONDS = 30.0


@dataclass(frozen=True)
class Fleet:
    """What Prometheus says of itself after the run."""

    hosts: int
    series: int  # of one host's, scraped
    rolled_up: int  # of one host's, recorded
    of_all: int  # of all hosts together, recorded
    samples_a_second: float
    rss_mib: float
    cpu_share: float
    missed: int  # rounds of rules


@dataclass(frozen=True)
class OnDisk:
    """Bytes a sample in blocks, index and all: of what was scraped, and with the roll-ups."""

    scraped: float
    both: float


def progress(what: str) -> None:
    print(f"fleet: {what}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.fleet")
    parser.add_argument("--hosts", type=int, default=200)
    args = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as name:
            print(report(args.hosts, Path(name)))
    except (BenchError, OSError, subprocess.CalledProcessError) as error:
        progress(str(error))
        return 1
    return 0


def report(count: int, folder: Path) -> str:
    sizes, label_sets, answers = {}, 0, list[Answer]()
    for number, labels in enumerate(LABELS):
        progress(f"a host with the labels {labels}")
        own = folder / str(number)
        own.mkdir()
        with busy_host(own, f"metrics: {{labels: {labels}}}") as daemon:
            sizes[labels] = settled_size(daemon)
            if not answers:
                label_sets = int(single(daemon.url, "tcpmon_series"))
                progress(f"recording {SCRAPES} scrapes")
                answers = recorded(daemon, SCRAPES)
    progress(f"{count} hosts to Prometheus, for {BLOCK_SAMPLES} s")
    with replayed(answers) as port:
        many, few, others = hosts(count, port), hosts(BLOCK_HOSTS, port), hosts(BLOCK_HOSTS, port)
        # In blocks too there are as many roll-ups for a scrape as in the fleet
        with (
            prometheus(folder / "fleet", many, SCRAPE_EVERY, EVALUATE_EVERY) as server,
            prometheus(folder / "both", few, 1, EVALUATE_EVERY // SCRAPE_EVERY) as both,
            prometheus(folder / "scraped", others, 1, None) as scraped,
        ):
            fleet = watched(count, server)
            size = OnDisk(
                block_bytes_a_sample(scraped, folder / "scraped"), block_bytes_a_sample(both, folder / "both")
            )
    about = table(("", ""), machine().items())
    return "\n\n".join([about, label_table(sizes, label_sets), fleet_table(fleet, size)])


_numbers = itertools.count()


def hosts(count: int, port: int) -> list[dict[str, Any]]:
    """So many new hosts of the replay, as static targets."""
    return [
        {
            "targets": [f"127.0.0.1:{port}"],
            "labels": {"instance": f"host-{number}", "__metrics_path__": f"/host-{number}/metrics"},
        }
        for number in itertools.islice(_numbers, count)
    ]


@contextlib.contextmanager
def prometheus(
    folder: Path, targets: list[dict[str, Any]], scrape_every: int, evaluate_every: int | None
) -> Iterator[Subject]:
    """Debian's Prometheus with its data in a new folder; with the shipped rules, unless these are never
    evaluated. Seconds."""
    folder.mkdir()
    shutil.copytree(RULES, folder / "rules")
    configuration = {
        "global": {"scrape_interval": f"{scrape_every}s", "evaluation_interval": f"{evaluate_every or 60}s"},
        "rule_files": ["rules/*.yml"] if evaluate_every else [],
        "scrape_configs": [{"job_name": "tcpmon", "static_configs": targets}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    own, log = subjects.free_port(), folder / "log"
    options = {
        "config.file": folder / "prometheus.yml",
        "storage.tsdb.path": folder / "data",
        "web.listen-address": f"127.0.0.1:{own}",
        "log.level": "warn",
    }
    command = ["prometheus", "--web.enable-admin-api"]
    command += [f"--{name}={value}" for name, value in options.items()]
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
    subject = Subject(process, f"http://127.0.0.1:{own}/metrics", log, time.monotonic())
    try:
        if not until(lambda: subject.gone() or answers(subject), START_SECONDS, 0.1) or subject.gone():
            raise subject.failed()
        yield subject
    finally:
        subject.stop()


def answers(subject: Subject) -> bool:
    try:
        return bool(samples(subject.url).rows)
    except OSError:
        return False


def watched(count: int, server: Subject) -> Fleet:
    """Lets it run; the second half is what counts."""
    time.sleep(BLOCK_SAMPLES / 2)
    before, begun, ticks = samples(server.url), time.monotonic(), server.cpu_ticks()
    time.sleep(BLOCK_SAMPLES / 2)
    after, seconds = samples(server.url), time.monotonic() - begun
    cpu = (server.cpu_ticks() - ticks) / subjects.TICKS_PER_SECOND / seconds
    rss = server.memory_mib()
    up = asked(server, "sum(up)")
    if up != count:
        raise BenchError(f"{up:g} of {count} hosts are up")
    return Fleet(
        count,
        int(asked(server, "max(scrape_samples_scraped)")),
        int(asked(server, f"max(count by (instance) ({OF_A_HOST}))")),
        int(asked(server, f"count({OF_ALL})")),
        (appended(after) - appended(before)) / seconds,
        rss,
        cpu,
        int(after.total("prometheus_rule_group_iterations_missed_total")),
    )


def appended(found: Samples) -> float:
    return found.total("prometheus_tsdb_head_samples_appended_total")


def asked(server: Subject, query: str) -> float:
    """The value of a query that gives one series."""
    parameters = urllib.parse.urlencode({"query": query})
    url = server.url.removesuffix("metrics") + f"api/v1/query?{parameters}"
    with urllib.request.urlopen(url, timeout=60) as answer:
        (series,) = json.load(answer)["data"]["result"]
    return float(series["value"][1])


def block_bytes_a_sample(server: Subject, folder: Path) -> float:
    """Chunks and index of a snapshot with the head, by the samples in it."""
    url = server.url.removesuffix("metrics") + "api/v1/admin/tsdb/snapshot"
    with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=300) as answer:
        name = json.load(answer)["data"]["name"]
    blocks = list((folder / "data" / "snapshots" / name).glob("*/meta.json"))
    count = sum(json.loads(meta.read_text())["stats"]["numSamples"] for meta in blocks)
    files = [path for meta in blocks for path in (meta.parent / "index", *meta.parent.glob("chunks/*"))]
    return float(sum(path.stat().st_size for path in files) / count)


def label_table(served: dict[str, tuple[int, int]], label_sets: int) -> str:
    rows = [(f"`{labels}`", f"{series:,}", f"{size:,}") for labels, (series, size) in served.items()]
    head = (
        f"`metrics.labels`, of a host with {label_sets} label sets",
        "series",
        "bytes a scrape, uncompressed",
    )
    return table(head, rows)


def fleet_table(fleet: Fleet, size: OnDisk) -> str:
    a_day = fleet.samples_a_second * 86400 * size.both
    rows = [
        ("hosts", f"{fleet.hosts:,}"),
        ("series of a host, scraped", f"{fleet.series:,}"),
        ("roll-ups of a host", f"{fleet.rolled_up:,}"),
        ("roll-ups of all hosts together", f"{fleet.of_all:,}"),
        (
            f"samples a second: scrapes every {SCRAPE_EVERY} s, roll-ups every {EVALUATE_EVERY} s",
            f"{fleet.samples_a_second:,.0f}",
        ),
        ("rounds of rules that came too late", f"{fleet.missed:,}"),
        ("bytes a sample on disk, index and all: of what was scraped", f"{size.scraped:.2f}"),
        ("and with the roll-ups", f"{size.both:.2f}"),
        ("GB a day on disk", f"{a_day / 1e9:.1f}"),
        ("MB a day of a host", f"{a_day / fleet.hosts / 1e6:.0f}"),
        ("Prometheus: RSS", f"{fleet.rss_mib:,.0f} MiB"),
        ("Prometheus: CPU, of one", f"{fleet.cpu_share:.0%}"),
    ]
    return table(("a fleet", ""), rows)


if __name__ == "__main__":
    sys.exit(main())
