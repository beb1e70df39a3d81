"""What all scripts share: the common options, the exit codes, and one line for every error."""

import argparse
import contextlib
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from clusterd import __version__, errors, log, paths, run
from clusterd.errors import FAILED, OK, ClusterdError

Handler = Callable[[argparse.Namespace], int | None]


class Kept:
    """What a script says while it runs with --json: its answer, and what would else be lines for a person."""

    def __init__(self) -> None:
        self.answer: Any = None
        self.said = io.StringIO()


_kept: Kept | None = None
"""Set while a script runs with --json: stdout is one JSON value then, whatever is printed on the way."""


def parser(program: str, description: str, epilog: str | None = None) -> argparse.ArgumentParser:
    """A parser with the options that every script has; its help is also the source of the man page."""
    made = argparse.ArgumentParser(
        prog=program,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    common = made.add_argument_group("common options")
    common.add_argument(
        "--config", metavar="DIR", default=paths.CONF, help="configuration folder (default: %(default)s)"
    )
    common.add_argument("--dry-run", action="store_true", help="print what would be done, do nothing")
    common.add_argument("-v", "--verbose", action="count", default=0, help="say more; twice: even more")
    common.add_argument("--json", action="store_true", help="answer as JSON")
    common.add_argument("--version", action="version", version=f"%(prog)s (clusterd) {__version__}")
    return made


def repeat_common(sub: argparse.ArgumentParser) -> None:
    """Let the common options stand behind a sub-command as well: ``cluster status --json``."""
    for option in ("--dry-run", "--json"):
        sub.add_argument(option, action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    sub.add_argument("--config", metavar="DIR", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    sub.add_argument("-v", "--verbose", action="count", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def commands(made: argparse.ArgumentParser) -> list[tuple[str, str]]:
    """The sub-commands that `made` shows to people, each with its help."""
    return [
        (choice.dest, choice.help or "")
        for action in made._actions
        if isinstance(action, argparse._SubParsersAction)
        for choice in action._choices_actions
    ]


def main(made: argparse.ArgumentParser, handler: Handler, argv: Sequence[str] | None) -> int:
    """Parse, set what is global, run `handler`; every error becomes one line and its exit code."""
    _print_anything()
    # Options may stand anywhere between the words; argparse does that only without sub-commands.
    options = made.parse_args(argv) if commands(made) else made.parse_intermixed_args(argv)
    log.program = made.prog
    log.verbosity = options.verbose
    run.dry_run = options.dry_run
    os.umask(0o022)
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # with nohup it stays ignored
        signal.signal(signal.SIGHUP, _terminate)
    try:
        return _with_json(made.prog, handler, options) if options.json else _run(made.prog, handler, options)[0]
    except KeyboardInterrupt:
        print(f"{made.prog}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _print_anything() -> None:
    """What stdout and stderr cannot encode, as the name of a file or the output of a command that is not UTF-8, they
    show as Python's escapes.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError, ValueError):
                stream.reconfigure(errors="backslashreplace")


def _run(program: str, handler: Handler, options: argparse.Namespace) -> tuple[int, str]:
    """The exit code, and the error that it stands for, said already; "" if there was none."""
    try:
        return handler(options) or OK, ""
    except ClusterdError as error:
        return complain(program, error), str(error)
    except BrokenPipeError:
        raise
    except OSError as error:
        said = errors.text(error)
        print(log.shown(f"{program}: {said}"), file=sys.stderr)
        return FAILED, said


def _with_json(program: str, handler: Handler, options: argparse.Namespace) -> int:
    """The same with --json: at the end the answer, or the error, is the only thing on stdout."""
    global _kept
    kept = _kept = Kept()
    try:
        with contextlib.redirect_stdout(kept.said):
            code, error = _run(program, handler, options)
    finally:
        _kept = None
    show_json(whole(kept.answer, kept.said.getvalue().splitlines(), code, error))
    return code


def whole(answer: Any, said: Sequence[str], code: int, error: str) -> Any:
    """What --json prints: the script's answer, with the lines that it said and the error, if any. Pure."""
    facts: dict[str, Any] = {"said": list(said)} if said else {}
    if error:
        facts |= {"error": error, "exit": code}
    if answer is None:
        return {"exit": code, **facts}
    if isinstance(answer, dict):
        return {**answer, **facts}
    return {"answer": answer, **facts} if facts else answer


def complain(program: str, error: ClusterdError) -> int:
    """Print the error as one line; return its exit code."""
    print(log.shown(f"{program}: {error}"), file=sys.stderr, flush=True)
    return error.exit_code


def answer(**facts: Any) -> None:
    """What came of it, for --json; without it, nothing. The last one counts."""
    if _kept is not None:
        _kept.answer = facts


def show_json(answer: Any) -> None:
    """The answer to --json: one value, sorted, indented; of several that a script gives, the last one."""
    if _kept is not None:
        _kept.answer = answer
    else:
        print(json.dumps(answer, indent=2, sort_keys=True))


def _terminate(number: int, _frame: object) -> None:
    """SIGTERM, or SIGHUP of a terminal that is closed, ends a script like an error would, so that what it began is put
    back.
    """
    for again in (signal.SIGHUP, signal.SIGTERM) if number == signal.SIGHUP else (signal.SIGHUP,):
        if signal.getsignal(again) is _terminate:
            signal.signal(again, _told_already)
    raise SystemExit(128 + number)


def _told_already(_number: int, _frame: object) -> None:
    """The end of a session is told more than once, by shell, kernel and systemd: that must not cut the putting back.

    No SIG_IGN: services that are started now would inherit that.
    """
