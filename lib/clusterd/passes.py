"""What is known of the passes of each service, on disk: the last complete one in each direction, and one that was cut.

All times are wall clocks of the node that keeps the record; `setbacks` beside one: see setback.py.
"""

import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from clusterd import paths, setback, state, view
from clusterd.errors import Failed
from clusterd.setback import Moment

TICK = 0.2
"""Seconds before the time of a pass that count as in it: file times are those of the kernel's last tick."""


class Done(NamedTuple):
    """The last complete pass in one direction."""

    node: str
    """The other node."""
    epoch: int
    began: float
    """Whatever was written before is in it."""
    ended: float
    entries: int
    """Files, folders and all else that was seen in the source."""
    setbacks: int = 0


ROLLED_BACK = "rolled back"
NEWEST = "newest"
"""What a takeover serves after a cut pass: the last complete one, or the newest files, some new and some old."""


class Unfinished(NamedTuple):
    """A pass that began to change files here and was not, or not yet, completed."""

    node: str
    epoch: int
    began: float
    set: str
    """Its backup set; "" if it is closed and there was nothing to keep."""
    closed: bool = False
    """What it left behind was tidied up. It remains known as cut until a pass is complete."""
    above: dict[str, tuple[int, int, int]] = {}
    """Mode, owner and group of the folders above the mirrored paths, which are no part of the mirror."""
    named: tuple[str, ...] = ()
    """What is sent that is called like one of rsync's temporary files."""
    earlier: tuple[str, ...] = ()
    """The backup sets of the passes that were cut before this one, since the last complete one; the oldest first."""
    listing: str = ""
    """The list of what was here before the first of them (generation.py); "" if there is none."""
    served: str = ""
    """ROLLED_BACK or NEWEST, once a takeover has come to it."""
    decided: float = 0.0
    """When that was."""
    generation: float | None = None
    """ROLLED_BACK: when the pass began that is served; None: it is what this node itself had held before."""
    kept: str = ""
    """ROLLED_BACK: the backup set of what the cut pass had brought; "" if there was nothing."""
    setbacks: int = 0

    def sets(self) -> tuple[str, ...]:
        """All backup sets since the last complete pass, the oldest first."""
        return (*self.earlier, self.set) if self.set else self.earlier

    def as_of(self) -> str:
        """ROLLED_BACK: what is served, in words."""
        if self.generation is None:
            return "what this node itself had when it last held the group"
        return time.strftime("the pass of %Y-%m-%d %H:%M:%S, complete", time.localtime(self.generation))


class Place(NamedTuple):
    """What a mirrored path was like at the last complete pass."""

    mounts: tuple[str, ...]
    """The file system that it is on, then those mounted below it; see mounts.names."""
    empty: bool = False
    id: str = ""
    """Of the sentinel."""


class Returned(NamedTuple):
    """What was found here when another node first mirrored back, after this one had been the holder."""

    epoch: int
    unmirrored: tuple[tuple[str, bool], ...]
    """Path, and whether it had existed at the last complete pass."""


class Held(NamedTuple):
    """The last time that this node was the holder."""

    epoch: int
    since: float
    """What was written since then may be on this node only."""
    setbacks: int = 0
    first: int = 0
    """The epoch that it had then. A pass with that one or a higher one is later, whatever the clocks say."""
    yielded: bool = False
    """A pass to here has been complete since: nothing is on this node only any more."""


class Record(NamedTuple):
    """All of it, for one service."""

    service: str
    sent: dict[str, Done] = {}
    """By receiver."""
    received: Done | None = None
    unfinished: Unfinished | None = None
    places: dict[str, Place] = {}
    """By configured path."""
    returned: Returned | None = None
    held: Held | None = None
    home: str = ""
    """The group whose epochs these are; "": an older version of the program did not write it down. See rehome.py."""
    paths: tuple[str, ...] = ()
    """What the last pass that began mirrored, whatever a person has said of `places` since; likewise."""

    def new(self, configured: Iterable[str]) -> list[str]:
        """Those of the configured paths that no pass has mirrored yet, nor a folder above them."""
        known = self.paths or tuple(self.places)
        folders = tuple(each for each in known if each.endswith("/"))
        return [each for each in configured if known and each not in known and not each.startswith(folders)]

    def generation(self) -> float | None:
        """When the last complete pass to here began; None if this node itself has been the holder since, or ever was.

        Raises:
            Failed: neither: nothing here has ever been complete.
        """
        mine = self.last_held()
        if self.received is None and mine is None:
            raise Failed("no pass to this node has ever been complete")
        return self.received.began if self.received and (mine is None or mine <= self.received.epoch) else None

    def unsettled(self) -> bool:
        """Whether a pass to here was cut, and no takeover has decided yet which files count."""
        return self.unfinished is not None and not self.unfinished.served

    def last_sent(self) -> Done | None:
        """The latest complete pass from here, to whomever."""
        return max(self.sent.values(), key=lambda done: (done.epoch, done.began), default=None)

    def entries(self) -> int | None:
        """How many files were last seen, in either direction; None if there never was a complete pass."""
        known = [done for done in (self.received, self.last_sent()) if done]
        return max(known, key=lambda done: (done.epoch, done.ended)).entries if known else None

    def last_held(self) -> int | None:
        """The last epoch at which this node is known to have been the holder."""
        known = [each.epoch for each in (self.held, self.last_sent()) if each]
        return max(known, default=None)

    def returns(self, epoch: int) -> bool:
        """Whether a pass received at `epoch` is the first since this node itself was the holder.

        Two that were cut off from each other may have held it with the same epoch: of these one yields to the other.
        """
        mine, received, held = self.last_held(), self.received, self.held
        if mine is None or epoch < mine or (epoch == mine and held is None):
            return False
        if received is None or received.epoch < mine:
            return True
        return received.epoch == mine and (held is None or not held.yielded)

    def alone_since(self, node: str) -> Moment | None:
        """From when on what was written here may not be on `node`; None if this was never the holder."""
        held, sent = self.held, self.sent.get(node)
        if sent and (held is None or sent.epoch >= held.first):
            return Moment(sent.began, sent.setbacks)
        return Moment(held.since, held.setbacks) if held else None


def path(service: str) -> str:
    """The file of the record of `service`."""
    return f"{paths.PASSES}/{service}.json"


def read(service: str) -> Record:
    """The record of `service`; an empty one if there was no pass yet.

    Raises:
        Failed: the file is damaged.
    """
    fact = state.read(path(service))
    if fact is None:
        return Record(service)
    try:
        return _record(fact)
    except (TypeError, KeyError, AttributeError, ValueError):
        raise Failed(f"{path(service)}: not a record of passes; look at it, then remove it") from None


def needed(services: Iterable[str]) -> set[str]:
    """The backup sets without which a cut pass could not be rolled back."""
    found: set[str] = set()
    for service in services:
        record = read(service)
        if record.unfinished and record.unfinished.listing and record.unsettled():
            found.update(record.unfinished.sets())
    return found


def write(record: Record) -> Record:
    """Put the record on the disk, durably."""
    state.write(
        path(record.service),
        {
            "service": record.service,
            "sent": {node: done._asdict() for node, done in record.sent.items()},
            "received": record.received and record.received._asdict(),
            "unfinished": record.unfinished and record.unfinished._asdict(),
            "places": {name: place._asdict() for name, place in record.places.items()},
            "returned": record.returned and record.returned._asdict(),
            "held": record.held and record.held._asdict(),
            "home": record.home,
            "paths": record.paths,
        },
    )
    return record


def hold(service: str, epoch: int) -> None:
    """This node is the holder with `epoch`, and the service is about to start: from now on its files change here.

    What an earlier return had found, whose pass was cut, will not be all by then: it is looked for anew.
    """
    record = read(service)
    mine = record.last_held()
    if record.held and record.held.epoch >= epoch:
        return
    received_since = record.received is not None and mine is not None and record.received.epoch > mine
    if record.held and not (received_since or record.held.yielded):
        held = record.held._replace(epoch=epoch)
    else:
        held = Held(epoch, *setback.now(), epoch)
    write(record._replace(held=held, returned=None))


def complete_sent(record: Record, done: Done, places: dict[str, Place]) -> Record:
    """A pass from here to `done.node` is complete: this node's files are the ones that count."""
    sent = {**record.sent, done.node: done}
    return write(_complete(record._replace(sent=sent), places))


def complete_received(record: Record, done: Done, places: dict[str, Place]) -> Record:
    """A pass from `done.node` to here is complete."""
    held = record.held and record.held._replace(yielded=True)
    return write(_complete(record._replace(received=done, held=held), places))


def _complete(record: Record, places: dict[str, Place]) -> Record:
    return record._replace(unfinished=None, returned=None, places=places, paths=tuple(places))


def freshness(service: str) -> tuple[float, bool] | None:
    """How old this node's files are, in seconds since the last complete pass to here began; and whether one was cut.

    0 seconds if this node itself was the last one to write them; None if there never was a pass.
    """
    record = read(service)
    mine, received = record.last_held(), record.received
    cut = record.unfinished is not None
    if mine and (received is None or mine > received.epoch):
        return 0.0, cut
    if received is None:
        return None
    return max(0.0, time.time() - received.began), cut


def forget_places(service: str) -> None:
    """A person says that the mounts and sentinels of this node are right as they are now."""
    write(read(service)._replace(places={}))


def started(service: str) -> float | None:
    """When the last pass from here began, of whatever outcome, by the clock of this boot; None if there was none."""
    try:
        fact = state.read(_started(service))
    except Failed:
        return None
    return float(fact["since_boot"]) if fact and "since_boot" in fact else None


def note_start(service: str) -> None:
    """Note that a pass begins here, now: the next one is due `every` later."""
    state.write(_started(service), {"since_boot": view.now()}, durable=False)


def _started(service: str) -> str:
    return f"{paths.STARTED}/{service}.json"


def _unfinished(above: dict[str, list[int]], **fact: Any) -> Unfinished:
    for name in ("named", "earlier"):
        fact[name] = tuple(fact.get(name, ()))
    return Unfinished(**fact, above={path: (was[0], was[1], was[2]) for path, was in above.items()})


def _record(fact: dict[str, Any]) -> Record:
    returned = fact["returned"]
    return Record(
        fact["service"],
        {node: Done(**done) for node, done in fact["sent"].items()},
        Done(**fact["received"]) if fact["received"] else None,
        _unfinished(**fact["unfinished"]) if fact["unfinished"] else None,
        {name: Place(tuple(place.pop("mounts")), **place) for name, place in fact["places"].items()},
        Returned(returned["epoch"], tuple((name, old) for name, old in returned["unmirrored"])) if returned else None,
        Held(**fact["held"]) if fact.get("held") else None,
        fact.get("home", ""),
        tuple(fact.get("paths", ())),
    )
