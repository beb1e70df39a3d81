"""peer_gate: the forced command of the nodes' ssh key; see clusterd.gate."""

import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clusterd import gate, log, paths
from clusterd.errors import FAILED, NOT_PERMITTED, ClusterdError

if TYPE_CHECKING:
    import argparse

DESCRIPTION = """\
What the nodes may ask of each other, and nothing else. It stands in root's authorized_keys as the forced command of
each node's key, and takes the request from SSH_ORIGINAL_COMMAND; with rsh the request is its arguments. Requests:
pass, rsync, acquire, ready, status, clock. With --dry-run the first three only say what they would begin."""
EPILOG = """\
in /root/.ssh/authorized_keys, on one line:
  command="/usr/local/sbin/peer_gate --node serv2",restrict ssh-ed25519 AAAA… root@serv2"""


def parser() -> "argparse.ArgumentParser":
    """The command line; also the source of the man page. The forced command itself starts without argparse."""
    from clusterd import cli

    made = cli.parser("peer_gate", DESCRIPTION, EPILOG)
    made.add_argument("--node", metavar="NAME", default="", help="the node whose key this is")
    made.add_argument("words", metavar="WORD", nargs="*", help="the request, without ssh")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """The script."""
    argv = sys.argv[1:] if argv is None else list(argv)
    log.program = "peer_gate"
    signal.signal(signal.SIGTERM, _terminate)
    os.umask(0o022)
    as_json = False
    try:
        words, request = _request(argv)
        as_json = request.as_json
        code = gate.handle(words, request)
        sys.stdout.flush()
        return code
    except ClusterdError as error:
        return _complain(str(error), error.exit_code, as_json)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{where}{error.strerror or error}", FAILED, as_json)


def _complain(text: str, code: int, as_json: bool) -> int:
    """Say what is wrong, also in one line of JSON on stdout: not every remote shell brings the rest back."""
    print(f"peer_gate: {text}", file=sys.stderr, flush=True)
    if as_json:
        print(json.dumps({"error": text, "exit": code}), flush=True)
    return code


def _request(argv: list[str]) -> tuple[list[str], gate.Request]:
    """What is asked, and by whom. From ssh it is what the peer wrote; options are those of authorized_keys only."""
    request = gate.Request("", paths.CONF)
    rest = list(argv)
    while rest and rest[0] in ("--node", "--config", "--json", "--dry-run", "-v", "--verbose"):
        option = rest.pop(0)
        if option == "--json":
            request = request._replace(as_json=True)
        elif option == "--dry-run":
            request = request._replace(dry_run=True)
        elif option in ("-v", "--verbose"):
            log.verbosity += 1
        elif not rest:
            parser().error(f"argument {option}: expected one argument")
        elif option == "--node":
            request = request._replace(node=rest.pop(0))
        else:
            request = request._replace(folder=rest.pop(0))
    asked = os.environ.pop("SSH_ORIGINAL_COMMAND", None)
    if asked is not None:
        return _split(asked), request
    if request.node and not rest:
        print("peer_gate: no shell here: this key is for the nodes' own requests", file=sys.stderr)
        raise SystemExit(NOT_PERMITTED)
    if not rest or rest[0].startswith("-"):
        options = parser().parse_args(argv)
        log.verbosity = options.verbose
        return options.words, gate.Request(options.node, options.config, options.json, options.dry_run)
    return rest, request


def _split(text: str) -> list[str]:
    """The words of a request. Quotes are none of its forms: what has them is refused as it is."""
    return text.split()


def _terminate(_number: int, _frame: object) -> None:
    """SIGTERM ends a pass in order: what was cut is tidied up."""
    raise SystemExit(128 + signal.SIGTERM)
