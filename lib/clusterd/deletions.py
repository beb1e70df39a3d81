"""What a pass would delete, held against what is allowed: all of it before the first file is touched."""

from typing import NamedTuple

from clusterd import guards, rsync
from clusterd.errors import Failed
from clusterd.model import Service
from clusterd.sender import Control


class Plan(NamedTuple):
    """What a pass would do."""

    output: rsync.Output
    limit: int
    """So many deletions are allowed."""


def hold(control: Control, service: Service, output: rsync.Output, entries: int | None, by_hand: str | None) -> Plan:
    """Hold the deletions against the budget.

    What only the receiver has below a path that no complete pass has mirrored is nothing that was deleted here: it
    stays, unless a person allows its deletion.

    Args:
        control: the conversation with the receiver, which has said hello.
        service: what is mirrored.
        output: the plan.
        entries: last seen, by the sender's record.
        by_hand: the budget that a person has given, in place of the service's.

    Raises:
        Failed: there are more.
    """
    first, returns = control.said["first"], control.said["returns"]
    if output.items and (returns or (first and by_hand)):
        control.look()
    known = control.count if first else (entries or control.said["entries"] or 0)
    limit = 0 if first and not by_hand else guards.budget(by_hand or service.max_delete, known)
    deleted = [item.path for item in output.deleted]
    new = tuple(path for path in service.paths if path.endswith("/") and path in control.said.get("new", ()))
    foreign = [path for path in deleted if path.startswith(new)]
    if foreign and not by_hand:
        raise Failed(_first(service.name, control.node.name, len(foreign), len(deleted), f" of {', '.join(new)}"))
    lost = [path for path in deleted if path in control.unmirrored]
    # On the way back there is one budget for what was deleted here, and one for what was only ever there.
    if max(len(deleted) - len(lost), len(lost)) > limit:
        if first:
            raise Failed(_first(service.name, control.node.name, len(deleted), len(deleted)))
        raise Failed(_too_many(service.name, control.node.name, len(deleted), len(lost), limit, known))
    return Plan(output, limit + (limit if lost else 0))


def _first(name: str, node: str, foreign: int, deleted: int, where: str = "") -> str:
    return (
        f"{name}: the first pass{where} would delete {foreign} files that are on {node} and not here; nothing was "
        f"changed. See which: mirror_service {name} --dry-run --max-delete {deleted}; if they may go: "
        f"{_do(name, deleted)}"
    )


def _too_many(name: str, node: str, deleted: int, lost: int, limit: int, known: int) -> str:
    written = f", {lost} of them written there and never mirrored" if lost else ""
    return (
        f"{name}: {deleted} files would be deleted on {node}{written}; allowed are {limit} (max_delete, of "
        f"{known} last seen); nothing was changed. They would be kept in a backup set; if they may go: "
        f"{_do(name, deleted)}"
    )


def _do(name: str, deleted: int) -> str:
    return f"mirror_service {name} --max-delete {deleted}"
