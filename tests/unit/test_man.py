"""The manual pages: in step with the option tables, clean, and with examples that survive a paste."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tcpmon import cli
from tcpmon.events.verb import VERB as EVENTS
from tcpmon.tools import man, tcpaccept, tcpconnect, tcptracer
from tcpmon.tools.options import MAP_EXAMPLES, Example

FOLDER = Path(__file__).parents[2] / "docs" / "man"
PAGES = man.pages(cli.parser())
LISTED = {verb.name: verb for verb in (tcptracer.TOOL, tcpaccept.TOOL, tcpconnect.TOOL, EVENTS)}


def formatted(name: str) -> str:
    """A page as plain text, as wide as it needs to be."""
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    command = ["groff", "-man", "-ww", "-Tutf8", "-P-cbou", "-rLL=200n", str(FOLDER / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


def examples(name: str) -> list[str]:
    """The commands under EXAMPLES, as one would copy them."""
    section = formatted(name).split("\nEXAMPLES\n")[1].split("\nSEE ALSO\n")[0]
    return [line.strip() for line in section.splitlines() if line.startswith("           ")]


def test_the_shipped_pages_are_the_generated_ones() -> None:
    shipped = {path.name: path.read_text() for path in FOLDER.glob("*.8")}
    assert shipped == PAGES


@pytest.mark.parametrize("name", PAGES)
def test_groff_has_no_complaint(name: str) -> None:
    assert formatted(name)


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="mandoc is not installed")
@pytest.mark.parametrize("name", PAGES)
def test_mandoc_has_no_complaint(name: str) -> None:
    """But that there is no date: pages that change by the day would never be in step."""
    done = subprocess.run(
        ["mandoc", "-Tlint", "-W", "warning", FOLDER / name], capture_output=True, text=True
    )
    assert [line for line in done.stdout.splitlines() if "missing date" not in line] == []


@pytest.mark.parametrize("tool", LISTED)
def test_a_page_has_every_option_column_and_example(tool: str) -> None:
    name = f"tcpmon-{tool}.8"
    lines = [line.strip() for line in formatted(name).splitlines()]
    for option in LISTED[tool].options:
        heading = f"{', '.join(option.names)} {option.metavar}".rstrip()
        assert any(line.startswith(heading) for line in lines), heading
    for heading, _meaning in LISTED[tool].columns:
        assert any(line.startswith(heading) for line in lines), heading
    shown = examples(name)
    for example in LISTED[tool].examples:
        assert f"tcpmon {tool} {example.arguments}".rstrip() in shown
        assert all(line in shown for line in example.before.splitlines())


def test_the_main_page_has_every_verb() -> None:
    text = formatted("tcpmon.8")
    for verb in ("run [-c FILE]", "check-config [-c FILE]", "check-kernel [--json]", *LISTED):
        assert f"tcpmon {verb}" in text


@pytest.mark.parametrize("name", PAGES)
def test_every_example_is_ascii_and_parses(name: str) -> None:
    for command in examples(name):
        assert command.isascii()
        subprocess.run(["sh", "-n", "-c", command], check=True)
        if command.startswith("tcpmon ") and "$(" not in command:
            verb, *arguments = command.split()[1:]
            cli.parser(verb).parse_args([verb, *arguments])


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("bpftool") is None, reason="needs root and bpftool")
@pytest.mark.parametrize("example", MAP_EXAMPLES, ids=lambda example: example.what)
def test_the_maps_of_the_examples_can_be_made_and_hold_what_they_say(
    example: Example, tmp_path: Path
) -> None:
    """Pasted into a shell with a BPF file system of its own."""
    folder = "/sys/fs/bpf"
    path = example.arguments.split()[1].replace(folder, str(tmp_path))
    made = example.before.replace(folder, str(tmp_path))
    script = f"set -e\nmount -t bpf bpf {tmp_path}\n{made}\necho $id\nbpftool -j map dump pinned {path}"
    command = ["unshare", "-m", "sh", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    number, dump = done.stdout.splitlines()
    ((key, _value),) = (entry.values() for entry in json.loads(dump))
    assert int("".join(byte.removeprefix("0x") for byte in reversed(key)), 16) == int(number) > 0
