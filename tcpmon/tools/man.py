"""The manual pages, made of the option tables and of the command line's parser (man(7), groff_char(7))."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Sequence

from tcpmon import events
from tcpmon.events.fields import FIELDS, PREFIX
from tcpmon.events.verb import VERB as EVENTS
from tcpmon.tools import TOOLS, tcpaccept, tcpconnect, tcptracer
from tcpmon.tools.options import Example, Option
from tcpmon.tools.tool import Tool, Verb

_TOOLS = (tcptracer.TOOL, tcpaccept.TOOL, tcpconnect.TOOL)
# Verbs with a page of their own
_PAGED = TOOLS | {events.NAME: events.SUMMARY}
_SECTION = 8
_GLYPHS = {"\\": r"\e", "-": r"\-", "'": r"\(aq", "^": r"\(ha", "~": r"\(ti", "`": r"\(ga"}
_BOLD = re.compile("`([^`]+)`")
_BOLD_ON, _BOLD_OFF = r"\fB", r"\fR"

_DESCRIPTION = (
    "tcpmon counts every TCP connection of this host in the kernel, per process, network namespace and port, "
    "and serves the counts to Prometheus. It also prints single connections as they come and go.",
    "It compiles its BPF programs when it starts, against the type information (BTF) of the running kernel: "
    "kernel headers are not needed.",
)
_PRIVILEGE = (
    "Root, or CAP_BPF and CAP_PERFMON; where the kernel offers nothing better than kprobes or system call "
    "tracepoints for an event, also CAP_SYS_ADMIN, and for tracepoints CAP_DAC_READ_SEARCH. `tcpmon "
    "check-kernel` tells which. `tcpconnect -d` takes CAP_NET_RAW."
)
_FILES = (
    ("/etc/tcpmon/tcpmon.yaml", "The configuration of `run`, if no other is given."),
    ("/run/netns", "The names of network namespaces."),
    ("/usr/share/doc/tcpmon/docs", "The reference of the configuration, the metrics, the runbook and more."),
)
_SIGNALS = (
    ("SIGHUP", "`run` reads its configuration again. One with a fault changes nothing."),
    ("SIGINT, SIGTERM", "A clean end: exit status 0."),
)
_STATUS = (
    ("0", "Done, or ended by SIGINT or SIGTERM, or nobody read the output any more."),
    ("1", "Something that the operator has to set right; a line on stderr says what, and a hint."),
    ("2", "Bad usage."),
)
_EXAMPLES = (
    Example("check-kernel", "See whether this kernel can be traced, and how"),
    Example("check-config", "Look for faults in the configuration"),
    Example("run", "Count and serve; the metrics are at http://127.0.0.1:19317/metrics"),
    Example("tcptracer", "Print connections as they are established, accepted and closed"),
    Example("tcpconnect -d", "Print attempts to connect, with the names that were looked up"),
    Example("events -f", "Print what is logged to the journal, and what comes"),
)
_STDERR = (
    "When events come faster than they are printed and the buffer between runs over, their number is told on "
    "stderr."
)
_EVENTS_MORE = (
    "Which events are logged, and how many a second at most, is the configuration's affair; what was cut, or "
    "found no room, is counted in the metric `tcpmon_lost_events_total`. Anyone on this host may write "
    "entries to the journal that look like events: `journalctl -o verbose` shows who wrote one.",
)
_EVENTS_PRIVILEGE = "Root, or a member of the group systemd-journal."


Section = tuple[str, Iterable[str]]  # its title and lines


def pages(root: argparse.ArgumentParser) -> dict[str, str]:
    """The text of each page by the name of its file. `root` is the parser of the command line."""
    made = {f"tcpmon.{_SECTION}": _main_page(root)}
    made |= {f"tcpmon-{tool.name}.{_SECTION}": _tool_page(tool) for tool in _TOOLS}
    return made | {f"tcpmon-{EVENTS.name}.{_SECTION}": _events_page()}


def _main_page(root: argparse.ArgumentParser) -> str:
    verbs = _verbs(root)
    synopses = [_synopsis("tcpmon", verb, _usage_of(parser)) for verb, (_help, parser) in verbs.items()]
    return _page(
        "tcpmon",
        "count TCP connections in the kernel, and watch them",
        [
            ("SYNOPSIS", ["\n.br\n".join(synopses)]),
            ("DESCRIPTION", _paragraphs(_DESCRIPTION)),
            ("VERBS", _items((verb, _verb_text(verb, *found)) for verb, found in verbs.items())),
            ("PRIVILEGE", _paragraphs([_PRIVILEGE])),
            ("FILES", _items(_FILES)),
            ("SIGNALS", _items(_SIGNALS)),
            ("EXIT STATUS", _items(_STATUS)),
            ("EXAMPLES", _examples("", _EXAMPLES)),
            ("SEE ALSO", [_references(f"tcpmon-{name}" for name in _PAGED)]),
        ],
    )


def _tool_page(tool: Tool) -> str:
    return _verb_page(tool, [tool.description, _STDERR], _PRIVILEGE, TOOLS)


def _events_page() -> str:
    fields = ((f"{PREFIX}{field.name}", _sentence(field.text)) for field in FIELDS)
    about = [EVENTS.description, *_EVENTS_MORE]
    return _verb_page(EVENTS, about, _EVENTS_PRIVILEGE, ["tcptracer"], [("FIELDS", _items(fields))])


def _verb_page(
    verb: Verb,
    description: Sequence[str],
    privilege: str,
    see_also: Iterable[str],
    more: Sequence[Section] = (),
) -> str:
    others = (f"tcpmon-{name}" for name in see_also if name != verb.name)
    return _page(
        f"tcpmon-{verb.name}",
        _PAGED[verb.name].replace("prints", "print", 1),
        [
            ("SYNOPSIS", [_synopsis("tcpmon", verb.name, _usage(verb.options))]),
            ("DESCRIPTION", _paragraphs(description)),
            ("OPTIONS", _items([("-h, --help", "Usage."), *map(_option, verb.options)])),
            ("COLUMNS", _items(verb.columns)),
            *more,
            ("PRIVILEGE", _paragraphs([privilege])),
            ("EXIT STATUS", _items(_STATUS)),
            ("EXAMPLES", _examples(f"{verb.name} ", verb.examples)),
            ("SEE ALSO", [_references(("tcpmon", *others))]),
        ],
    )


def _page(name: str, summary: str, sections: Sequence[Section]) -> str:
    lines = [
        r".\" Written by `make docs` from tcpmon/tools and the command line: change it there.",
        f'.TH {name.upper()} {_SECTION} "" tcpmon "System Administration"',
        ".SH NAME",
        f"{_text(name)} \\- {_text(summary)}",
    ]
    for title, body in sections:
        lines += [f".SH {title}", *body]
    return "\n".join(lines) + "\n"


def _verbs(root: argparse.ArgumentParser) -> dict[str, tuple[str, argparse.ArgumentParser]]:
    """The help and the parser of each verb. argparse tells of them by private names only."""
    (found,) = [action for action in root._actions if isinstance(action, argparse._SubParsersAction)]
    return {action.dest: (action.help or "", found.choices[action.dest]) for action in found._choices_actions}


def _shown(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [
        action for action in parser._actions if action.help != argparse.SUPPRESS and action.dest != "help"
    ]


def _usage_of(parser: argparse.ArgumentParser) -> list[str]:
    if parser.prog.rpartition(" ")[2] in _PAGED:
        return [r"[\fIoptions\fR]"]
    return [_bracketed(action.option_strings[0], str(action.metavar or "")) for action in _shown(parser)]


def _verb_text(verb: str, summary: str, parser: argparse.ArgumentParser) -> str:
    if verb in _PAGED:
        return f"{_sentence(summary)} See `tcpmon-{verb}`({_SECTION})."
    options = [f"`{', '.join(action.option_strings)}`: {action.help}." for action in _shown(parser)]
    return " ".join([_sentence(summary), *options])


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _usage(options: Sequence[Option]) -> list[str]:
    exclusive = " | ".join(
        f"{_BOLD_ON}{_text(option.short)}{_BOLD_OFF}" for option in options if option.exclusive
    )
    single = [
        _bracketed(option.short or option.long, option.metavar) for option in options if not option.exclusive
    ]
    return [*single, f"[{exclusive}]"] if exclusive else single


def _bracketed(name: str, metavar: str) -> str:
    argument = rf" \fI{_text(metavar)}\fR" if metavar else ""
    return f"[{_BOLD_ON}{_text(name)}{_BOLD_OFF}{argument}]"


def _synopsis(program: str, verb: str, usage: Sequence[str]) -> str:
    return "\n".join([f".B {program} {_text(verb)}", *usage])


def _option(option: Option) -> tuple[str, str]:
    names = ", ".join(option.names)
    return f"{names} {option.metavar}".rstrip(), option.help


def _items(items: Iterable[tuple[str, str]]) -> Iterator[str]:
    for term, meaning in items:
        yield from (".TP", f"{_BOLD_ON}{_text(term)}{_BOLD_OFF}", _text(meaning))


def _paragraphs(texts: Sequence[str]) -> list[str]:
    return "\n.PP\n".join(map(_text, texts)).splitlines()


def _examples(prefix: str, examples: Sequence[Example]) -> Iterator[str]:
    for example in examples:
        commands = [*example.before.splitlines(), f"tcpmon {prefix}{example.arguments}".rstrip()]
        if example is not examples[0]:
            yield ".PP"
        yield from (f"{_text(example.what)}:", ".PP", ".in +4n", ".EX")
        yield from map(_literal, commands)
        yield from (".EE", ".in")


def _references(names: Iterable[str]) -> str:
    return ",\n".join(rf"\fB{_text(name)}\fR({_SECTION})" for name in names)


def _text(text: str) -> str:
    """Running text, with what stands in backquotes in bold."""
    parts = _BOLD.split(text)
    marked = [
        f"{_BOLD_ON}{_literal(part)}{_BOLD_OFF}" if odd % 2 else _literal(part)
        for odd, part in enumerate(parts)
    ]
    return "".join(marked)


def _literal(text: str) -> str:
    """As it stands: no escapes, no requests at the line's start, and dashes that survive copying."""
    escaped = "".join(_GLYPHS.get(character, character) for character in text)
    return rf"\&{escaped}" if escaped.startswith((".", r"\(aq")) else escaped
