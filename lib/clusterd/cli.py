"""What all scripts share: the common options, the exit codes, and one line for every error."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from clusterd import __version__, log, paths, run
from clusterd.errors import FAILED, OK, ClusterdError

Handler = Callable[[argparse.Namespace], int | None]


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
    # Options may stand anywhere between the words; argparse does that only without sub-commands.
    options = made.parse_args(argv) if commands(made) else made.parse_intermixed_args(argv)
    log.program = made.prog
    log.verbosity = options.verbose
    run.dry_run = options.dry_run
    os.umask(0o022)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return handler(options) or OK
    except ClusterdError as error:
        return complain(made.prog, error, options.json)
    except KeyboardInterrupt:
        print(f"{made.prog}: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(log.shown(f"{made.prog}: {where}{error.strerror or error}"), file=sys.stderr)
        return FAILED


def complain(program: str, error: ClusterdError, as_json: bool = False) -> int:
    """Print the error as one line (and as JSON on stdout if that was asked for); return its exit code."""
    print(log.shown(f"{program}: {error}"), file=sys.stderr, flush=True)
    if as_json:
        show_json({"error": str(error), "exit": error.exit_code})
    return error.exit_code


def show_json(answer: Any) -> None:
    """The answer to --json: one object, sorted, indented."""
    print(json.dumps(answer, indent=2, sort_keys=True))


def _terminate(_number: int, _frame: object) -> None:
    """SIGTERM ends a script like an error would, so that what it began is put back."""
    raise SystemExit(128 + signal.SIGTERM)
