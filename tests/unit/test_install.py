"""deploy/install.sh below a folder of the test's own: what it puts, keeps, takes away, and undoes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from needs import needs, needs_root

from tcpmon import __version__

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy" / "install.sh"
UNITS = "usr/local/lib/systemd"
CONFIG = "etc/tcpmon/tcpmon.yaml"
LISTED = "usr/local/share/tcpmon/installed"

pytestmark = needs("/usr/bin/python3", "tar")


def install(verb: str, destination: Path, script: Path = SCRIPT, **settings: str) -> tuple[int, str, str]:
    """Exit status, stdout, stderr without pip's warnings."""
    environment = os.environ | {"DESTDIR": str(destination), "PREFIX": "/usr/local"} | settings
    done = subprocess.run([script, verb], env=environment, capture_output=True, text=True, timeout=200)
    said = [line for line in done.stderr.splitlines() if not line.startswith("WARNING: ")]
    return done.returncode, done.stdout, "\n".join(said)


def content(folder: Path) -> dict[str, str | bytes]:
    """Every file, link and folder below, with what is in it."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else "folder"
        for path in folder.rglob("*")
    }


def tree_of_somebody_else(folder: Path) -> Path:
    """A copy of this tree as a user with umask 077 would have it; its install.sh."""
    for name in ("README.md", "pyproject.toml", "config", "deploy", "docs", "grafana", "tcpmon"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode & 0o700)
        if os.geteuid() == 0:
            os.chown(path, 12345, 12345)
    return folder / "deploy" / "install.sh"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A first installation, not to be changed, and what was said."""
    destination = tmp_path_factory.mktemp("fresh")
    script = tree_of_somebody_else(tmp_path_factory.mktemp("tree"))
    status, said, complaints = install("install", destination, script)
    assert (status, complaints) == (0, "")
    return destination, said


@pytest.fixture
def installed(fresh: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(fresh[0], tmp_path / "installed", symlinks=True))


def test_it_is_for_all_to_read_and_nobodys_to_change(fresh: tuple[Path, str]) -> None:
    """Whoever owns the tree must not own what root installs from it."""
    for path in fresh[0].rglob("*"):
        status = path.lstat()
        assert (status.st_uid, status.st_gid) == (os.geteuid(), os.getegid()), path
        if not path.is_symlink():
            readable = 0o555 if path.is_dir() else 0o444
            assert status.st_mode & 0o022 == 0, path
            assert status.st_mode & readable == readable, path


def test_everything_is_put_and_told(fresh: tuple[Path, str]) -> None:
    destination, said = fresh
    pages = [f"usr/local/share/man/man8/{page.name}" for page in (ROOT / "docs" / "man").glob("*.8")]
    examples = [
        f"usr/local/share/doc/tcpmon/examples/{path.name}"
        for path in (ROOT / "config/web.example.yml", *ROOT.glob("deploy/systemd/examples/*"))
    ]
    dashboards = [path.relative_to(ROOT) for path in ROOT.glob("grafana/dashboards/*.json")]
    provisioning = [path.relative_to(ROOT) for path in ROOT.glob("grafana/provisioning/*/*.yaml")]
    expected = [
        "usr/local/lib/tcpmon",
        "usr/local/bin/tcpmon",
        f"{UNITS}/system/tcpmon.service",
        f"{UNITS}/system/tcpmon.socket",
        f"{UNITS}/catalog/tcpmon.catalog",
        "usr/local/lib/sysusers.d/tcpmon.conf",
        "usr/local/share/bash-completion/completions/tcpmon",
        "usr/local/share/zsh/site-functions/_tcpmon",
        "usr/local/share/tcpmon/prometheus",
        "usr/local/share/tcpmon/tcpmon.schema.json",
        "usr/local/share/tcpmon/web.schema.json",
        "usr/local/share/doc/tcpmon/README.md",
        "usr/local/share/doc/tcpmon/docs",
        CONFIG,
        LISTED,
        *pages,
        *examples,
        *(f"usr/local/share/tcpmon/{path}" for path in (*dashboards, *provisioning)),
    ]
    told = [line.removeprefix("installed ") for line in said.splitlines() if line.startswith("installed ")]
    assert sorted(told) == sorted(f"{destination}/{path}" for path in expected)
    assert all(os.path.lexists(path) for path in told)
    ours = ROOT / "deploy" / "prometheus"
    assert content(destination / "usr/local/share/tcpmon/prometheus") == content(ours)
    assert (destination / CONFIG).read_bytes() == (ROOT / "config" / "tcpmon.yaml").read_bytes()
    for document in (*ROOT.glob("docs/*.md"), *ROOT.glob("docs/images/*")):
        put = destination / "usr/local/share/doc/tcpmon" / document.relative_to(ROOT)
        assert put.read_bytes() == document.read_bytes()
    packed = {path.name for path in (destination / "usr/local/lib/tcpmon").rglob("tcpmon/web/page/*")}
    assert packed == {path.name for path in (ROOT / "tcpmon/web/page").iterdir()}


def test_paths_are_those_of_the_prefix_and_none_is_the_builders(fresh: tuple[Path, str]) -> None:
    unit = (fresh[0] / UNITS / "system" / "tcpmon.service").read_text()
    assert "ExecStart=/usr/local/bin/tcpmon run\n" in unit
    assert "/usr/bin/tcpmon" not in unit
    shared = fresh[0] / "usr/local/share/tcpmon/grafana"
    provider = (shared / "provisioning/dashboards/tcpmon.yaml").read_text()
    assert "path: /usr/local/share/tcpmon/grafana/dashboards\n" in provider
    environment = fresh[0] / "usr/local/lib/tcpmon"
    for path in (environment / "pyvenv.cfg", environment / "bin" / "tcpmon"):
        assert "/tmp/" not in path.read_text()
    for compiled in environment.rglob("tcpmon/**/*.pyc"):
        assert str(environment.relative_to(fresh[0])).encode() in compiled.read_bytes()


@needs_root("to mount it where it belongs")
def test_the_command_runs_where_it_was_made_for(fresh: tuple[Path, str]) -> None:
    script = f"mount --bind {fresh[0]}/usr/local /usr/local && cd / && /usr/local/bin/tcpmon --version"
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"tcpmon {__version__}\n", "")


def test_uninstall_takes_away_all_that_was_put(installed: Path) -> None:
    strange = installed / "usr/local/share/man/man8/other.8"
    strange.touch()
    status, said, complaints = install("uninstall", installed)
    assert (status, complaints) == (0, "")
    assert f"removed {installed}/{CONFIG}\n" in said
    assert [path for path, what in content(installed).items() if what != "folder"] == [
        str(strange.relative_to(installed))
    ]
    assert set(map(str, strange.relative_to(installed).parents)) - {"."} == {
        path for path, what in content(installed).items() if what == "folder"
    }


def test_an_edited_configuration_stays(installed: Path) -> None:
    """Over a second installation, which puts the new default beside it, and over uninstall."""
    edited = "log: {level: debug}\n"
    (installed / CONFIG).write_text(edited)
    stale = installed / "usr/local/share/man/man8/tcpmon-old.8"
    stale.touch()
    with (installed / LISTED).open("a") as listed:
        listed.write(f"file /{stale.relative_to(installed)}\n")
    status, said, complaints = install("install", installed)
    assert (status, complaints) == (0, "")
    assert f"kept {installed}/{CONFIG} as it is; see the new default beside it\n" in said
    assert (installed / CONFIG).read_text() == edited
    new = installed / f"{CONFIG}.new"
    assert new.read_bytes() == (ROOT / "config" / "tcpmon.yaml").read_bytes()
    assert not stale.exists()  # what an earlier version put, and this one does not

    status, said, complaints = install("uninstall", installed)
    assert (status, complaints) == (0, "")
    assert f"kept {installed}/{CONFIG}, which was edited\n" in said
    assert {path for path, what in content(installed).items() if what != "folder"} == {CONFIG}


def test_an_installation_that_fails_changes_nothing(installed: Path) -> None:
    """Its last file but a few cannot be put: a folder that is not empty is in the way."""
    in_the_way = installed / "usr/local/share/zsh/site-functions/_tcpmon"
    in_the_way.unlink()
    (in_the_way / "full").mkdir(parents=True)
    shutil.rmtree(installed / "usr/local/share/bash-completion")
    before = content(installed)
    status, said, complaints = install("install", installed)
    assert status == 1
    assert f"installed {installed}/usr/local/share/bash-completion/completions/tcpmon\n" in said
    assert complaints.splitlines()[-1] == "install.sh: putting everything back as it was"
    assert content(installed) == before


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    nothing = f"install.sh: nothing is installed: there is no {tmp_path}/{LISTED}\nhint: is PREFIX the same?"
    assert install("uninstall", tmp_path) == (1, "", nothing)
    usage = "install.sh: usage: deploy/install.sh install|uninstall"
    assert install("remove", tmp_path) == (1, "", usage)
    relative = "install.sh: PREFIX must be an absolute path, not there"
    assert install("install", tmp_path, PREFIX="there") == (1, "", relative)
    spaces = "install.sh: PREFIX and DESTDIR must not have spaces or the like"
    assert install("install", tmp_path, PREFIX="/a b") == (1, "", spaces)
    assert not any(tmp_path.iterdir())
