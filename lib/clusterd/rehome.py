"""A service that has got another home: the epochs in the record of its passes are those of the group that it was in.

Two groups' epochs say nothing about each other. So they are dropped, and who has the latest files is said by the record
alone: whoever has been the holder since the last pass to there.
"""

from clusterd import passes
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
        raise NotPermitted(_refused(record, service, "not of this node"))
    made = _forgotten(record, service)
    return made._replace(received=None, held=made.held and made.held._replace(epoch=epoch))


def receiving(record: Record, service: Service, epoch: int, node: str) -> Record:
    """The record, for a pass to here from `node`, at `epoch` of the service's home.

    Raises:
        NotPermitted: this node has the latest files, or has them from another one.
    """
    if not _changed(record, service):
        return record._replace(home=service.home)
    if _latest(record) or (record.received and record.received.node != node):
        raise NotPermitted(_refused(record, service, f"not of {node}"))
    made = _forgotten(record, service)
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


def _refused(record: Record, service: Service, whose: str) -> str:
    return (
        f"{service.name}: its home was {record.home} and is {service.home} now, and the latest files are {whose}: "
        f"no pass. Set home = {record.home} again, cluster push, and first move the group {record.home} to the new home"
    )
