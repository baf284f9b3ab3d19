"""Debian's archive: where this machine finds it, and packages of suites that are not this machine's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.vm.console import run

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
DEFAULT = "http://deb.debian.org/"


def mirror(archive: str) -> str:
    """The address of `debian` or `debian-security`, as this machine's own apt has it."""
    known = run(["apt-get", "indextargets", "--format", "$(REPO_URI)"]).split()
    return next((uri for uri in known if uri.rstrip("/").endswith(f"/{archive}")), DEFAULT + archive)


def sources(suites: Iterable[tuple[str, str]]) -> list[str]:
    """Lines of sources.list for (archive, suite)."""
    return [f"deb [signed-by={KEYRING}] {mirror(archive)} {suite} main" for archive, suite in suites]


class Apt:
    """apt for other suites, in a folder of its own; proxies and the like are this machine's."""

    def __init__(self, folder: Path, suites: Iterable[tuple[str, str]]) -> None:
        for name in ("lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        (folder / "sources.list").write_text("\n".join(sources(suites)) + "\n")
        settings = {
            "Dir::Etc::sourcelist": folder / "sources.list",
            "Dir::Etc::sourceparts": "-",
            "Dir::State::lists": folder / "lists",
            "Dir::State::status": folder / "status",
            "Dir::Cache": folder / "cache",
            "APT::Architecture": "amd64",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
        }
        self._options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        run(["apt-get", *self._options, "update", "-q"])

    def kernel_packages(self, wanted: Sequence[str]) -> list[str]:
        """The packages behind metapackages of kernels and headers."""
        found: dict[str, None] = {}
        left = list(wanted)
        while left:
            name = left.pop()
            if name not in found:
                found[name] = None
                left += self._kernel_dependencies(name)
        versioned = re.compile(r"-\d+\.\d+\.")
        return [name for name in found if versioned.search(name)]

    def _kernel_dependencies(self, name: str) -> list[str]:
        shown = run(["apt-cache", *self._options, "show", "--no-all-versions", name])
        depends = " ".join(re.findall(r"^Depends: (.*)$", shown, re.MULTILINE))
        return re.findall(r"\blinux-(?:image|binary|modules|headers)-[\w.+-]+", depends)

    def download(self, packages: Sequence[str], into: Path) -> list[Path]:
        run(["apt-get", *self._options, "download", "-q", *packages], cwd=into)
        return sorted(into.glob("*.deb"))
