"""check_peer [NODE]: one look at the peer; a Nagios and Icinga plugin."""

import argparse
from collections.abc import Sequence

from clusterd import cli, config, look
from clusterd.errors import USAGE, ClusterdError, Usage
from clusterd.model import Config, Node

DESCRIPTION = """\
Look once: each path to the peer, the peer's state, both reach counts, the verdict. One line in the format of the
Monitoring Plugins; the exit code is theirs as well: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN."""
EPILOG = """\
It needs root: nobody else can read the configuration, and gets UNKNOWN. For a monitoring system that runs plugins as
the user nagios, this line in /etc/sudoers.d/check_peer:

  nagios ALL=(root) NOPASSWD: /usr/local/sbin/check_peer

and as the plugin's command:

  sudo /usr/local/sbin/check_peer"""


def parser() -> argparse.ArgumentParser:
    """The command line; also the source of the man page."""
    made = cli.parser("check_peer", DESCRIPTION, EPILOG)
    made.add_argument("node", metavar="NODE", nargs="?", help="the peer (default: the only one, or all)")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """The script. A wrong command line is UNKNOWN as well: argparse's own code for it would be CRITICAL here."""
    try:
        return cli.main(parser(), check_peer, argv)
    except SystemExit as end:
        if end.code != USAGE:
            raise
        print("CLUSTERD UNKNOWN - the command line is wrong: see check_peer --help")
        return look.UNKNOWN


def check_peer(options: argparse.Namespace) -> int:
    """Look, say it in one line, return Nagios' code: what cannot be found out is UNKNOWN, whatever the reason."""
    try:
        settings = config.load(options.config)
        looks = [look.look(settings, node) for node in _nodes(settings, options.node)]
    except (ClusterdError, OSError) as error:
        if options.json:
            cli.show_json({"error": str(error), "exit": look.UNKNOWN})
        else:
            print(f"CLUSTERD UNKNOWN - {error}")
        return look.UNKNOWN
    worst = max(looks, key=lambda each: (each.code != look.UNKNOWN, each.code))
    if options.json:
        cli.show_json([{**each._asdict(), "state": look.NAMES[each.code]} for each in looks])
    else:
        print(f"CLUSTERD {look.NAMES[worst.code]} - {'; '.join(_text(each) for each in looks)} | {_perfdata(looks)}")
    return worst.code


def _nodes(settings: Config, name: str | None) -> tuple[Node, ...]:
    if name is None:
        return settings.peers()
    if name not in {node.name for node in settings.peers()}:
        raise Usage(f"{name}: not one of the peers ({', '.join(node.name for node in settings.peers())})")
    return (settings.nodes[name],)


def _text(each: look.Look) -> str:
    there = "?" if each.peer_reach is None else each.peer_reach
    arbiter = f"; {each.arbiter}" if each.arbiter else ""
    return f"{each.text}; reach {each.reach} of {each.asked} here, {there} there{arbiter}"


def _perfdata(looks: list[look.Look]) -> str:
    """Values for graphs, as 'label'=value[unit];warn;crit;min;max."""
    values = []
    for each in looks:
        for path, milliseconds in each.paths.items():
            value = "U" if milliseconds is None else f"{milliseconds:g}ms"
            values.append(f"'{each.peer} {path}'={value};;;0")
    first = looks[0]
    values.append(f"reach={first.reach};;;0;{first.asked}")
    values += [
        f"'reach {each.peer}'={'U' if each.peer_reach is None else each.peer_reach};;;0;{each.asked}" for each in looks
    ]
    return " ".join(values)
