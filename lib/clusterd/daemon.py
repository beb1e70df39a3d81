"""Starting rsync as the receiving daemon, so that it can touch the service's paths and nothing else.

Three things hold it to them, whatever the sender says: a filter of its own, made from this node's configuration; a
hook that lets through only what our own sender says; and a mount namespace in which no symlink is followed, so that
every name means what the filter takes it for.
"""

import os
import shlex
from collections.abc import Iterable

from clusterd import guards, lock, paths, rsync, state
from clusterd.errors import NotPermitted
from clusterd.lock import Lock
from clusterd.model import Service

LONGEST = 1 << 16
"""Bytes of rsync's log that are looked at."""


def prepare(service: Service, node: str, epoch: int, set_id: str) -> list[str]:
    """Write the daemon's settings and take what it must hold; returns what to execute.

    Args:
        service: what is received.
        node: who sends.
        epoch: at which it holds the group.
        set_id: the backup set of the pass, or rsync.PLAN for a dry run.

    Raises:
        NotPermitted: `node` is not the holder, or there is no such pass.
    """
    guards.admit_sender(service, node, epoch)
    if set_id == rsync.PLAN:
        return _alone(_settings(service, rsync.PLAN, None))
    from clusterd import backups, passes

    unfinished = passes.read(service.name).unfinished
    if not lock.held(f"receive-{service.name}") or not unfinished or unfinished.closed or unfinished.set != set_id:
        raise NotPermitted(f"{service.name}: no pass with the backup set {set_id} is being received")
    _lead()
    held = Lock(f"apply-{service.name}").acquire()
    assert held.fd is not None
    os.set_inheritable(held.fd, True)
    # A takeover writes its record first and then ends whoever holds the lock.
    guards.admit_sender(service, node, epoch)
    backup = os.path.realpath(backups.files_folder(set_id))
    return _alone(_settings(service, "apply", backup))


def _alone(settings: str) -> list[str]:
    """rsync in a mount namespace of its own."""
    made = ["unshare", "--mount", "--propagation", "private", "rsync", "--server", "--daemon"]
    return [*made, f"--config={settings}", "."]


def _lead() -> None:
    """Lead a process group of its own, so that all of rsync's processes can be ended."""
    try:
        os.setsid()
    except PermissionError:
        pass


def _settings(service: Service, kind: str, backup: str | None) -> str:
    """Write what the daemon reads; returns the file of its settings."""
    base = f"{paths.RSYNC}/{service.name}.{kind}"
    _keep(f"{base}.rules", rsync.daemon_rules(service, backup))
    _keep(f"{base}.hook", hook(service.name, backup, _mounts(service, backup)))
    _keep(f"{base}.conf", rsync.daemon_settings(service, f"{base}.rules", f"{base}.hook", f"{base}.log"))
    state.remove(f"{base}.log")
    return f"{base}.conf"


def complaints(service: str) -> str:
    """What the last rsync complained of that has changed files of the service here; "" if it did not."""
    try:
        with open(f"{paths.RSYNC}/{service}.apply.log", "rb") as file:
            return rsync.complaints(file.read(LONGEST)).decode("utf-8", "replace")
    except OSError:
        return ""


def hook(module: str, backup: str | None, mounts: Iterable[tuple[str, str]]) -> str:
    """The script that the daemon runs with the client's words in its environment, before the transfer.

    Only the words that our own sender's rsync says pass, in the one form in which each can be said: rsync takes
    options in any order, behind the path as well, the last one counts, and what follows an option may be its value.
    Without a backup folder only a dry run passes; with one, the options must name it. From then on no symlink is
    followed on `mounts` (mount point and options), in the mount namespace of this rsync alone: names mean what the
    filter rules take them for.
    """
    checks = f"""\
no() {{ echo "$1"; exit 1; }}
letters= backup= implied= path= state=options number=1
while eval "[ \\"\\${{RSYNC_ARG$number+there}}\\" ]"; do
  eval "word=\\$RSYNC_ARG$number"
  case $state in
    folder) backup=$backup/$word state=options ;;
    partial) [ "$word" = {paths.PARTIAL} ] || no "not with --partial-dir $word"; state=options ;;
    path) path=$path/$word ;;
    options) case $word in
      .) state=path ;;
      --backup-dir) state=folder ;;
      --partial-dir) state=partial ;;
      --no-implied-dirs) implied=no ;;
      {"|".join(f"--{word}" for word in rsync.WORDS)}) ;;
      {"|".join(f"--{word}=*" for word in rsync.VALUES)}|-@[0-9-]*) ;;
      --*) no "not with $word" ;;
      -*e.*) letters=$letters${{word%%e.*}} ;;
      -*e*) no "not with $word" ;;
      -?*) letters=$letters$word ;;
      *) no "not with $word" ;;
    esac ;;
  esac
  number=$((number + 1))
done
case $path in //|/.|/{shlex.quote(module)}/) ;; *) no 'only to the whole module' ;; esac
[ "$implied" = no ] || no 'only with --no-implied-dirs'
case $letters in *s*) no 'not with secluded arguments' ;; esac
"""
    if backup is None:
        checks += "case $letters in *n*) ;; *) no 'only a dry run' ;; esac\n"
    else:
        checks += f'[ "$backup" = /{shlex.quote(backup)} ] || no "not into this backup set"\n'
        checks += "case $letters in *b*) ;; *) no 'only with --backup' ;; esac\n"
    for point, options in mounts:
        checks += f"mount -o remount,bind,nosymfollow,{options} {shlex.quote(point)} || exit 1\n"
    return checks


def _mounts(service: Service, backup: str | None) -> list[tuple[str, str]]:
    """Every mount that the service's paths and the backup set are on, or that is below them; the root last.

    Where /bin or /lib64 is a symlink no program can be started any more once none is followed on the root.
    """
    from clusterd import mounts

    known = mounts.table()
    touched = {}
    for path in (*service.paths, *([f"{backup}/"] if backup else [])):
        for mount in (mounts.holding(path, known), *mounts.below(path, known)):
            touched[mount.point] = mount.options
    return sorted(touched.items(), reverse=True)


def _keep(path: str, text: str) -> None:
    """Have `text` in the file `path`; nearly always it is there already."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            if file.read() == text:
                return
    except FileNotFoundError:
        pass
    state.write_text(path, text, durable=False)
