"""The shape of the house: imports point down, each foreign library has its room, nothing is too long."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "tcpmon"
MAX_MODULE_LINES, MAX_FUNCTION_LINES = 300, 60

# From the top down: a module imports from its own layer and those below. The longest name that fits counts.
LAYERS = (
    ("tcpmon.__main__", "tcpmon.cli"),
    ("tcpmon.start", "tcpmon.daemon", "tcpmon.checkkernel"),
    ("tcpmon.web", "tcpmon.metrics", "tcpmon.events", "tcpmon.tools"),
    ("tcpmon.kernel", "tcpmon.netns", "tcpmon.privileges", "tcpmon.service"),
    ("tcpmon.config",),
    ("tcpmon.kernel.libbpf",),  # the binding to a library: a filter's map is looked at where it is configured
    ("tcpmon.errors",),
    ("tcpmon",),
)

# Foreign modules that only one room may enter.
ROOMS = {
    "bcc": ("tcpmon.kernel.loader",),
    "prometheus_client": ("tcpmon.metrics",),
    "systemd": ("tcpmon.service.manager", "tcpmon.events"),
    "http.server": ("tcpmon.web",),
    "yaml": ("tcpmon.config",),
    "ssl": ("tcpmon.web.webconfig.context", "tcpmon.web.webconfig.tls"),
    "bcrypt": ("tcpmon.web.webconfig.auth",),
    "dns": ("tcpmon.tools.dns",),
}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def is_in(module: str, room: str) -> bool:
    return module == room or module.startswith(room + ".")


def imported(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every module imported, wherever in the text, and the line; of a package's names the modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            base = str(node.module)
            inner = [f"{base}.{alias.name}" for alias in node.names]
            modules = [name for name in inner if name in MODULES or name in ROOMS]
            if base == "tcpmon" and len(modules) < len(inner):
                yield base, node.lineno
            yield from ((name, node.lineno) for name in modules or [base])


def imports_of(module: str) -> list[tuple[str, int]]:
    return list(imported(ast.parse(MODULES[module].read_text())))


def layer(module: str) -> int:
    fitting = [
        (len(name), number)
        for number, names in enumerate(LAYERS)
        for name in names
        if module == name or (name != "tcpmon" and is_in(module, name))
    ]
    assert fitting, f"{module} has no layer: put it into one"
    return max(fitting)[1]


def test_all_modules_were_found() -> None:
    assert len(MODULES) > 25
    assert {"tcpmon", "tcpmon.cli", "tcpmon.kernel.loader", "tcpmon.bpf"} <= set(MODULES)


@pytest.mark.parametrize("module", [name for name in MODULES if MODULES[name].read_text().strip()])
def test_imports_point_down(module: str) -> None:
    wrong = [
        f"line {line}: {module} imports {name}"
        for name, line in imports_of(module)
        if is_in(name, "tcpmon") and layer(name) < layer(module)
    ]
    assert not wrong


@pytest.mark.parametrize("foreign", ROOMS)
def test_each_foreign_library_has_its_room(foreign: str) -> None:
    users = {module for module in MODULES for name, _line in imports_of(module) if is_in(name, foreign)}
    assert not [user for user in users if not any(is_in(user, room) for room in ROOMS[foreign])]


def test_the_rooms_are_in_use() -> None:
    """A check that finds no import at all would pass for ever."""
    for foreign in ("bcc", "prometheus_client", "http.server", "yaml"):
        assert any(is_in(name, foreign) for module in MODULES for name, _line in imports_of(module)), foreign


@pytest.mark.parametrize("module", ["tcpmon.daemon", "tcpmon.checkkernel"])
def test_the_compiler_stays_out(module: str) -> None:
    """Of LLVM's 100 MB nothing may ever come into the process that serves, by whatever way."""
    code = f"import sys, {module}; sys.exit([n for n in ('bcc', 'systemd') if n in sys.modules] or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("module", MODULES)
def test_lengths(module: str) -> None:
    text = MODULES[module].read_text()
    long = [
        f"{node.name}: {(node.end_lineno or 0) - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (node.end_lineno or 0) - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert len(text.splitlines()) <= MAX_MODULE_LINES
    assert not long
