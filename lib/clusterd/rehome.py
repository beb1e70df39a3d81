"""A service that has got another home: the epochs in the record of its passes are those of the group that it was in.

Two groups' epochs say nothing about each other. So they are dropped, and who has the latest files is said by the old
ones alone: whoever has been the holder since the last pass to there, with the higher epoch if both have. The sender
decides that; whatever the receiver has and nobody else is listed, as on every way back.
"""

from typing import Any

from clusterd import passes, view
from clusterd.errors import Failed, NotPermitted
from clusterd.model import Service
from clusterd.passes import Record


def sending(record: Record, service: Service, epoch: int) -> Record:
    """The record, for a pass from here at `epoch` of the service's home.

    Raises:
        NotPermitted: another node has the latest files.
    """
    if not _changed(record, service):
        return record._replace(home=service.home)
    if not _latest(record):
        raise NotPermitted(
            f"{service.name}: its home was {record.home} and is {service.home} now, and the latest files are not of "
            f"this node: no pass. Set home = {record.home} again, cluster push, and first move the group {record.home} "
            "to here"
        )
    made = _forgotten(record, service)
    return made._replace(received=None, held=made.held and made.held._replace(epoch=epoch))


def check_receiver(record: Record, service: Service, node: str, said: dict[str, Any]) -> None:
    """Whether `node`, which answers so, may be sent to, by the record as it was.

    Raises:
        Failed: it has another configuration, or will soon.
        NotPermitted: it has later files.
    """
    if not _changed(record, service):
        return
    now = view.read()
    if now and node in now.peers and not now.peers[node].digest_same:
        # It would take the epoch of the one group for that of the other.
        raise Failed(f"{service.name}: its home has changed, and {node} has another configuration: run cluster push")
    mine, theirs = record.last_held(), said.get("held")
    if said.get("home") == record.home and theirs is not None and (mine is None or int(theirs) > mine):
        raise NotPermitted(f"{service.name}: its home has changed, and the latest files are those of {node}: no pass")


def receiving(record: Record, service: Service, epoch: int) -> Record:
    """The record, for a pass to here at `epoch` of the service's home; if this node has been the holder since the last
    one, it is a return.
    """
    if not _changed(record, service):
        return record._replace(home=service.home)
    made = _forgotten(record, service)
    if _latest(record):
        return made._replace(received=None)
    return made._replace(received=made.received and made.received._replace(epoch=epoch))


def taking(service: Service) -> None:
    """This node takes the service's home over, and with it the service: whatever files it has."""
    record = passes.read(service.name)
    if _changed(record, service):
        passes.write(_forgotten(record, service))


def _changed(record: Record, service: Service) -> bool:
    return record.home not in ("", service.home)


def _latest(record: Record) -> bool:
    """Whether this node has been the holder since the last pass to here."""
    try:
        return record.generation() is None
    except Failed:
        return False


def _forgotten(record: Record, service: Service) -> Record:
    sent = {name: done._replace(epoch=0) for name, done in record.sent.items()}
    received = record.received and record.received._replace(epoch=0)
    held = record.held and record.held._replace(epoch=0, first=0)
    return record._replace(home=service.home, sent=sent, received=received, held=held, returned=None)
