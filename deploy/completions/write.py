"""Writes the completions for bash and zsh, from the command line: `python deploy/completions/write.py`."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tcpmon import cli
from tcpmon.events.record import JOURNALED

FOLDER = Path(__file__).parent
_WRITTEN = "# Written by deploy/completions/write.py from the command line: change it there."

# How bash and zsh complete a value, by the name that the help has for it. Other values the user has to know.
_FILES = ("_tcpmon_files -f", "_files")
_KINDS = " ".join(JOURNALED)
_TIMES = "now today yesterday"
_VALUES = {
    "FILE": _FILES,
    "PATH": _FILES,
    "DIR": ("_tcpmon_files -d", "_files -/"),
    "PID": ('_tcpmon_words "$(cd /proc && echo [0-9]*)"', "_pids"),
    "EVENTS": (f'_tcpmon_list "{_KINDS}"', f"_sequence compadd - {_KINDS}"),
    "TIME": (f'_tcpmon_words "{_TIMES}"', f"({_TIMES})"),
}
_UNKNOWN = (":", " ")

_BASH = """\
@WRITTEN@
# shellcheck shell=bash

_tcpmon_words() {
	mapfile -t COMPREPLY < <(compgen -W "$1" -- "$word")
}

_tcpmon_files() {
	compopt -o filenames 2>/dev/null
	mapfile -t COMPREPLY < <(compgen "$1" -- "$word")
}

# Words separated by commas
_tcpmon_list() {
	local earlier=
	[[ $word == *,* ]] && earlier=${word%,*},
	mapfile -t COMPREPLY < <(compgen -P "$earlier" -W "$1" -- "${word##*,}")
}

_tcpmon() {
	local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
	# bash makes three words of --option=value
	if [[ $word == = ]]; then
		word=
	elif [[ $before == = ]]; then
		before=${COMP_WORDS[COMP_CWORD - 2]}
	fi
	COMPREPLY=()
	if ((COMP_CWORD == 1)); then
		_tcpmon_words "@VERBS@"
		return
	fi
	case ${COMP_WORDS[1]}:$before in
@VALUES@
	esac
	case ${COMP_WORDS[1]} in
@OPTIONS@
	esac
}

complete -F _tcpmon tcpmon
"""

_ZSH = """\
#compdef tcpmon
@WRITTEN@

_tcpmon() {
	local curcontext=$curcontext state state_descr line
	typeset -A opt_args
	local -a verbs=(
@VERBS@
	)
	_arguments -C \\
@COMMON@
		'1:verb:->verb' \\
		'*::option:->option' && return
	case $state in
	verb)
		_describe -t verbs verb verbs
		;;
	option)
		case $line[1] in
@OPTIONS@
		esac
		;;
	esac
}

_tcpmon "$@"
"""


@dataclass(frozen=True)
class Option:
    """An option of a verb. `excludes` are those that cannot be given with it, itself under all its names."""

    names: tuple[str, ...]
    help: str
    metavar: str
    choices: tuple[str, ...]
    excludes: tuple[str, ...]
    repeats: bool

    @property
    def takes_value(self) -> bool:
        return bool(self.metavar or self.choices)

    @property
    def completed(self) -> tuple[str, str]:
        """What completes its value, in bash and in zsh."""
        if self.choices:
            words = " ".join(self.choices)
            return f'_tcpmon_words "{words}"', f"({words})"
        return _VALUES.get(self.metavar, _UNKNOWN)


@dataclass(frozen=True)
class Verb:
    name: str
    help: str
    options: tuple[Option, ...]


def verbs() -> tuple[Verb, ...]:
    """As `tcpmon VERB -h` has them. argparse tells of them by private names only."""
    listed = [(action.dest, action.help or "") for action in _subparsers(cli.parser())._choices_actions]
    return tuple(
        Verb(name, text, tuple(_options(_subparsers(cli.parser(name)).choices[name])))
        for name, text in listed
    )


def common() -> tuple[Option, ...]:
    """The options without a verb."""
    return tuple(_options(cli.parser()))


def _subparsers(parser: argparse.ArgumentParser) -> argparse._SubParsersAction[argparse.ArgumentParser]:
    (found,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return found


def _options(parser: argparse.ArgumentParser) -> Iterator[Option]:
    groups = [group._group_actions for group in parser._mutually_exclusive_groups]
    for action in parser._actions:
        if not action.option_strings or action.help == argparse.SUPPRESS:
            continue
        rivals = [rival for group in groups if action in group for rival in group] or [action]
        metavar = action.metavar or action.dest.upper()
        yield Option(
            names=tuple(action.option_strings),
            help=" ".join((action.help or "").replace("%%", "%").split()),
            metavar=str(metavar) if action.nargs != 0 else "",
            choices=tuple(map(str, action.choices or ())),
            excludes=tuple(name for rival in rivals for name in rival.option_strings),
            repeats=isinstance(action, argparse._AppendAction),
        )


def bash(known: Sequence[Verb], general: Sequence[Option]) -> str:
    words = [verb.name for verb in known] + [name for option in general for name in option.names]
    patterns: dict[str, list[str]] = {}  # by what completes such a value
    for verb in known:
        for option in filter(lambda option: option.takes_value, verb.options):
            patterns.setdefault(option.completed[0], []).extend(
                f"{verb.name}:{name}" for name in option.names
            )
    values = [f"\t{_joined(found)})\n\t\t{action}\n\t\treturn ;;" for action, found in patterns.items()]
    names = {verb.name: " ".join(name for option in verb.options for name in option.names) for verb in known}
    options = [f'\t{verb}) _tcpmon_words "{found}" ;;' for verb, found in names.items()]
    return _filled(_BASH, VERBS=" ".join(words), VALUES="\n".join(values), OPTIONS="\n".join(options))


def _joined(patterns: Sequence[str]) -> str:
    lines = textwrap.wrap(" | ".join(patterns), 100, break_on_hyphens=False)
    return " \\\n\t\t".join(lines)


def zsh(known: Sequence[Verb], general: Sequence[Option]) -> str:
    return _filled(
        _ZSH,
        VERBS="\n".join(f"\t\t'{_escaped(verb.name + ':' + verb.help)}'" for verb in known),
        COMMON="\n".join(f"\t\t'(- *){_named(option)}' \\" for option in general),
        OPTIONS="\n".join(line for verb in known for line in _zsh_verb(verb)),
    )


def _filled(template: str, **values: str) -> str:
    for name, value in values.items():
        template = template.replace(f"@{name}@", value)
    return template.replace("@WRITTEN@", _WRITTEN)


def _zsh_verb(verb: Verb) -> Iterator[str]:
    yield f"\t\t{verb.name})"
    yield "\t\t\t_arguments -s \\"
    *most, last = [_zsh_option(option) for option in verb.options]
    yield from (f"\t\t\t\t{option} \\" for option in most)
    yield f"\t\t\t\t{last}"
    yield "\t\t\t;;"


def _zsh_option(option: Option) -> str:
    value = f":{option.metavar or 'value'}:{option.completed[1]}" if option.takes_value else ""
    before = "*" if option.repeats else f"({' '.join(option.excludes)})"
    return f"'{before}{_named(option)}{value}'"


def _named(option: Option) -> str:
    """The names and what it does, in the middle of a word in single quotes."""
    names = option.names[0] if len(option.names) == 1 else f"'{{{','.join(option.names)}}}'"
    return f"{names}[{_escaped(option.help.partition('. ')[0].rstrip('.'))}]"


def _escaped(text: str) -> str:
    return text.replace("[", "\\[").replace("]", "\\]").replace("'", "'\\''")


def files() -> dict[Path, str]:
    """The text of each file."""
    known, general = verbs(), common()
    return {
        FOLDER / "bash" / "tcpmon": bash(known, general),
        FOLDER / "zsh" / "_tcpmon": zsh(known, general),
    }


if __name__ == "__main__":
    for path, text in files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
