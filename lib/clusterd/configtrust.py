"""Whom the configuration trusts: what root reads and the programs that it runs, which nobody else may have written.

A program that is not there is no matter of this, whoever needs it says so; but for the fence agent, which is needed
when it is too late to look for it.
"""

import os
import stat
from collections.abc import Iterator

from clusterd import model, paths
from clusterd.config import Identity, read_file, refuse_others
from clusterd.errors import ConfigError


def check(config: model.Config) -> tuple[list[str], dict[str, Identity]]:
    """Every file and program that others may change, a line each; and what was looked at, as it was."""
    problems: list[str] = []
    seen: dict[str, Identity] = {}
    known_hosts = paths.known_hosts(config.folder)
    if os.path.lexists(known_hosts):
        try:
            _, seen[known_hosts] = read_file(known_hosts)
        except ConfigError as error:
            problems.append(str(error))
    for where, name in programs(config):
        path = _find(name)
        if path is None or path in seen:
            continue
        try:
            seen |= _program(path)
        except ConfigError as error:
            problems.append(f"{config.folder}/{where}: {error}")
    if config.fence.agent != "none" and not any("[fence] agent" in problem for problem in problems):
        problems += _missing(config)
    return problems, seen


def _missing(config: model.Config) -> list[str]:
    """The fence agent must be there before it is needed."""
    from shutil import which

    from clusterd import run

    if which(config.fence.agent, path=run.environment()["PATH"]):
        return []
    allowed = "none, or a program that is installed on this node and executable"
    return [f"{config.folder}/cluster.conf: [fence] agent: found '{config.fence.agent}'; allowed: {allowed}"]


def programs(config: model.Config) -> Iterator[tuple[str, str]]:
    """What root runs because the configuration says so, with the file, section and key that say it."""
    if config.fence.agent != "none":
        yield "cluster.conf: [fence] agent", config.fence.agent
    for key, argv in (
        ("[mirror] remote_shell", config.mirror.remote_shell),
        ("[notify] command", config.notify.command),
    ):
        if argv:
            yield f"cluster.conf: {key}", argv[0]
    for service in config.services.values():
        file = f"services/{service.name}.conf"
        if service.unit.startswith("/"):
            yield f"{file}: [run] name", service.unit
        for section, key in (
            ("run", "start"),
            ("run", "stop"),
            ("run", "status"),
            ("mirror", "before"),
            ("mirror", "after"),
        ):
            argv = getattr(service, key)
            if argv:
                yield f"{file}: [{section}] {key}", argv[0]


def check_folders() -> None:
    """What this program keeps: nobody else may write there, and nobody may read the node's ssh key.

    Raises:
        ConfigError: somebody may.
    """
    for path, forbidden in ((paths.STATE, 0o022), (paths.RUN, 0o022), (paths.LOG, 0o022), (paths.SSH_KEY, 0o077)):
        try:
            found = os.stat(path)
        except FileNotFoundError:
            continue
        refuse_others(path, found, forbidden)


def _find(name: str) -> str | None:
    """The file of a program, by its name or path, as the runner would find it."""
    folders = f"{os.environ.get('PATH', '')}:{paths.PROGRAMS}".split(":")
    places = [name] if name.startswith("/") else [f"{folder}/{name}" for folder in folders if folder]
    return next(filter(os.path.isfile, places), None)


def _program(path: str) -> dict[str, Identity]:
    """A program that only root can have written, or put there; with the folders on the way to it.

    Raises:
        ConfigError: somebody else can.
    """
    found = os.stat(path)
    refuse_others(path, found)
    seen = {path: Identity.of(found)}
    for place, about in _way(path):
        try:
            refuse_others(place, about, 0 if _sticky(about) or stat.S_ISLNK(about.st_mode) else 0o022)
        except ConfigError as error:
            raise ConfigError(f"{error}: root runs {path}") from None
        if stat.S_ISDIR(about.st_mode):
            name = f"{place.rstrip('/')}/"
            seen[name] = Identity.at(name)
    return seen


def _way(path: str) -> Iterator[tuple[str, os.stat_result]]:
    """Every folder on the way to `path`, from / on and wherever symlinks lead: who may write there may have another
    program found. Of the symlinks those in sticky folders: there, each is its owner's to replace.
    """
    folder, about = "/", os.lstat("/")
    yield folder, about
    names = os.path.join(os.getcwd(), path).split("/")
    while names:
        place = os.path.normpath(os.path.join(folder, names.pop(0)))
        found = os.lstat(place)
        if stat.S_ISLNK(found.st_mode):
            if _sticky(about):
                yield place, found
            target = os.readlink(place)
            names = target.split("/") + names
            if target.startswith("/"):
                folder, about = "/", os.lstat("/")
        elif stat.S_ISDIR(found.st_mode) and place != folder:
            folder, about = place, found
            yield folder, about


def _sticky(about: os.stat_result) -> bool:
    """A folder in which nobody may replace what is another's."""
    return bool(stat.S_ISDIR(about.st_mode) and about.st_mode & stat.S_ISVTX)
