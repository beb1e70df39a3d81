"""Read the configuration from its files: ConfigObj parses, configspecs check each value, configcheck the whole."""

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Any

from configobj import ConfigObj, ConfigObjError, DuplicateError, Section, get_extra_values

from clusterd import configarbiter, configcheck, configforms, configspec, configtrust, configtypes, model
from clusterd.config import CLUSTER_FILE, SERVICES, Identity, read_file, refuse_others
from clusterd.errors import ConfigError

SUFFIX = ".conf"
"""Files without it (the key, known_hosts, a sentinel, an editor's backups) are none of the configuration."""
CLUSTER = CLUSTER_FILE.removesuffix(SUFFIX)
NETWORKS = "networks"
MANY = "__many__"
"""ConfigObj's name for whatever else stands in a section."""


def read(folder: str) -> tuple[model.Config, dict[str, Identity]]:
    """The configuration in `folder`, and the identity of every file and folder that it was read from.

    Raises:
        ConfigError: the first problem.
    """
    reader = Reader(folder)
    config = reader.read()
    if config is None or reader.problems:
        raise ConfigError(reader.problems[0])
    return config, reader.seen


def problems(folder: str) -> list[str]:
    """Every problem of the configuration in `folder`; those between files only when each file is right."""
    reader = Reader(folder)
    reader.read()
    return reader.problems


class Reader:
    """One reading of a configuration folder."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.problems: list[str] = []
        self.seen: dict[str, Identity] = {}
        self.contents: dict[str, bytes] = {}

    def read(self) -> model.Config | None:
        """The whole configuration; None if some file has a problem, which `problems` then tells."""
        names = self._list("", required=True)
        if names is None:
            return None
        cluster = self._file(CLUSTER_FILE, configspec.CLUSTER)
        nodes = self._nodes(cluster["nodes"] if cluster else [name for name in names if name != CLUSTER], names)
        services = {
            name: self._file(f"{SERVICES}/{name}{SUFFIX}", configspec.SERVICE)
            for name in self._list(SERVICES, required=False) or ()
            if self._is_service(name)
        }
        if self.problems or cluster is None:
            return None
        return self._checked(cluster, nodes, services)

    def _checked(self, cluster: Any, nodes: dict[str, Any], services: dict[str, Any]) -> model.Config | None:
        config = _config(self.folder, cluster, nodes, services, self._digest())
        for name, parsed in services.items():
            self.problems += configcheck.schedule(f"{self.folder}/{SERVICES}/{name}{SUFFIX}", parsed["mirror"])
        self.problems += configcheck.check(config, configarbiter.faults(config))
        problems, seen = configtrust.check(config)
        self.problems += problems
        self.seen |= seen
        return None if self.problems else config

    def _nodes(self, wanted: Sequence[str], names: list[str]) -> dict[str, Any]:
        """The nodes' files: one for each that cluster.conf names, and no other."""
        for name in names:
            if name not in (*wanted, CLUSTER):
                allowed = f"cluster.conf and the nodes' files, one of each: {', '.join(wanted)}"
                self._say(f"{name}{SUFFIX}", f"found a file for no node; allowed: {allowed}")
        return {name: self._file(f"{name}{SUFFIX}", configspec.NODE) for name in wanted}

    def _is_service(self, name: str) -> bool:
        good = configforms.is_service(name)
        if not good:
            allowed = "up to 64 letters, digits and _ @ + -, then .conf"
            self._say(f"{SERVICES}/{name}{SUFFIX}", f"found this name; allowed: {allowed}")
        return good

    def _list(self, name: str, *, required: bool) -> list[str] | None:
        """The names of the configuration files in a folder, without .conf; None if there is no such folder."""
        path = f"{self.folder}/{name}".rstrip("/")
        try:
            found = os.lstat(path)
            if stat.S_ISLNK(found.st_mode):
                raise ConfigError(f"{path}: found a symlink; allowed: the folder itself (say so with --config)")
            refuse_others(path, found)
            self.seen[path] = Identity.of(found)
            entries = sorted(os.listdir(path))
        except ConfigError as error:
            self.problems.append(str(error))
            return None
        except FileNotFoundError:
            if required:
                self.problems.append(f"{path}: no such folder; --config or CLUSTERD_CONF says where it is")
            return None
        except OSError as error:
            self.problems.append(f"{path}: cannot be read: {error.strerror}")
            return None
        return [entry[: -len(SUFFIX)] for entry in entries if entry.endswith(SUFFIX) and entry[0] != "."]

    def _file(self, name: str, spec: str) -> Any:
        """One file, checked and with its defaults; None if it has problems."""
        path = f"{self.folder}/{name}"
        try:
            content, self.seen[path] = read_file(path)
        except ConfigError as error:
            self.problems.append(str(error))
            return None
        self.contents[name] = content
        before = len(self.problems)
        try:
            parsed = ConfigObj(
                content.decode("utf-8-sig").split("\n"),
                configspec=spec.strip().split("\n"),
                interpolation=False,
                list_values=True,
                file_error=True,
            )
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            self._say(name, f"line {line}: found a byte that is not UTF-8; allowed: UTF-8 text")
            return None
        except ConfigObjError as error:
            for each in getattr(error, "errors", [error]):
                self._say(name, _syntax(each))
            return None
        for section, key, text in _faults(parsed):
            self._say(name, configcheck.where(section, key) + text)
        return parsed if len(self.problems) == before else None

    def _digest(self) -> str:
        """SHA-256 over the files' names and contents, in the order of the names."""
        made = hashlib.sha256()
        for name, content in sorted(self.contents.items()):
            made.update(f"{name}\0{len(content)}\0".encode())
            made.update(content)
        return made.hexdigest()

    def _say(self, name: str, text: str) -> None:
        self.problems.append(f"{self.folder}/{name}: {text}")


def _syntax(error: ConfigObjError) -> str:
    """ConfigObj's complaint about a line, as one of ours."""
    line = configcheck.quoted(error.line.strip())
    if isinstance(error, DuplicateError):
        return f"line {error.line_number}: found {line} a second time; allowed: each key and section once"
    return f"line {error.line_number}: found {line}; allowed: [section], key = value, # comment; quote odd values"


def _faults(parsed: ConfigObj) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """All that the configspec finds wrong in one file: sections, key, and the rest of the line."""
    results = parsed.validate(configtypes.validator(), preserve_errors=True)
    yield from _unknown(parsed)
    yield from _wrong(parsed, parsed.configspec, results, ())


def _wrong(
    section: Section, spec: Section, results: Any, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """The values that their checks refused, and the keys that are missing, in `section` and below.

    ``results`` is what validate() returned for the section: True, False (all is missing), or one of these, or the
    error, for each entry.
    """
    if results is True:
        return
    for name in spec.scalars:
        result = results.get(name) if isinstance(results, dict) else False
        if name in section.sections:
            yield path, name, "found a section; allowed: a key"
        elif result is False and name not in (*section.scalars, MANY) and "default=" not in spec[name]:
            yield path, name, f"missing; allowed: {configtypes.allowed(spec[name])}"
    for name in section.scalars:
        result = results.get(name) if isinstance(results, dict) else None
        if isinstance(result, configtypes.Refused):
            found = section[name] if result.found is None else result.found
            yield path, name, f"found {configcheck.quoted(found)}; allowed: {result.allowed}"
        elif name in spec.sections:
            yield path, name, "found a key; allowed: a section"
    for name in section.sections:
        if name in spec.sections or MANY in spec.sections:
            below = spec[name] if name in spec.sections else spec[MANY]
            result = results.get(name) if isinstance(results, dict) else False
            yield from _wrong(section[name], below, result, (*path, name))


def _unknown(parsed: ConfigObj) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Keys and sections that no configspec has, with the one that was probably meant."""
    from difflib import get_close_matches

    extra = list(get_extra_values(parsed))
    if "DEFAULT" in parsed.sections:
        extra.append(((), "DEFAULT"))  # validate() passes over it
    for path, name in extra:
        spec = _find(parsed.configspec, path)
        if name not in _find(parsed, path).sections:
            homes = [section for section, key in _homes(parsed.configspec) if key == name]
            close = get_close_matches(name, spec.scalars, n=1)
            if homes:
                there = f"in [{homes[0]}]" if homes[0] else "at the top of the file, before the first section"
                hint = f"it belongs {there}"
            elif close:
                hint = f"did you mean {close[0]}?"
            else:
                hint = f"allowed: {', '.join(spec.scalars) or 'sections only, [[NAME]]'}"
            yield path, name, f"unknown key; {hint}"
        elif name not in spec.scalars:
            known = [f"[{each}]" for each in spec.sections if each != MANY]
            close = get_close_matches(name, spec.sections, n=1)
            hint = f"did you mean [{close[0]}]?" if close else f"allowed: {', '.join(known) or 'no section here'}"
            yield (*path, name), "", f"unknown section; {hint}"


def _homes(spec: ConfigObj) -> Iterator[tuple[str, str]]:
    """Each key of a file with the section that it belongs to."""
    yield from (("", key) for key in spec.scalars)
    for name in spec.sections:
        yield from ((name, key) for key in spec[name].scalars)


def _find(section: Section, path: tuple[str, ...]) -> Section:
    for name in path:
        section = section[name] if name in section else section[MANY]
    return section


def _config(folder: str, cluster: Any, nodes: dict[str, Any], services: dict[str, Any], digest: str) -> model.Config:
    """The records that the program uses, from the parsed files."""
    failover = model.Failover(**cluster["failover"])
    fence = dict(cluster["fence"])
    notify = dict(cluster["notify"])
    mirror = dict(cluster["mirror"])
    max_delete = mirror.pop("max_delete")
    return model.Config(
        folder=folder,
        name=cluster["name"],
        nodes={name: _node(name, parsed, failover.method) for name, parsed in nodes.items()},
        heartbeat=model.Heartbeat(**cluster["heartbeat"]),
        reference=cluster["reference"]["hosts"],
        failover=failover,
        fence=model.Fence(
            agent=fence.pop("agent"),
            action=fence.pop("action"),
            timeout=fence.pop("timeout"),
            options=tuple(fence.items()),
        ),
        arbiter=model.Arbiter(**cluster["arbiter"]),
        mirror=model.Mirror(**mirror),
        keep=cluster["backups"]["keep"],
        timesync=model.Timesync(**cluster["timesync"]),
        notify=model.Notify(sender=notify.pop("from"), **notify),
        services={name: _service(name, parsed, max_delete) for name, parsed in services.items()},
        digest=digest,
    )


def _node(name: str, parsed: Any, method: str) -> model.Node:
    main, fence = parsed["main"], dict(parsed["fence"])
    further = ((each, parsed[NETWORKS][each]) for each in parsed[NETWORKS].sections)
    return model.Node(
        name=name,
        interface=main["interface"],
        addresses=main["address"],
        mac=main["mac"] if method != "address" else None,
        admin_addresses=main["admin_address"],
        gateway=main["gateway"],
        driver=parsed["driver"],
        networks=tuple(
            model.Network(each, section["interface"], section["address"])
            for each, section in (("heartbeat", parsed["heartbeat"]), *further)
        ),
        redundant=parsed["redundant"]["interface"] if method == "redundant_nic" else None,
        fence_delay=fence.pop("delay"),
        fence=tuple(fence.items()),
        watchdog_device=parsed["watchdog"]["device"],
        watchdog_timeout=parsed["watchdog"]["timeout"],
    )


def _service(name: str, parsed: Any, max_delete: str) -> model.Service:
    run, mirror = dict(parsed["run"]), dict(parsed["mirror"])
    every, own = mirror.pop("every"), mirror.pop("max_delete")
    return model.Service(
        name=name,
        home=parsed["home"],
        order=parsed["order"],
        unit=run.pop("name"),
        every=None if every == "never" else every,
        max_delete=own or max_delete,
        **run,
        **mirror,
    )
