"""Debian's Prometheus scrapes a server with TLS, client certificates and passwords, or is told why not."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from needs import needs
from scraper import Scraper, scraper
from waiting import eventually
from webpki import YESTERDAY, Pki, hashed
from websites import DEMANDING, LINES, PAIR, Website, website

pytestmark = needs("prometheus")

GOOD = {"username": "alice", "password": "one"}


def job(site: Website, client: str = "client", **more: Any) -> dict[str, Any]:
    tls = {"ca_file": str(site.folder / "ca.pem")}
    if client:
        start = str(site.folder / client)
        tls |= {"cert_file": f"{start}.crt", "key_file": f"{start}.key"}
    target = {"targets": [f"localhost:{site.port}"]}
    settings = {"scheme": "https", "metrics_path": "/text", "tls_config": tls, "basic_auth": GOOD}
    return {**settings, "static_configs": [target], **more}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Website]:
    contents = {"tls_server_config": DEMANDING, "basic_auth_users": {"alice": hashed("one", 6)}}
    with website(tmp_path, contents) as running:
        yield running


def test_who_is_let_in_and_what_the_others_are_told(site: Website, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    pki = Pki(tmp_path / "old")
    pki.for_all()
    pki.issue("server", "localhost", expires=YESTERDAY)
    with website(tmp_path / "old", {"tls_server_config": PAIR}) as expired:
        jobs = {
            "good": job(site),
            "http2 off": job(site, enable_http2=False),
            "wrong password": job(site, basic_auth={**GOOD, "password": "two"}),
            "unknown user": job(site, basic_auth={**GOOD, "username": "bob"}),
            "no password": job(site, basic_auth=None),
            "no certificate": job(site, ""),
            "expired certificate": job(site, "expired"),
            "strange certificate": job(site, "stranger"),
            "old TLS": job(site),
            "plain": job(site, scheme="http"),
            "expired server": job(expired),
        }
        jobs["old TLS"]["tls_config"] |= {"max_version": "TLS12"}
        with scraper(tmp_path, jobs) as prometheus:
            check(prometheus, jobs)


REASONS = {
    "wrong password": "HTTP status 401",
    "unknown user": "HTTP status 401",
    "no password": "HTTP status 401",
    "no certificate": "certificate",
    "expired certificate": "certificate",
    "strange certificate": "certificate",
    "plain": "HTTP status 400",
    "expired server": "certificate has expired",
}


def check(prometheus: Scraper, jobs: dict[str, Any]) -> None:
    def all_asked() -> bool:
        targets = prometheus.targets()
        return set(targets) == set(jobs) and all(health != "unknown" for health, _ in targets.values())

    assert eventually(all_asked)
    targets = prometheus.targets()
    assert {name for name, (health, _) in targets.items() if health == "up"} == set(jobs) - set(REASONS)
    for name, reason in REASONS.items():
        assert reason in targets[name][1], targets[name]
    assert eventually(lambda: prometheus.value('scrape_samples_scraped{job="good"}') == len(LINES))


def more_than(prometheus: Scraper, query: str, number: float) -> bool:
    return (prometheus.value(query) or 0) > number


def test_no_scrape_fails_while_certificates_and_passwords_change(site: Website, tmp_path: Path) -> None:
    """A renewed certificate, another authority of the clients, and back: connections are made anew."""
    with scraper(tmp_path, {"good": job(site)}) as prometheus:
        assert eventually(lambda: prometheus.targets().get("good") == ("up", ""))
        scrapes = 'count_over_time(up{job="good"}[5m])'
        users = {"alice": hashed("one", 6)}
        for change in range(3):
            site.pki.issue("server", "localhost")
            settings = {**DEMANDING, "min_version": "TLS13"} if change % 2 else DEMANDING
            settings = {**settings, "client_allowed_sans": ["scraper.example"]} if change else settings
            more_users = {**users, str(change): hashed("x")}
            site.reload({"tls_server_config": settings, "basic_auth_users": more_users})
            assert eventually(partial(more_than, prometheus, scrapes, (prometheus.value(scrapes) or 0) + 1))
        assert prometheus.value('min_over_time(up{job="good"}[5m])') == 1
