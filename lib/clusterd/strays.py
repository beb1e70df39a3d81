"""No silent winner: a person is told of files that only a returning node had, and of those that both had changed.

What a whole pass has found is told by its sender; what one that was cut has taken away already, by the receiver. And
so is what the sender did not live to tell: the receiver keeps a note of it until it hears that it is told.
"""

from collections.abc import Sequence

from clusterd import log, paths, state
from clusterd.errors import Failed
from clusterd.model import Config


def tell(
    config: Config,
    service: str,
    node: str,
    kept: str,
    unmirrored: Sequence[str],
    both: Sequence[str],
    attributes: Sequence[str] = (),
) -> None:
    """The notice: `unmirrored` had been written on `node` only, `both` are those of them that were changed elsewhere
    as well, `attributes` those of which nothing else was changed; all of them are in the backup set `kept` there.
    """
    from clusterd import notify

    text = (
        f"{service}: {len(unmirrored)} files had been written on {node} and never mirrored, "
        f"{len(both)} of them changed on both nodes"
    )
    did = f"They are kept on {node}, in the backup set {kept}."
    if attributes:
        text += f"; of {len(attributes)} only owner, mode or other attributes had been changed"
        did += " What owner, mode and other attributes had been is in it, too, and restore_backup gives them again."
    notify.tell_detached(
        config,
        "unmirrored-found",
        text,
        did=did,
        subject=f"{service} {kept}",  # the next set is news, too
        service=service,
        peer=node,
        set=kept,
        files=list(unmirrored),
        both=list(both),
    )


def tell_kept(config: Config, service: str, kept: str) -> None:
    """The same of what is in a set of this node whose pass was cut; the pass after it will not find that any more."""
    if not kept:
        return
    from clusterd import backups, manifest

    try:
        made = backups.load(kept)
        marked = [each for each in backups.entries(kept) if each.unmirrored or each.both]
    except Failed:
        return  # there was nothing in it, and it is gone
    if marked:
        unmirrored = [each.path for each in marked if each.unmirrored]
        both = [each.path for each in marked if each.both]
        attributes = [each.path for each in marked if each.what == manifest.ATTRIBUTES]
        tell(config, service, made.receiver, kept, unmirrored, both, attributes)


def note(service: str, kept: str) -> None:
    """Remember, over a crash, that a person has yet to be told of what is in that set of this node."""
    state.write(_note(service), {"set": kept})


def forget(service: str) -> None:
    """It is told, or there was nothing. Where the disk does not take that, it is told once more."""
    try:
        state.remove(_note(service))
    except OSError as error:
        log.debug(f"{_note(service)}: {error.strerror}")


def recall(config: Config, service: str) -> None:
    """Tell what nobody has lived to tell. A note that is damaged is none: purge_backups reminds of the set."""
    try:
        noted = state.read(_note(service))
    except (Failed, OSError) as error:
        log.debug(str(error))
        return
    if noted:
        tell_kept(config, service, str(noted.get("set", "")))
        forget(service)


def _note(service: str) -> str:
    return f"{paths.STRAYS}/{service}.json"
