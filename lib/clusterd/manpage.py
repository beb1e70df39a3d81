"""Man pages: of the commands from their parsers, of the configuration from its specification.

What ``--help`` says is what the page says, and every key is in cluster.conf(5) with its default.
"""

import argparse
import importlib
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

from clusterd import __version__

COMMANDS = (
    "check_peer",
    "watchdog",
    "takeover",
    "release",
    "mirror_service",
    "restore_backup",
    "purge_backups",
    "timesync",
    "cluster",
    "peer_gate",
)
"""The scripts, in the order of the manual."""

EXIT_STATUS = (
    ("0", "Done."),
    ("1", "Tried and failed, or a definite no."),
    ("2", "The command line is wrong."),
    ("3", "It cannot be told: evidence is missing or contradicts itself; nothing was moved."),
    ("75", "Another instance holds the lock."),
    ("77", "Not permitted."),
    ("78", "The configuration is wrong; the message names file, section, key, what was found and what is allowed."),
)
PLUGIN_STATUS = (
    ("0", "OK."),
    ("1", "WARNING."),
    ("2", "CRITICAL."),
    ("3", "UNKNOWN."),
)
"""check_peer is a monitoring plugin, and uses the numbers as such plugins do."""

FILES = (
    ("/etc/cluster.d/", "The configuration, see cluster.conf(5)."),
    ("/var/lib/clusterd/", "What must survive a reboot: epochs, the standby lock, passes, backup sets."),
    ("/run/clusterd/", "Locks, and the watchdog's latest view."),
    ("/var/log/clusterd/events.jsonl", "What happened, one JSON object a line."),
)


def parser(command: str) -> argparse.ArgumentParser:
    """The parser of `command`, from the module that does its work."""
    made: argparse.ArgumentParser = importlib.import_module(f"clusterd.commands.{command}").parser()
    return made


def page(made: argparse.ArgumentParser, others: tuple[str, ...] = COMMANDS) -> str:
    """The man page of the program that `made` parses for, in man(7) macros."""
    name = made.prog
    about = made.description or ""
    lines = [
        f'.TH {name.upper()} 8 "" "clusterd {__version__}" "clusterd"',
        ".SH NAME",
        f"{name} \\- {_escape(_summary(about))}",
        ".SH SYNOPSIS",
        *_synopsis(made),
        ".SH DESCRIPTION",
        *_paragraphs(about),
        *_actions(made),
    ]
    if made.epilog:
        lines += [".SH NOTES", *_paragraphs(made.epilog)]
    status = PLUGIN_STATUS if name == "check_peer" else EXIT_STATUS
    lines += [".SH EXIT STATUS", *_list(status), ".SH FILES", *_list(FILES)]
    see = [f".BR {other} (8)" for other in others if other != name]
    lines += [".SH SEE ALSO", *(f"{line} ," for line in see), ".BR cluster.conf (5)"]
    return "\n".join(lines) + "\n"


def configuration() -> str:
    """cluster.conf(5): every key of every file, with its default and what is allowed."""
    from clusterd import configdoc

    lines = [
        f'.TH CLUSTER.CONF 5 "" "clusterd {__version__}" "clusterd"',
        ".SH NAME",
        "cluster.conf \\- configuration of clusterd: the cluster, its nodes and its services",
        ".SH DESCRIPTION",
        *_paragraphs(configdoc.INTRODUCTION.partition("**Syntax.** ")[2].partition("\n\n**Errors.**")[0]),
    ]
    for name, spec, text in configdoc.FILES:
        lines += [f".SH /etc/cluster.d/{_escape(name)}", *_paragraphs(text)]
        lines += _keys(configdoc.parse(spec), "")
    lines += [".SH FILES", *_list(FILES), ".SH SEE ALSO", ".BR check_peer (8),", ".BR cluster (8)"]
    return "\n".join(lines).replace("**", "").replace("`", "") + "\n"


def write(folder: str) -> list[str]:
    """Write every page below `folder` (a man tree); return their paths."""
    pages = {f"{folder}/man5/cluster.conf.5": configuration()}
    for command in COMMANDS:
        pages[f"{folder}/man8/{command}.8"] = page(parser(command))
    for path, text in pages.items():
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    return list(pages)


def _keys(section: Any, title: str) -> Iterator[str]:
    """The keys of one section of a specification, then its subsections."""
    from clusterd import configdoc, configtypes

    for name in section.scalars:
        if name == "__many__":
            continue
        meaning, wrong = configdoc.about(section, name)
        default = configdoc.default(section[name])
        given = "must be given" if default is None else configdoc.SHOWN.get(default, default)
        yield from (".TP", f".B {_escape(f'{title} {name}'.strip())}", _escape(meaning), ".br")
        yield from (
            _escape(f"Default: {given}. Allowed: {configtypes.allowed(section[name])}."),
            ".br",
            _escape(f"What goes wrong: {wrong}"),
        )
    for name in section.sections:
        below = f"{title} [{name.replace('__many__', 'NAME')}]".strip()
        yield from (f".SS {_escape(below)}", _escape(configdoc.about(section, name)[0]) or "\\&")
        yield from _keys(section[name], below)


def _summary(about: str) -> str:
    """The beginning of a description, as whatis(1) wants it: a few words, no capital, no full stop."""
    words = re.split(r"[.:;]", " ".join(about.split()), maxsplit=1)[0]
    return words[:1].lower() + words[1:]


def _synopsis(made: argparse.ArgumentParser) -> list[str]:
    """The usage line, as argparse words it, on one line that the reader's terminal breaks."""
    words = made.format_usage().split()[1:]
    return [f".B {_escape(words[0])}", _escape(" ".join(words[1:]))]


def _actions(made: argparse.ArgumentParser) -> Iterator[str]:
    """Arguments and options by group, and each sub-command with its own."""
    for group in made._action_groups:
        shown = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
        if not shown:
            continue
        yield f".SH {(group.title or 'options').upper()}"
        for action in shown:
            if isinstance(action, argparse._SubParsersAction):
                yield from _commands(action)
            else:
                yield from _action(made, action)


def _action(made: argparse.ArgumentParser, action: argparse.Action) -> Iterator[str]:
    formatter = made._get_formatter()
    yield ".TP"
    yield f".B {_escape(formatter._format_action_invocation(action))}"
    yield _escape(formatter._expand_help(action)) if action.help else "\\&"


def _commands(action: "argparse._SubParsersAction[argparse.ArgumentParser]") -> Iterator[str]:
    helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
    for name, sub in action.choices.items():
        usage = " ".join(sub.format_usage().split()[1:]).removeprefix(f"{sub.prog} ").replace("[-h]", "").strip()
        if name not in helps:
            continue
        yield ".TP"
        yield f".B {_escape(f'{name} {usage}'.strip())}"
        yield _escape(helps[name] or sub.description or "") or "\\&"
        own = [entry for entry in sub._actions if entry.help not in (None, argparse.SUPPRESS) and entry.dest != "help"]
        if own:
            yield ".RS"
            for entry in own:
                yield from _action(sub, entry)
            yield ".RE"


def _paragraphs(text: str) -> Iterator[str]:
    """Text as it is in the parser: blank lines part paragraphs, indented lines are kept as they are."""
    for block in text.strip("\n").split("\n\n"):
        if block.startswith((" ", "\t")):
            yield from (".PP", ".nf", *(_escape(line) for line in block.splitlines()), ".fi")
        else:
            yield from (".PP", *(_escape(line) for line in block.splitlines()))


def _list(entries: tuple[tuple[str, str], ...]) -> Iterator[str]:
    for term, text in entries:
        yield from (".TP", f".B {_escape(term)}", _escape(text))


def _escape(text: str) -> str:
    """Text that troff prints as it is."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text


if __name__ == "__main__":
    write(sys.argv[1])
