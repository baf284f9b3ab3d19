"""Passwords, the rate limit and headers: over real sockets with curl, and what is remembered of passwords."""

from __future__ import annotations

import base64
import http.client
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bcrypt
import pytest
from needs import needs
from waiting import DEADLINE_SECONDS, eventually
from webpki import hashed
from websites import Website, website

from tcpmon.web.webconfig import auth, turns
from tcpmon.web.webconfig.auth import Passwords, credentials, nobodys
from tcpmon.web.webconfig.limit import Bucket
from tcpmon.web.webconfig.turns import Crowded, Turns

pytestmark = needs("curl")

# 73 bytes of one letter: bcrypt looks at 72
LONG = "ü" + "x" * 71
USERS = {"alice": hashed("wonder:land"), "empty": hashed(""), "long": hashed(LONG[:-1]), "": hashed("nobody")}
# Half a second or so, where a cost of 4 is a millisecond
SLOW_COST = 13


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def get(
    site: Website, authorization: str = "", path: str = "/ok"
) -> tuple[int, http.client.HTTPMessage, bytes]:
    client = http.client.HTTPConnection("127.0.0.1", site.port, timeout=DEADLINE_SECONDS)
    try:
        client.request("GET", path, headers={"Authorization": authorization} if authorization else {})
        reply = client.getresponse()
        return reply.status, reply.headers, reply.read()
    finally:
        client.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Website]:
    with website(tmp_path_factory.mktemp("auth"), {"basic_auth_users": USERS}) as running:
        yield running


# --- who is let in


def test_curl(site: Website) -> None:
    for words, status in (
        ((), 401),
        (("-u", "alice:wonder:land"), 200),
        (("-u", "alice:wonder"), 401),
        (("-u", "Alice:wonder:land"), 401),
        (("-u", "bob:wonder:land"), 401),
        (("-u", "empty:"), 200),
        (("-u", "empty:x"), 401),
        (("-u", ":nobody"), 200),
        (("-u", f"long:{LONG}"), 200),
        (("-u", f"long:{LONG[:60]}"), 401),
    ):
        for _ in range(2):  # the second time from memory
            assert site.curl(*words, scheme="http")[1].endswith(str(status)), words


@pytest.mark.parametrize("path", ["/ok", "/nope", "/"])
def test_nothing_is_told_without_a_password(site: Website, path: str) -> None:
    status, headers, body = get(site, path=path)
    assert (status, headers["WWW-Authenticate"], body) == (401, "Basic", b"401 Unauthorized\n")
    assert site.curl("-X", "POST", path=path, scheme="http")[1].endswith("401")


@pytest.mark.parametrize(
    "authorization",
    [
        "Basic",
        "Basic ",
        "Basic !!!!",
        "Basic YWxpY2U",
        "Basic " + base64.b64encode(b"alice").decode(),
        "Basic  " + base64.b64encode(b"alice:wonder:land").decode(),
        "Bearer " + base64.b64encode(b"alice:wonder:land").decode(),
        "Basic " + base64.b64encode(b"alice:wonder:land\0").decode(),
        "Basic " + base64.b64encode(b"\xff\xfe:\xff").decode(),
        "Basic \xe9\xe9\xe9\xe9",
        "Basic " + base64.b64encode(b"alice:" + b"x" * 20_000).decode(),
    ],
)
def test_odd_credentials(site: Website, authorization: str) -> None:
    assert get(site, authorization)[0] == 401


def test_the_schemes_name_in_any_case(site: Website) -> None:
    assert get(site, basic("alice", "wonder:land").replace("Basic", "bAsIc"))[0] == 200


def test_hashes_by_any_tool(tmp_path: Path) -> None:
    """htpasswd's and PHP's 2y, python's 2b, and the older 2a."""
    made = hashed("x")
    users = {version: made.replace("$2b$", f"${version}$") for version in ("2a", "2b", "2y")}
    with website(tmp_path, {"basic_auth_users": users}) as site:
        assert [get(site, basic(user, "x"))[0] for user in users] == [200] * 3


# --- what is remembered


def test_a_password_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    check = bcrypt.checkpw

    def counted(password: bytes, stored: bytes) -> bool:
        calls.append(stored)
        return check(password, stored)

    monkeypatch.setattr(auth.bcrypt, "checkpw", counted)
    passwords, users = Passwords(), {b"a": hashed("x").encode()}
    for password, right in (("x", True), ("y", False)) * 3:
        assert passwords.check(users, basic("a", password), "peer") is right
    assert len(calls) == 2
    assert passwords.check({b"a": hashed("y").encode()}, basic("a", "x"), "peer") is False
    assert len(calls) == 3
    assert passwords.check(users, basic("nobody", "x"), "peer") is False
    assert calls[3] == nobodys(users)


def test_guesses_do_not_push_out_who_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    passwords, users = Passwords(), {b"a": hashed("x").encode()}
    assert passwords.check(users, basic("a", "x"), "peer")
    for number in range(auth.MAX_KEPT + 53):
        assert not passwords.check(users, basic("a", str(number)), "peer")
    assert [len(keys) for keys in passwords._kept.values()] == [1, auth.MAX_KEPT]
    monkeypatch.setattr(auth.bcrypt, "checkpw", lambda *_: False)
    assert passwords.check(users, basic("a", "x"), "peer")


def test_no_password_is_kept_as_it_is() -> None:
    passwords, users = Passwords(), {b"a": hashed("correct horse").encode()}
    assert passwords.check(users, basic("a", "correct horse"), "peer")
    assert "horse" not in repr(vars(passwords))


def test_who_does_not_exist_takes_as_long_as_the_slowest() -> None:
    users = {b"a": hashed("x", 5).encode(), b"b": hashed("x", 6).encode()}
    assert nobodys(users).startswith(b"$2b$06$")
    assert bcrypt.checkpw(b"fakepassword", nobodys(users)) is False


def test_credentials_are_split_at_the_first_colon() -> None:
    assert credentials(basic("a", "b:c")) == (b"a", b"b:c")


# --- a slow hash


def test_a_slow_hash_does_not_stall_others(tmp_path: Path) -> None:
    """Others' scrapes are answered, one after another, while a slow hash is made."""
    users = {"quick": hashed("x"), "slow": hashed("x", SLOW_COST)}
    with website(tmp_path, {"basic_auth_users": users}) as site, ThreadPoolExecutor(1) as pool:
        assert get(site, basic("quick", "x"))[0] == 200
        slow = pool.submit(get, site, basic("slow", "wrong"))
        answered = 0
        while not slow.done():
            assert get(site, basic("quick", "x"))[0] == 200
            answered += not slow.done()
        assert slow.result()[0] == 401
        assert answered >= 3


def test_who_is_known_does_not_wait_for_a_turn(site: Website) -> None:
    assert get(site, basic("alice", "wonder:land"))[0] == 200
    assert site.guard._passwords
    with ThreadPoolExecutor(1) as pool:
        with site.guard._passwords._turns.take("somebody"):
            waiting = pool.submit(get, site, basic("alice", "a first guess"))
            assert get(site, basic("alice", "wonder:land"))[0] == 200
            assert get(site)[0] == 401
            assert not waiting.done()
        assert waiting.result(DEADLINE_SECONDS)[0] == 401


def test_guessers_get_503_beyond_a_number(site: Website) -> None:
    assert site.guard._passwords or get(site, basic("alice", "x"))
    assert site.guard._passwords
    line = site.guard._passwords._turns
    with ThreadPoolExecutor(turns.MAX_WAITING_PER_PEER) as pool:
        with line.take("somebody"):
            guesses = [
                pool.submit(get, site, basic("alice", f"guess {number}"))
                for number in range(turns.MAX_WAITING_PER_PEER)
            ]
            assert eventually(lambda: len(line._waiting) == turns.MAX_WAITING_PER_PEER)
            status, headers, body = get(site, basic("alice", "one more"))
            assert (status, headers["Retry-After"]) == (503, "1")
            assert body == b"503 Service Unavailable\n"
        assert {guess.result(DEADLINE_SECONDS)[0] for guess in guesses} == {401}


def test_each_address_gets_its_turn() -> None:
    """Those of one that asks and asks do not come before another's first."""
    line, order = Turns(), list[str]()

    def wait(peer: str) -> None:
        with line.take(peer):
            order.append(peer)

    first = line.take("guesser")
    first.__enter__()
    threads = []
    for peer in ["guesser"] * 5 + ["another", "third"]:
        waiting = len(line._waiting)
        threads.append(threading.Thread(target=wait, args=(peer,)))
        threads[-1].start()
        assert eventually(lambda waiting=waiting: len(line._waiting) > waiting)  # type: ignore[misc]
    first.__exit__(None, None, None)
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    assert order == ["another", "third", *["guesser"] * 5]


def test_only_so_many_wait() -> None:
    line = Turns()
    with line.take("first"):
        for number in range(turns.MAX_WAITING):
            line._line_up(str(number))
        with pytest.raises(Crowded), line.take("one more"):
            pass


def test_a_turn_ends_with_an_error_too() -> None:
    line = Turns()
    with pytest.raises(ZeroDivisionError), line.take("a"):
        raise ZeroDivisionError
    with line.take("a"):
        pass


# --- the rate limit


def test_rate_limit(tmp_path: Path) -> None:
    contents = {"rate_limit": {"interval": "1h", "burst": 3}, "http_server_config": HEADERS}
    with website(tmp_path, contents) as site:
        replies = [get(site) for _ in range(5)]
        assert [status for status, _, _ in replies] == [200, 200, 200, 429, 429]
        assert replies[4][2] == b"429 Too Many Requests\n"
        assert "X-Frame-Options" in replies[0][1]
        assert "X-Frame-Options" not in replies[4][1]  # as the toolkit
        site.reload(contents)
        assert get(site)[0] == 429
        site.reload({"rate_limit": {"interval": "1h", "burst": 4}})
        assert get(site)[0] == 200


def test_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    bucket = Bucket(2.0, 3)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    now += 1.9
    assert not bucket.take()
    now += 0.2
    assert [bucket.take() for _ in range(2)] == [True, False]
    now += 1e6
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    assert not Bucket(1.0, 0).take()
    assert Bucket().take()


# --- headers

HEADERS = {
    "headers": {
        "X-Frame-Options": "deny",
        "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
        "X-Content-Type-Options": "nosniff",
        "X-XSS-Protection": 1,
        "Content-Security-Policy": "default-src 'self' *.test.example.net",
    }
}


def test_headers(tmp_path: Path) -> None:
    with website(tmp_path, {"http_server_config": HEADERS, "basic_auth_users": USERS}) as site:
        for path, authorization, status in (
            ("/ok", basic("alice", "wonder:land"), 200),
            ("/nope", basic("alice", "wonder:land"), 404),
            ("/ok", "", 401),
        ):
            got = get(site, authorization, path)
            assert got[0] == status
            assert {name: got[1][name] for name in HEADERS["headers"]} == {
                name: str(value) for name, value in HEADERS["headers"].items()
            }
            assert got[1].get_all("X-Content-Type-Options") == ["nosniff"]
        own = get(site, basic("alice", "wonder:land"), "/own")[1]
        assert own.get_all("Content-Security-Policy") == ["its own"]
