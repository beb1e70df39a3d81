"""What a lab must remember between two commands, and the kernel cannot tell: one small JSON file in its folder."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields

from .plan import Place


@dataclass
class Record:
    """The state of switches and plugs of one lab."""

    base: str = ""
    """Name of the base layer that its machines stand on."""
    program: str = ""
    """Name of the program layer that its nodes stand on; empty: none."""
    delivered: bool = False
    """All machines' disks are made."""
    bare: bool = False
    off: list[str] = field(default_factory=list)
    """Machines whose power is off."""
    pulled: list[str] = field(default_factory=list)
    """Cables that are out: "serv1/eth0", or "crossover"."""
    isolated: list[str] = field(default_factory=list)
    """Machines whose LAN ports do not see each other."""
    losses: list[list[str]] = field(default_factory=list)
    """One-way losses: [from, to, NIC, percent]."""
    clocks: dict[str, str] = field(default_factory=dict)
    """Time servers that are wrong, and by how much: "+3600s"."""
    switch_off: bool = False


def load(place: Place) -> Record:
    """The record of a lab; a new one where there is none."""
    try:
        kept = json.loads((place.folder / "record.json").read_text())
    except FileNotFoundError:
        return Record()
    known = {each.name for each in fields(Record)}
    return Record(**{key: value for key, value in kept.items() if key in known})


def save(place: Place, record: Record) -> None:
    """Write the record in one step."""
    file = place.folder / "record.json"
    new = file.with_suffix(".new")
    new.write_text(json.dumps(asdict(record), indent=1))
    os.replace(new, file)


@contextmanager
def changing(place: Place) -> Iterator[Record]:
    """Change the record: what the block leaves is saved, also when it fails on the way."""
    record = load(place)
    try:
        yield record
    finally:
        save(place, record)
