"""What the tasks of ``cluster`` share: asking every node, reporting, and finding out who holds what."""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from clusterd import model, parcel, paths, remote, run
from clusterd.errors import FAILED, OK, CannotTell, Failed, Usage
from clusterd.model import Config, Node
from clusterd.remote import Answer

QUICK = 20.0
"""Seconds for what only looks, or changes little."""
LONG = 6 * 3600.0
"""Seconds for what may have to mirror a lot of data first."""
UNPACK = 300.0
"""Seconds for the installation of the program."""


def own(task: str, options: argparse.Namespace, *words: str) -> tuple[str, ...]:
    """The command line of one of cluster's own tasks, for another node."""
    return ("cluster", "--config", os.path.abspath(options.config), task, *words)


def node(config: Config, name: str) -> Node:
    """The node `name`, as a person typed it.

    Raises:
        Usage: there is none.
    """
    if name not in config.nodes:
        raise Usage(f"{name}: no such node; there are {', '.join(config.nodes)}")
    return config.nodes[name]


def ask(config: Config, to: Node, argv: Sequence[str], *, timeout: float, changes: bool) -> Answer:
    """Run `argv` on one node."""
    return remote.ask(config, to, argv, timeout=timeout, changes=changes)


def everywhere(
    config: Config,
    argv: Sequence[str],
    nodes: Sequence[Node] | None = None,
    *,
    timeout: float,
    stdin: bytes = b"",
    changes: bool = False,
) -> list[Answer]:
    """Run `argv` on all nodes (or on `nodes`) at once."""
    return remote.everywhere(
        lambda each: remote.ask(config, each, argv, timeout=timeout, stdin=stdin, changes=changes),
        tuple(config.nodes.values()) if nodes is None else nodes,
    )


def report(answers: Iterable[Answer]) -> int:
    """Print what every node said, each line with the node's name; the exit code."""
    code = OK
    for answer in answers:
        for line in answer.stdout.splitlines():
            print(line if line.startswith(f"{answer.node}: ") else f"{answer.node}: {line}")
        for line in answer.stderr.splitlines():
            print(f"{answer.node}: {line}", file=sys.stderr)
        if answer.ok and not answer.stdout.strip():
            print(f"{answer.node}: done")
        if not answer.ok:
            code = FAILED
            if answer.why or not answer.stderr.strip():
                print(f"{answer.node}: {answer.text()}", file=sys.stderr)
    return code


def events(config: Config, most: int) -> tuple[list[dict[str, Any]], list[Answer]]:
    """The latest events, `most` of each node, in the order of time; and what the nodes answered."""
    name = os.path.basename(paths.EVENTS)
    # The file before it as well: once a week logrotate begins a new one. No shell, and no matter if there is none.
    named = ("(", "-name", name, "-o", "-name", f"{name}[.-]*[0-9]", ")")
    argv = ("find", f"{paths.LOG}/", "-maxdepth", "1", *named, "-exec", "tail", "-q", f"-n{most}", "{}", "+")
    answers = everywhere(config, argv, timeout=QUICK)
    found = [event for answer in answers for event in sorted(_events(answer), key=_moment)[-most:]]
    return sorted(found, key=_time), answers


def _events(answer: Answer) -> Iterator[dict[str, Any]]:
    """Those of one node; what a full disk cut short is none."""
    for line in answer.stdout.splitlines():
        with suppress(ValueError, TypeError, KeyError):
            event = json.loads(line)
            _moment(event)
            yield event


def _time(event: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(event["time"]).astimezone()


def _moment(event: dict[str, Any]) -> tuple[datetime, float]:
    """Of two events of one node in the same millisecond the boot clock says which was first."""
    return _time(event), float(event.get("uptime", 0.0))


def confirm(question: str, option: str) -> None:
    """Ask a person at the terminal.

    Raises:
        Usage: there is no terminal.
        Failed: the answer is no.
    """
    if not sys.stdin.isatty():
        raise Usage(f"nobody to ask at this terminal: {option} answers yes")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)  # with --json stdout is for the answer
    try:
        said = input("").strip().lower()
    except EOFError:
        said = ""
    if said not in ("y", "yes"):
        raise Failed("nothing was changed")


def holders(config: Config, options: argparse.Namespace, groups: Iterable[str]) -> dict[str, Node]:
    """Which node holds each of `groups`, by what the nodes themselves say now.

    Raises:
        Usage: there is no such group.
        CannotTell: nobody who answers holds it, or more than one.
    """
    answers = everywhere(config, own("facts", options), timeout=QUICK)
    known = {answer.node: json.loads(answer.stdout)["groups"] for answer in answers if answer.ok}
    silent = "; ".join(f"{answer.node}: {answer.text()}" for answer in answers if not answer.ok)
    found = {}
    for group in groups:
        node(config, group)
        held = [name for name, own_groups in known.items() if own_groups[group]["held"]]
        if len(held) != 1:
            who = f"held by {' and '.join(held)}" if held else "held by no node that answers"
            raise CannotTell(f"{group} is {who}" + (f" ({silent})" if silent else ""))
        found[group] = config.nodes[held[0]]
    return found


def mirror(config: Config, on: Mapping[str, Node], *words: str) -> list[Answer]:
    """One pass of each service, on the node that is named for it; `words` are options of mirror_service."""
    services: dict[str, list[str]] = {}
    for service, holder in on.items():
        services.setdefault(holder.name, []).append(service)
    return remote.everywhere(
        lambda each: remote.ask(
            config, each, ("mirror_service", "--config", config.folder, *words, *services[each.name]), timeout=LONG
        ),
        [config.nodes[name] for name in services],
    )


def script(argv: Sequence[str], *, timeout: float) -> None:
    """Run another of clusterd's scripts on this node.

    Raises:
        Failed: it failed; its message.
    """
    result = run.run(("env", f"PATH={remote.local_path()}", *argv), timeout=timeout)
    sys.stdout.write(result.stdout)
    if not result.ok:
        raise Failed(Answer(model.hostname(), result.code, result.stdout, result.stderr).text() or result.why())


def install(config: Config, to: Node) -> Answer:
    """Carry the installed program to another node.

    Raises:
        Failed: it would not run there, or this one is not installed.
    """
    asked = remote.ask(config, to, parcel.QUESTION, timeout=QUICK, changes=False)
    if not asked.ok:
        return asked
    parcel.check(to.name, asked.stdout)
    packed = b"" if run.dry_run else parcel.pack()
    return remote.ask(config, to, parcel.unpack(), timeout=UNPACK, stdin=packed)
