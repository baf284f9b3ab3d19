"""The completions: in step with the command line, and what the shells really make of them."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from needs import needs

from tcpmon.events.record import JOURNALED

DEPLOY = Path(__file__).parents[2] / "deploy"
BASH, ZSH = (DEPLOY / "completions" / name for name in ("bash/tcpmon", "zsh/_tcpmon"))

# Completes the last of its words, as a Tab would, and prints the candidates
BASH_TAB = """
source "$1"; shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_tcpmon
printf '%s\\n' "${COMPREPLY[@]}"
"""

# Types a line and two Tabs into an interactive zsh with the completion's folder in its fpath, once its line
# editor is up: what comes before that, the terminal would echo
ZSH_TAB = """
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "PS1=; unsetopt beep; stty rows 300 columns 300; LISTMAX=0; fpath=(${(q)1} \\$fpath)
autoload -U compinit; compinit -u -D; zle-line-init() { print -n REA''DY }; zle -N zle-line-init"
zpty -r shell said '*READY*'
zpty -w -n shell "$2"$'\\t\\t\\C-U'"print E''ND"$'\\r'
zpty -r shell said '*END*'
print -r -- "$said"
"""


def writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("completions_write", DEPLOY / "completions" / "write.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


WRITE = writer()
VERBS = {verb.name: verb for verb in WRITE.verbs()}
LONG = {verb: {name for o in VERBS[verb].options for name in o.names if name[1] == "-"} for verb in VERBS}


def bash(*words: str) -> set[str]:
    command = ["bash", "--norc", "-c", BASH_TAB, "bash", str(BASH), "tcpmon", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    assert done.stderr == ""
    return set(done.stdout.split())


def zsh(line: str) -> set[str]:
    """The words that zsh shows below the line."""
    command = ["zsh", "-f", "-c", ZSH_TAB, "zsh", str(ZSH.parent), line]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    assert done.stderr == ""
    return set(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", " ", done.stdout).split())


def test_the_shipped_completions_are_the_generated_ones() -> None:
    assert {path: path.read_text() for path in (BASH, ZSH)} == WRITE.files()


def test_bash_completes_verbs() -> None:
    assert bash("") == set(VERBS) | {"-h", "--help", "--version"}
    assert bash("check-") == {"check-config", "check-kernel"}
    assert bash("tcpa") == {"tcpaccept"}


@pytest.mark.parametrize("verb", VERBS)
def test_bash_completes_options(verb: str) -> None:
    assert bash(verb, "--") == LONG[verb]
    assert bash(verb, "-") == {name for option in VERBS[verb].options for name in option.names}


@pytest.mark.parametrize("words", [["--config", ""], ["-c", ""], ["--config", "="], ["--config", "=", ""]])
def test_bash_completes_files(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tcpmon.yaml").touch()
    monkeypatch.chdir(tmp_path)
    assert bash("run", *words) == {"tcpmon.yaml"}


def test_bash_completes_processes() -> None:
    assert str(os.getpid()) in bash("tcptracer", "-p", "")
    assert bash("tcptracer", "-N", "") == set()


def test_bash_completes_fixed_values() -> None:
    kinds = set(JOURNALED)
    assert bash("events", "--event", "") == bash("events", "--event", "=", "") == kinds
    assert bash("events", "-e", "acc") == {"accept"}
    assert bash("events", "-e", "accept,conn") == {"accept,connect", "accept,connect_failed"}
    assert bash("events", "--since", "") == {"now", "today", "yesterday"}


def test_bash_asks_for_the_completion_by_the_name_of_its_file() -> None:
    said = subprocess.run(
        ["bash", "--norc", "-c", f"source {BASH}; complete -p {BASH.name}"], capture_output=True, text=True
    )
    assert said.stdout == "complete -F _tcpmon tcpmon\n"


@needs("zsh")
def test_zsh_completes_verbs() -> None:
    assert set(VERBS) <= zsh("tcpmon ")


@needs("zsh")
@pytest.mark.parametrize("verb", VERBS)
def test_zsh_completes_options(verb: str) -> None:
    assert LONG[verb] <= zsh(f"tcpmon {verb} --")


@needs("zsh")
def test_zsh_completes_fixed_values() -> None:
    assert {"connect", "connect_failed"} <= zsh("tcpmon events -e accept,")
    assert {"today", "yesterday"} <= zsh("tcpmon events --since ")
