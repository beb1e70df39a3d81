"""docs/configuration.md, made from the configspecs: ``python3 -m clusterd.configdoc >docs/configuration.md``."""

import re
import sys
from collections.abc import Iterator, Sequence

from configobj import ConfigObj, Section

from clusterd import configspec, configtypes

INTRODUCTION = """\
# Configuration

<!-- Made from lib/clusterd/configspec.py by `python3 -m clusterd.configdoc`; change it there. -->

The folder `/etc/cluster.d` (or `--config DIR`, or `$CLUSTERD_CONF`) is the same on every node:

| file | what |
| --- | --- |
| [`cluster.conf`](#clusterconf) | the cluster |
| [`NODE.conf`](#nodeconf) | one for each node, named after it: its NICs and addresses |
| [`services/NAME.conf`](#servicesnameconf) | one for each service: its home, how it runs, what is mirrored |
| `key` | the shared secret of the heartbeats: at least 16 bytes, mode 0600; [another one](security.md) |
| `known_hosts` | the nodes' ssh host keys |

`conf/` has all `.conf` files for a pair, commented, to begin with; `key` and `known_hosts` are made in steps 6 and 7
of INSTALL. Other files are left alone.

**Syntax.** `key = value`, `[section]`, `[[section within it]]`; `#` begins a comment, also behind a value. Commas make
a list. A value that contains a comma or a `#` stands in quotes. A command is a list of words, `/usr/bin/thing, --now`;
no shell sees it. Keys before the first `[section]` belong to the file as a whole. The text is UTF-8.

**Durations** are a number and a unit: `100 ms`, `1.5 seconds`, `5 minutes`, `3 hours`, `2 days`. **Ages** count in the
calendar: `30 days`, `2 weeks`, `1 month`, `1 year`.

**Errors.** Whatever is wrong is refused, with exit code 78 and one line: file, section, key, what was found, what is
allowed. An unknown key is an error, and so is one that stands twice. No script does anything with a configuration that
is wrong.

**Who may write.** The folder and its files belong to root and nobody else can write them (`chmod go-w`); else they are
refused: who writes them decides what root runs.

**The cache.** The checked result is kept in `/run/clusterd/config.json`, for root only, together with inode, size and
times of every file. It is used only while all of them are as they were; removing it does no harm.

**What must agree**, beyond each value by itself:

- There are at least two nodes, each has its file, and there is no file for any other. `redundant_nic`: exactly two.
- `isolated_after` is longer than `interval`; `dead_after` is at least `isolated_after + interval`.
- All addresses and MAC addresses differ. The LAN addresses of all nodes lie in one subnet (of each address family); so
  do those of every network between the nodes; no two of these subnets overlap. All nodes have the same `[networks]`.
- Reference hosts and gateways are on the LAN, and are no nodes (an IPv6 gateway may be link-local).
- A node's NICs differ. `mac` and `[redundant]` are there if the method needs them.
- A service's home is a node. `[run]` has the keys that its kind needs, and no others. No unit belongs to two services.
- No mirrored path lies inside another one, of any service, or in what is a node's own.
"""

FILES = (
    (
        "cluster.conf",
        configspec.CLUSTER,
        "What all nodes share. `name`, `nodes` and the reference hosts must be given; the rest has a default.",
    ),
    (
        "NODE.conf",
        configspec.NODE,
        "One node. The file's name is the node's hostname, without its domain.",
    ),
    (
        "services/NAME.conf",
        configspec.SERVICE,
        "One service. The file's name is the service's: up to 64 letters, digits and `_ @ + -`.",
    ),
)
SHOWN = {"": "empty", "None": "none", "list()": "empty"}
"""Defaults that are shown in words."""

_DEFAULT = re.compile(r"default=(.*)\)$")


def main() -> int:
    """Print the page."""
    sys.stdout.write(page())
    return 0


def page() -> str:
    """The whole page, as Markdown."""
    parts = [INTRODUCTION]
    for name, spec, text in FILES:
        parts.append(f"## {name}\n\n{text}\n")
        parts += _section(parse(spec), ())
    return "\n".join(parts)


def parse(spec: str) -> ConfigObj:
    """A configspec with its comments."""
    return ConfigObj(spec.strip().split("\n"), _inspec=True, interpolation=False, list_values=False)


def default(check: str) -> str | None:
    """The default in a check, as one would write it; None if the key must be given."""
    match = _DEFAULT.search(check)
    if not match:
        return None
    return re.sub(r"^list\((.+)\)$", r"\1", match[1]).strip("'")


def about(section: Section, name: str) -> tuple[str, str]:
    """The comment of a key or section: what it means, and what goes wrong with a bad value."""
    main = section.main
    first = section is main and name == (*main.scalars, *main.sections)[0]
    lines = [line.strip()[2:] for line in (main.initial_comment if first else section.comments[name]) if line.strip()]
    meaning, _, wrong = " ".join(lines).partition("! ")
    return meaning.strip(), wrong.strip()


def _section(section: Section, path: Sequence[str]) -> Iterator[str]:
    for name in section.scalars:
        yield _key(section, name, path)
    for name in section.sections:
        below = (*path, name)
        yield f"### {_title(below)}\n"
        meaning = about(section, name)[0]
        if meaning:
            yield f"{meaning}\n"
        yield from _section(section[name], below)


def _key(section: Section, name: str, path: Sequence[str]) -> str:
    check = section[name]
    if name == "__many__":
        return f"**`{_title(path)}` any other key**: {configtypes.allowed(check)}.\n"
    meaning, wrong = about(section, name)
    given = default(check)
    lines = [
        f"#### `{f'{_title(path)} ' if path else ''}{name}`\n",
        f"{meaning}\n",
        "- Default: " + ("must be given" if given is None else SHOWN.get(given, f"`{given}`")),
        f"- Allowed: {configtypes.allowed(check)}",
        f"- What goes wrong: {wrong}\n",
    ]
    return "\n".join(lines)


def _title(path: Sequence[str]) -> str:
    """``[section]``, or ``[[NAME]]`` for one that may have any name."""
    return " ".join("[" * depth + name.replace("__many__", "NAME") + "]" * depth for depth, name in enumerate(path, 1))


if __name__ == "__main__":
    sys.exit(main())
