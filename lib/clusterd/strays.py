"""No silent winner: a person is told of files that only a returning node had, and of those that both had changed.

What a whole pass has found is told by its sender; what one that was cut has taken away already, by the receiver.
"""

from collections.abc import Sequence

from clusterd import backups
from clusterd.errors import Failed
from clusterd.model import Config


def tell(config: Config, service: str, node: str, kept: str, unmirrored: Sequence[str], both: Sequence[str]) -> None:
    """The notice: `unmirrored` had been written on `node` only, `both` are those of them that were changed elsewhere
    as well; all of them are in the backup set `kept` there.
    """
    from clusterd import notify

    text = (
        f"{service}: {len(unmirrored)} files had been written on {node} and never mirrored, "
        f"{len(both)} of them changed on both nodes"
    )
    notify.tell_detached(
        config,
        "unmirrored-found",
        text,
        did=f"They are kept on {node}, in the backup set {kept}.",
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
    try:
        made = backups.load(kept)
        marked = [each for each in backups.entries(kept) if each.unmirrored or each.both]
    except Failed:
        return  # there was nothing in it, and it is gone
    if marked:
        paths = [each.path for each in marked if each.unmirrored]
        tell(config, service, made.receiver, kept, paths, [each.path for each in marked if each.both])
