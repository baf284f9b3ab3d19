"""The Debian package, built and looked into: complete, polite on upgrades, and lintian has no complaint."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from needs import needs

from tcpmon import __version__

ROOT = Path(__file__).parents[2]
MODULES = Path("usr/lib/python3/dist-packages")
CONFIG = "etc/tcpmon/tcpmon.yaml"
SHIPPED = (".py", ".c", ".h", ".html", ".css", ".js")
DEPENDENCIES = {
    "libbpf1 | libbpf0",
    "procps",
    "python3-bcrypt",
    "python3-bpfcc",
    "python3-dnspython",
    "python3-prometheus-client",
    "python3-systemd",
    "python3-yaml",
    "python3:any",
    "systemd",
}

pytestmark = needs("dpkg-buildpackage", "dh_python3")  # deploy/packages.sh deb


def run(*command: str | Path) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=250)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def package() -> Path:
    said = run(ROOT / "deploy" / "build-deb.sh").splitlines()
    name = f"dist/tcpmon_{__version__}_all.deb"
    assert said[-1] == f"made {name}; install it with: apt install ./{name}"
    return ROOT / name


@pytest.fixture(scope="module")
def unpacked(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the package holds; what belongs to dpkg is in DEBIAN."""
    folder = tmp_path_factory.mktemp("deb") / "unpacked"
    run("dpkg-deb", "-R", package, folder)
    return folder


def test_what_it_is_and_needs(package: Path) -> None:
    assert run("dpkg-deb", "-f", package, "Package").strip() == "tcpmon"
    assert run("dpkg-deb", "-f", package, "Version").strip() == __version__
    assert run("dpkg-deb", "-f", package, "Architecture").strip() == "all"
    depends = run("dpkg-deb", "-f", package, "Depends").strip().split(", ")
    assert {re.sub(r" \(.*?\)", "", one) for one in depends} == DEPENDENCIES


def test_the_module_is_whole(unpacked: Path) -> None:
    ours = {path.relative_to(ROOT) for path in (ROOT / "tcpmon").rglob("*") if path.is_file()}
    needed = {str(path) for path in ours if path.suffix in SHIPPED and "__pycache__" not in path.parts}
    packed = {
        str(path.relative_to(unpacked / MODULES))
        for path in (unpacked / MODULES).rglob("*")
        if path.is_file()
    }
    assert needed <= packed
    assert not [path for path in packed if "__pycache__" in path or path.startswith("tests")]
    for path in needed:
        assert (ROOT / path).read_bytes() == (unpacked / MODULES / path).read_bytes(), path


def test_the_packed_module_runs(unpacked: Path, tmp_path: Path) -> None:
    code = "import tcpmon; from tcpmon import cli; print(tcpmon.__file__); cli.main(['--version'])"
    environment = os.environ | {"PYTHONPATH": str(unpacked / MODULES)}
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert said.stdout == f"{unpacked / MODULES}/tcpmon/__init__.py\ntcpmon {__version__}\n"
    assert (unpacked / "usr/bin/tcpmon").read_text().startswith("#!/usr/bin/python3\n")


def test_everything_else_is_where_it_belongs(unpacked: Path) -> None:
    same = {
        CONFIG: "config/tcpmon.yaml",
        "lib/systemd/system/tcpmon.service": "deploy/systemd/tcpmon.service",
        "lib/systemd/system/tcpmon.socket": "deploy/systemd/tcpmon.socket",
        "usr/lib/sysusers.d/tcpmon.conf": "deploy/systemd/tcpmon.sysusers",
        "usr/lib/systemd/catalog/tcpmon.catalog": "deploy/systemd/tcpmon.catalog",
        "usr/share/bash-completion/completions/tcpmon": "deploy/completions/bash/tcpmon",
        "usr/share/zsh/vendor-completions/_tcpmon": "deploy/completions/zsh/_tcpmon",
    }
    shipped = [*ROOT.glob("grafana/dashboards/*.json"), *ROOT.glob("grafana/provisioning/*/*.yaml")]
    same |= {f"usr/share/tcpmon/{path.relative_to(ROOT)}": str(path.relative_to(ROOT)) for path in shipped}
    documents = [*ROOT.glob("docs/*.md"), *ROOT.glob("docs/images/*"), ROOT / "README.md"]
    same |= {
        f"usr/share/doc/tcpmon/{path.relative_to(ROOT)}": str(path.relative_to(ROOT)) for path in documents
    }
    for packed, ours in same.items():
        assert (unpacked / packed).read_bytes() == (ROOT / ours).read_bytes(), packed
    for ours in filter(Path.is_file, (ROOT / "deploy" / "prometheus").rglob("*")):
        packed = unpacked / "usr/share/tcpmon" / ours.relative_to(ROOT / "deploy")
        assert packed.read_bytes() == ours.read_bytes(), packed
    pages = {f"{page.name}.gz" for page in (ROOT / "docs" / "man").glob("*.8")}
    assert {page.name for page in (unpacked / "usr/share/man/man8").iterdir()} == pages
    examples = {path.name for path in (ROOT / "deploy" / "systemd" / "examples").iterdir()}
    examples.add("web.example.yml")
    assert {path.name for path in (unpacked / "usr/share/doc/tcpmon/examples").iterdir()} == examples


def test_the_configuration_is_the_admins(unpacked: Path) -> None:
    assert (unpacked / "DEBIAN" / "conffiles").read_text().split() == [f"/{CONFIG}"]


def test_it_starts_and_enables_nothing_and_restarts_what_runs_in_one_job(unpacked: Path) -> None:
    """Stop and start would let systemd drop what it keeps for the service over a restart."""
    scripts = {name: (unpacked / "DEBIAN" / name).read_text() for name in ("postinst", "prerm", "postrm")}
    call = re.compile(r"^\s*(?:deb-systemd-invoke|systemctl(?: --system)?) (.*?) (?:>|\|\|)", re.MULTILINE)
    asked = {name: set(call.findall(script)) for name, script in scripts.items()}
    assert asked == {
        "postinst": {"daemon-reload", "try-restart 'tcpmon.service'"},
        "prerm": {"stop tcpmon.socket tcpmon.service"},
        "postrm": {"daemon-reload"},
    }
    assert not (unpacked / "DEBIAN" / "preinst").exists()
    assert '[ "$1" = remove ]' in scripts["prerm"]  # and not on an upgrade


@needs("lintian")
def test_lintian_has_no_complaint(package: Path) -> None:
    """Down to what is merely informative. Each override has its reason beside it."""
    assert run("lintian", "--allow-root", "--display-info", "--tag-display-limit", "0", package) == ""
