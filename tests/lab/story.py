"""What the tests of the running pair share: looks, waits, a writing client, and what must never happen."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from time import monotonic, sleep
from typing import Any, NamedTuple

from lab.labnet import clusterconf, demo
from lab.labnet.answers import Summary
from lab.labnet.lab import Lab
from lab.labnet.plan import MACHINES, NODES
from lab.labnet.probe import Probe
from lab.labnet.proc import LabError
from lab.shareclient import ShareClient

Event = dict[str, Any]

ADDRESS = {"serv1": "10.1.0.1", "serv2": "10.1.0.2"}
ADDRESS6 = {"serv1": "fd00:10:1::1", "serv2": "fd00:10:1::2"}
MAC = {name: MACHINES[name].nic("main").mac for name in NODES}
OTHER = {"serv1": "serv2", "serv2": "serv1"}
SHARE = "/srv/samba/share"
BACKUPS = "/var/lib/clusterd/backups"
TOLD = "/var/lib/clusterd/notices/told"
"""Where a node keeps which notices it has sent lately; a test that waits for one is not to be the seventh this hour."""
FILL = f"cd {SHARE}; mkdir old; touch -d 2020-01-01 old/{{1..500}}; touch -d 2020-01-01 old; \
echo From: somebody >/var/mail/alice; touch -d 2020-01-01 /var/mail/alice"
"""So many files that a few which are lost or found are less than max_delete."""
LONG = 120.0
"""Seconds that anything may take on a machine that has other things to do. Nothing here measures how quick it is."""

held, put, get, standby = demo.held, demo.put, demo.get, demo.standby


# --- looks ---------------------------------------------------------------------------------------------------------


def serves(lab: Lab, node: str, group: str) -> bool:
    """Whether the node serves the group, and nothing is under way with it."""
    return lab.is_on(node) and held(lab, node, group) and demo.settled(lab, node, group)


def holds(lab: Lab, node: str, *groups: str) -> bool:
    """Whether the node serves exactly these groups, and nothing is under way with any."""
    view = lab.view(node) if lab.is_on(node) else None
    if not view:
        return False
    mine = {name for name, group in view["groups"].items() if group["held"]}
    return mine == set(groups) and all(serves(lab, node, group) for group in groups)


def at_home(lab: Lab) -> bool:
    """Whether both nodes run, serve their own group each, and have nothing to complain of."""
    return all(holds(lab, node, node) and not standby(lab, node) and not conditions(lab, node) for node in NODES)


def conditions(lab: Lab, node: str) -> list[str]:
    """The names of what is the matter, as the node's watchdog sees it now."""
    view = lab.view(node)
    return [condition[0] for condition in view["conditions"]] if view else ["no view"]


def events(lab: Lab, node: str, after: float, name: str = "") -> list[Event]:
    """The node's events since a CLOCK_MONOTONIC time; those called `name`, if it is given."""
    return [event for event in lab.events(node) if when(event) > after - 0.002 and name in ("", event["event"])]


def when(event: Event) -> float:
    """The CLOCK_MONOTONIC time of an event, to the millisecond."""
    return demo.moment(event)


def names(lab: Lab, node: str, after: float) -> list[str]:
    """What the node's events since then are called, in their order."""
    return [event["event"] for event in events(lab, node, after)]


def moved(lab: Lab, after: float) -> list[str]:
    """What either node has done about any group since then; nothing, one hopes."""
    deeds = {"takeover-began", "address-up", "release-began", "let-go", "suspended", "standby-entered"}
    return [name for node in NODES for name in names(lab, node, after) if name in deeds]


def told(lab: Lab, words: str) -> list[str]:
    """The mails, since the last reset, that contain these words, whatever the lines that they are broken into."""
    texts = [f"{mail['Subject']}\n{mail.get_content()}" for mail in lab.mails()]
    return [text for text in texts if words in " ".join(text.split())]


def epochs(lab: Lab, group: str) -> dict[str, int]:
    """What each node's disk says of the group's epoch."""
    return {node: record(lab, node, group)["epoch"] for node in NODES if lab.is_on(node)}


def record(lab: Lab, node: str, group: str) -> Event:
    """What the node's disk says of the group."""
    text = lab.text(node, f"/var/lib/clusterd/groups/{group}.json")
    return json.loads(text) if text else {"epoch": 0, "holder": "", "phase": "free"}


def kept(lab: Lab, node: str, name: str) -> list[str]:
    """Where the node's backup sets have a file of that name; paths on the node."""
    script = f"find {BACKUPS} -path '*/files/*' -name {name} 2>/dev/null || true"
    return lab.sh(node, script).split()


def pids(lab: Lab, node: str, program: str) -> list[int]:
    """The processes of one of clusterd's scripts, by the node's own process ids, the oldest first.

    Of a watchdog these are the supervising parent and the loop.
    """
    found = lab.run(node, ["pgrep", "-f", script(program)], check=False)
    return [int(word) for word in found.stdout.split()]


def script(name: str) -> str:
    """A pattern of the command line of one of clusterd's scripts."""
    return rf"^\S*python\S* \S*/{name}( |$)"


# --- waits ---------------------------------------------------------------------------------------------------------


def wait_serves(lab: Lab, node: str, *groups: str, seconds: float = LONG) -> None:
    """Wait until the node serves these groups, and no other."""
    lab.wait_for(lambda: holds(lab, node, *groups), seconds, f"{node} to serve {' and '.join(groups) or 'nothing'}")


def wait_standby(lab: Lab, node: str, seconds: float = LONG) -> None:
    """Wait until the node is in standby."""
    lab.wait_for(lambda: standby(lab, node), seconds, f"{node} to be in standby")


def wait_home(lab: Lab, seconds: float = LONG) -> None:
    """Wait until all is well."""
    lab.wait_for(lambda: at_home(lab), seconds, "both nodes to be at home")


def wait_event(lab: Lab, node: str, name: str, after: float, seconds: float = LONG) -> Event:
    """Wait for an event of the node, logged after a CLOCK_MONOTONIC time; returns the first."""
    lab.wait_for(lambda: events(lab, node, after, name), seconds, f"the event {name} of {node}")
    return events(lab, node, after, name)[0]


def wait_told(lab: Lab, words: str, seconds: float = LONG) -> str:
    """Wait for a mail that contains these words; returns its subject and text.

    A node that has let go of its addresses may have no LAN to mail on, and its MTA tries again after five minutes.
    """

    end = monotonic() + seconds
    while not told(lab, words):
        try:
            lab.wait_for(lambda: told(lab, words), min(seconds, 3), f"the mail that says: {words}")
        except LabError:
            if monotonic() > end:
                raise
            for node in filter(lab.is_on, NODES):
                lab.sh(node, "pkill -x sendmail; sendmail -q", check=False)
    return told(lab, words)[0]


def wait_answers(lab: Lab, probe: Probe, node: str, after: float, seconds: float = LONG) -> None:
    """Wait until the node answers for the probe's address, as seen at the switch."""
    lab.wait_for(lambda: probe.answered(node, after), seconds, f"{node} to answer on {probe.address}")


def stays(lab: Lab, seconds: float, **holders: str) -> None:
    """For so long, each group (serv1="serv2") is served by that node, whatever else happens."""
    end = monotonic() + seconds
    while monotonic() < end:
        for group, node in holders.items():
            assert held(lab, node, group), f"{node} no longer serves {group}: {lab.view(node)}"
        sleep(0.1)


# --- deeds ---------------------------------------------------------------------------------------------------------


def mirror(lab: Lab, node: str, *services: str) -> None:
    """A complete pass of these services by hand: cron's own may be at it, or a busy peer be slow to answer."""
    said: list[str] = []

    def made() -> bool:
        done = lab.run(node, ["mirror_service", *services], timeout=2 * LONG, check=False)
        said.append(f"exit {done.returncode}: {done.stderr.strip()}")
        return done.returncode == 0

    try:
        lab.wait_for(made, 2 * LONG, f"{node} to mirror {' and '.join(services)}")
    except LabError as error:
        raise LabError(f"{error}: {said[-1]}") from None


def killed(lab: Lab, node: str, pattern: str) -> None:
    """Kill every process of the node whose command line matches; LabError if there is none."""
    lab.run(node, ["pkill", "-KILL", "-f", pattern])


# --- the pair in order ---------------------------------------------------------------------------------------------


def come_home(lab: Lab, *, new: bool = False, ready: Callable[[], object] | None = None, **conf: Any) -> None:
    """Both nodes up, each with its own group, no fault, the configuration as given: the start of every test.

    What the test before has left is used if it can be put in order quickly; else, or with `new`, the lab is reset.
    `ready`: what the configuration needs besides; called before it is used.
    """
    lab.heal()
    if ready and all(lab.is_on(node) for node in NODES):
        ready()
    if new or not (all(lab.is_on(node) for node in NODES) and _configured(lab, conf) and _soon(lab, 2)):
        lab.reset(**conf)
        if ready:
            ready()
        for node in NODES:
            lab.sh(node, FILL)
        wait_home(lab)
        return
    for node in NODES:
        lab.sh(node, f"rm -rf {TOLD}")
    lab.forget_mails()


def _soon(lab: Lab, seconds: float) -> bool:
    try:
        wait_home(lab, seconds)
    except LabError:
        return False
    return True


def _configured(lab: Lab, conf: dict[str, Any]) -> bool:
    """Give both nodes the configuration if they have another one; the watchdogs read it by themselves."""
    files = clusterconf.files(**conf)
    for node in NODES:
        there = {f"/etc/cluster.d/services/{path.name}" for path in lab.path(node, "/etc/cluster.d/services").iterdir()}
        wanted = {path for path in files if "/services/" in path}
        if there != wanted or any(lab.text(node, path) != text for path, (text, _) in files.items()):
            break
    else:
        return True
    if not at_home(lab):
        return False
    began = monotonic()
    lab.configure(**conf)
    for node in NODES:
        wait_event(lab, node, "watchdog-started", began)
    return _soon(lab, 10)


# --- what must never happen ----------------------------------------------------------------------------------------


class Violated(AssertionError):
    """What must never happen has happened. `make test` runs no test again that ends so; see `cause`."""


def must(holds: object, *what: object) -> None:
    """What always has to hold, however slow or busy the machine is. Raises Violated if it does not."""
    if not holds:
        raise Violated(" ".join(map(str, what)))


def cause(error: BaseException | None) -> Violated | None:
    """The violation that an exception hides which was raised on the way out, while things were put in order, say."""
    while error is not None and not isinstance(error, Violated):
        error = error.__cause__ or error.__context__
    return error


@contextmanager
def watching(lab: Lab, *addresses: str, http: bool = True) -> Iterator[dict[str, Probe]]:
    """A client that asks for the addresses all the time: no two nodes ever answer at once, nor with another MAC.

    Without `addresses`: those of both groups. It is judged as well when the block fails for another reason: a wait
    that took too long is no excuse for two answers.
    """
    probes: dict[str, Probe] = {}
    try:
        with probing(lab, *addresses, http=http) as probes:
            yield probes
    finally:
        for probe in probes.values():
            one_at_a_time(probe.summary)


@contextmanager
def probing(lab: Lab, *addresses: str, http: bool = True) -> Iterator[dict[str, Probe]]:
    """The same client, not yet judged."""
    wanted = addresses or tuple(ADDRESS.values())
    with ExitStack() as stack:
        probes = {}
        for address in wanted:
            asks = http and address in (ADDRESS["serv1"], ADDRESS6["serv1"])
            probe = lab.probe(address, icmp_ms=20, http_ms=80 if asks else 0)
            probes[address] = stack.enter_context(probe)
        yield probes


def one_at_a_time(seen: Summary) -> None:
    """Never two nodes answered at once, nor was there ever another MAC address."""
    group = next(name for name in NODES if seen.address in (ADDRESS[name], ADDRESS6[name]))
    must(not seen.double, seen.text())
    must(set(seen.macs) <= {MAC[group]}, seen.text())
    must({mac for _, what, mac in seen.claimed if mac} <= {MAC[group]}, seen.text())


# --- a client that writes ------------------------------------------------------------------------------------------


class Behind(NamedTuple):
    """A client was served an older version of the file that is written again and again than it had written."""

    acknowledged: int
    """The number that was stored last..."""
    served: int
    """...the one that was read later..."""
    mirrored: int
    """...the last one that a complete pass had copied before..."""
    following: int
    """...and the one that was written next."""


class Writer(threading.Thread):
    """Stores numbered files on the share, one after the other, and remembers which ones the server acknowledged.

    After each of them one file more, the same again and again, whose text is the number; it is read first.

    with Writer(lab, "move") as writer:
        ...
    writer.lost_nothing("serv1")
    """

    def __init__(self, lab: Lab, name: str, pause: float = 0.03) -> None:
        super().__init__(daemon=True)
        self.lab = lab
        self.prefix = name
        self.pause = pause
        """Seconds between two writes: of many more than that in a short time, which no pass has copied, failback is
        refused (max_delete)."""
        self.acknowledged: list[str] = []
        self.current = f"{name}-current"
        """The file that is written again and again..."""
        self.overwritten = [0]
        """...the numbers in it that were acknowledged..."""
        self.attempted: list[int] = []
        """...and those that were begun to be written."""
        self.mirrored = 0
        """The last of the first that a complete pass has copied; it is told by whoever makes the passes."""
        self.behind: list[Behind] = []
        self._end = threading.Event()
        self._may = threading.Event()
        self._may.set()
        self._idle = threading.Event()

    def run(self) -> None:
        """Write until told to stop."""
        number = 0
        with ShareClient(self.lab, self.prefix) as client:
            while not self._end.is_set():
                if not self._may.is_set():
                    self._idle.set()
                    self._may.wait()
                    continue
                number += 1
                name = f"{self.prefix}-{number:05d}"
                stored = client.put(name, f"{name}\n")
                if stored:
                    self._overwrite(client, number)
                    self.acknowledged.append(name)
                self._end.wait(self.pause if stored else max(self.pause, 0.05))

    def _overwrite(self, client: ShareClient, number: int) -> None:
        text = client.get(self.current) if self.overwritten[-1] else None
        served = None if text is None else whole_number(text)
        if served is not None and served < self.overwritten[-1]:
            self.behind.append(Behind(self.overwritten[-1], served, self.mirrored, number))
        self.attempted.append(number)
        if client.put(self.current, f"{number:05d}\n"):
            self.overwritten.append(number)

    def now_in(self, folder: str) -> int:
        """The number in the file that is written again and again, as the host sees it; 0, if that is none whole."""
        return whole_number(text_of(f"{folder}/{self.current}") or "") or 0

    def stale(self, *folders: str) -> list[Behind]:
        """Where a client was served a version that a pass had replaced, or the later one is in none of these folders.

        What was being written when its node died may be in a folder in its stead: later, or cut.
        """
        kept = [whole_number(text) for folder in folders if (text := text_of(f"{folder}/{self.current}")) is not None]

        def found(one: Behind) -> bool:
            after = any(one.acknowledged < number < one.following for number in self.attempted)
            return any(after if each is None else one.acknowledged <= each < one.following for each in kept)

        return [one for one in self.behind if one.served < one.mirrored or not found(one)]

    def __enter__(self) -> "Writer":
        self.start()
        self.more(1)
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._may.set()
        self.join()

    def hold(self) -> None:
        """Write nothing until told to go on; returns when no write is under way."""
        self._idle.clear()
        self._may.clear()
        self._idle.wait(LONG)

    def go_on(self) -> None:
        """Write again."""
        self._may.set()

    def more(self, count: int = 3) -> None:
        """Wait until so many more writes were acknowledged."""
        enough = len(self.acknowledged) + count

        def written() -> bool:
            assert self.is_alive(), "the writer has ended"
            return len(self.acknowledged) >= enough

        self.lab.wait_for(written, LONG, f"{count} more writes")

    def lost(self, *folders: str) -> set[str]:
        """The acknowledged writes that are not whole in any of these folders of a machine, as the host sees them."""
        there = {name for name in self.acknowledged for folder in folders if text_of(f"{folder}/{name}") == f"{name}\n"}
        return set(self.acknowledged) - there

    def lost_nothing(self, node: str) -> None:
        """Every acknowledged write is whole on the node's share; Violated, if one is in no backup set either."""
        share = str(self.lab.path(node, SHARE))
        sets = [str(folder) for each in NODES for folder in self.lab.path(each, BACKUPS).glob(f"*/files{SHARE}")]
        must(not self.lost(share, *sets), "nowhere:", *sorted(self.lost(share, *sets)))
        assert not self.lost(share), f"not on {node}'s share, in a backup set only: {self.lost(share)}"
        must(not self.stale(*sets), "an older version was served, the later one is nowhere:", *self.stale(*sets))
        assert not self.behind, f"an older version was served: {self.behind}"


def whole_number(text: str) -> int | None:
    """The number in a text of the file that is written again and again; None if it was cut while it was written."""
    return int(text) if re.fullmatch(r"\d{5}\n", text) else None


def text_of(path: str) -> str | None:
    """The text of a file; None if there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return None
