"""The command line: verbs, and the one place that prints an operator's error and picks the exit status."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from tcpmon import __version__, events
from tcpmon.config import DEFAULT_PATH
from tcpmon.errors import ConfigError, OutputError, TcpmonError
from tcpmon.service import log
from tcpmon.tools import TOOLS

_CONFIG_HELP = f"configuration file (default: {DEFAULT_PATH} if it is there, else built-in defaults)"
_FORCE_HELP = "trace connect or accept this way and no other, of those that check-kernel lists; repeatable"
# Of writing to stdout, which is all that verbs but `run` write to
_OUTPUT_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a verb and ends the process: 0, 1 on an operator's error, 2 on bad usage."""
    verb: Callable[[argparse.Namespace], int] | None = None
    try:
        parsed = _parsed(sys.argv[1:] if arguments is None else arguments)
        log.begin()
        verb = parsed.verb
        status = verb(parsed)
        _flush()
    except TcpmonError as error:
        start = log.prefix(logging.ERROR)
        bare = start if start.startswith("<") else ""  # the journal's, not a terminal's
        for line in error.message.splitlines():
            print((bare if isinstance(error, ConfigError) else start) + line, file=sys.stderr)
        if error.hint:
            print(f"{bare}hint: {error.hint}", file=sys.stderr)
        status = 1
    except BrokenPipeError:  # whoever read our output has had enough
        _write_no_more()
        status = 0
    except OSError as error:
        if error.errno not in _OUTPUT_FULL or verb is _run:
            raise
        _write_no_more()
        told = OutputError(error)
        print(f"{log.prefix(logging.ERROR)}{told.message}\nhint: {told.hint}", file=sys.stderr)
        status = 1
    sys.exit(status)


def _parsed(given: Sequence[str]) -> argparse.Namespace:
    try:
        parsed, unknown = parser(*given[:1]).parse_known_args(given)
        if unknown:
            parsed.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed
    finally:
        _flush()  # what --help and --version print


def _flush() -> None:
    if sys.stdout:  # else it was closed from the start
        sys.stdout.flush()


def _write_no_more() -> None:
    """Else python would try once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parser(verb: str = "") -> argparse.ArgumentParser:
    """The command line. A tool's own options are in it only where it is `verb`: no other is imported."""
    parser = argparse.ArgumentParser(
        prog="tcpmon",
        description="Counts every TCP connection of this host in the kernel, and serves it to Prometheus.",
    )
    parser.add_argument("--version", action="version", version=f"tcpmon {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    run = verbs.add_parser(
        "run", help="the daemon, in the foreground", description="Traces, counts and serves /metrics."
    )
    run.add_argument("-c", "--config", metavar="FILE", help=_CONFIG_HELP)
    run.add_argument(
        "--force", metavar="EVENT=MECHANISM", action="append", default=[], type=_forced, help=_FORCE_HELP
    )
    run.set_defaults(verb=_run)
    check = verbs.add_parser("check-config", help="read and validate a configuration, and do nothing else")
    check.add_argument("-c", "--config", metavar="FILE", help=_CONFIG_HELP)
    check.set_defaults(verb=_check_config)
    kernel = verbs.add_parser(
        "check-kernel", help="what this kernel offers to trace with, and what is chosen"
    )
    kernel.add_argument("--json", action="store_true", help="for scripts")
    kernel.set_defaults(verb=_check_kernel)
    for name, what in TOOLS.items():
        tool = verbs.add_parser(name, help=what)
        if name == verb:
            _add_tool(tool, name)
    logged = verbs.add_parser(events.NAME, help=events.SUMMARY)
    if verb == events.NAME:
        _add_events(logged)
    for one in verbs.choices.values():
        one.set_defaults(parser=one)
    return parser


def _add_tool(parser: argparse.ArgumentParser, name: str) -> None:
    tool = import_module(f"tcpmon.tools.{name}").TOOL
    tool.add_to(parser)

    def run(parsed: argparse.Namespace) -> int:
        from tcpmon.tools import watch

        if problem := tool.problem(parsed):
            parser.error(problem)
        watch.run(tool, parsed)
        return 0

    parser.set_defaults(verb=run)


def _add_events(parser: argparse.ArgumentParser) -> None:
    from tcpmon.events import verb

    verb.add_to(parser)

    def run(parsed: argparse.Namespace) -> int:
        if problem := verb.problem(parsed):
            parser.error(problem)
        verb.run(parsed)
        return 0

    parser.set_defaults(verb=run)


def _forced(text: str) -> tuple[str, str]:
    from tcpmon.kernel.probes import MECHANISMS

    event, _, mechanism = text.partition("=")
    if mechanism not in MECHANISMS.get(event, {}):
        known = ", ".join(f"{event}={name}" for event, names in MECHANISMS.items() for name in names)
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {known}")
    return event, mechanism


def _run(parsed: argparse.Namespace) -> int:
    from tcpmon import start

    start.run(parsed.config, dict(parsed.force))
    return 0


def _check_config(parsed: argparse.Namespace) -> int:
    from tcpmon import config
    from tcpmon.web import webconfig

    path = config.find(parsed.config)
    webconfig.load(config.load(path).web_config)
    print(f"{path or 'built-in defaults'}: valid")
    return 0


def _check_kernel(parsed: argparse.Namespace) -> int:
    from tcpmon import checkkernel

    return checkkernel.run(parsed.json)
