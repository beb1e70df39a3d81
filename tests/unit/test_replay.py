"""Recorded datagrams, played again after a reboot of who sent them, of who hears them, of both; with disks lost.

Two nodes talk here as their watchdogs do (heartbeat.Doorkeeper, voice.Voice without sockets), and a third party that
has no key records all of it.
"""

from typing import TYPE_CHECKING, Any

import pytest

from clusterd import heartbeat, state
from clusterd.heartbeat import LATE, MEETING, Doorkeeper
from clusterd.picture import Claim
from clusterd.word import Word, body, seal
from unit.test_heartbeat import HB, KEY, KEYS, LAN

if TYPE_CHECKING:
    from unit.conftest import Box

BOTH = (HB, LAN)


class Node:
    """One node's speech and hearing. Its disk is a dictionary, its clock a number that a test sets."""

    def __init__(self, name: str, peer: str) -> None:
        self.name = name
        self.peer = peer
        self.disk: dict[str, int] = {}
        self.clock = 1_700_000_000
        self.boots = 0
        self.rumours: list[Word] = []
        self.boot()

    def boot(self) -> None:
        """Power on: what is not on the disk is gone."""
        self.boots += 1
        self.clock += 100
        self.start(nonce=f"{self.name}-{self.boots}")

    def start(self, nonce: str = "", kept: Any = None) -> None:
        """A watchdog starts, as voice.Voice does."""
        self.incarnation = self.disk["incarnation"] = max(self.disk.get("incarnation", 0) + 1, self.clock)
        self.sequence = 0
        self.door = Doorkeeper(self.name, (self.peer,), KEYS, self._remember, nonce=nonce, rumour=self.rumours.append)
        self.door.incarnations = {self.peer: self.disk.get(self.peer, 0)}
        if kept:
            self.door.go_on(kept)

    def restart(self) -> None:
        """Another loop of the same boot, which goes on from the view."""
        self.start(kept=self.door.kept())

    def lose_disk(self) -> None:
        """The disk is new at the next boot."""
        self.disk.clear()

    def _remember(self, node: str, incarnation: int) -> None:
        self.disk[node] = incarnation

    def say(self) -> list[tuple[bytes, str]]:
        """The next datagram, on both paths."""
        self.sequence += 1
        word = Word(
            node=self.name, incarnation=self.incarnation, sequence=self.sequence, boot=f"boot {self.boots}",
            groups={self.name: Claim(4, self.name, True)}, standby="", reach=2, asked=2, lan=True, hears=(self.peer,),
            digest="0" * 16, clock=float(self.clock), nonce=self.door.nonce, echo=self.door.echo(),
        )  # fmt: skip
        return [(seal(body(word), path, KEY), path) for path in BOTH]

    def hear(self, said: list[tuple[bytes, str]]) -> list[Word]:
        """What of it is believed."""
        return [word for data, path in said if (word := self.door.admit(data, path))]


class Pair:
    """serv1 listens, serv2 is recorded."""

    def __init__(self) -> None:
        self.one, self.two = Node("serv1", "serv2"), Node("serv2", "serv1")
        self.recorded: list[tuple[bytes, str]] = []

    def talk(self, rounds: int = 5, record: bool = True) -> int:
        """Both speak in turn; how many words of serv2's were believed."""
        believed = 0
        for _ in range(rounds):
            self.two.hear(self.one.say())
            said = self.two.say()
            believed += len(self.one.hear(said))
            self.recorded += said if record else []
        return believed


@pytest.fixture(name="pair")
def talking(box: "Box") -> Pair:
    """They have talked for a while, all of it recorded; then serv2's power is cut."""
    made = Pair()
    assert made.talk(200) >= 2 * 199, "only the first word was not believed: it had not heard serv1's nonce"
    assert made.one.door.rejected == made.two.door.rejected == {}
    return made


def test_a_replay_to_who_has_heard_it_all(pair: Pair) -> None:
    assert pair.one.hear(pair.recorded) == []
    assert pair.one.door.rejected["replayed"] >= 2 * (199 - LATE) - 2


def test_after_a_reboot_of_the_receiver(pair: Pair) -> None:
    pair.one.boot()
    assert pair.one.hear(pair.recorded) == []
    assert pair.one.door.rejected == {"unproven": len(pair.recorded) - MEETING}
    assert pair.one.disk["serv2"] == pair.two.incarnation, "nothing of it was remembered"


def test_after_a_reboot_of_the_sender(pair: Pair) -> None:
    pair.two.boot()
    assert pair.talk(record=False) >= 8
    assert pair.one.hear(pair.recorded) == []
    assert pair.one.door.rejected == {"replayed": len(pair.recorded)}


def test_after_a_reboot_of_the_sender_that_only_the_attacker_has_seen(pair: Pair) -> None:
    """serv2 was back for a moment, cut off from serv1, and is dead again: its new incarnation was never heard here."""
    pair.two.boot()
    alone = [data for _ in range(100) for data in pair.two.say()]
    assert pair.one.hear(alone) == []
    assert pair.one.disk["serv2"] < pair.two.incarnation


def test_after_a_reboot_of_both(pair: Pair) -> None:
    pair.one.boot()
    pair.two.boot()
    assert pair.one.hear(pair.recorded) == []
    assert pair.talk(record=False) >= 8
    assert pair.one.hear(pair.recorded) == []
    assert pair.one.door.rejected["replayed"] == len(pair.recorded)


@pytest.mark.parametrize("who", ["receiver", "sender", "both"])
def test_with_the_disk_lost(pair: Pair, who: str) -> None:
    for name, node in (("receiver", pair.one), ("sender", pair.two)):
        if who in (name, "both"):
            node.lose_disk()
        node.boot()
    assert pair.one.hear(pair.recorded) == []
    assert pair.talk(record=False) >= 8, "the living one is believed"
    assert pair.one.hear(pair.recorded) == []


def test_a_sender_that_lost_its_disk_and_its_clock_is_refused_until_the_clock_is_right(pair: Pair) -> None:
    """What is refused here is the living node; told as replayed. It starts again when the clock has been set."""
    pair.two.lose_disk()
    pair.two.clock = 1000
    pair.two.boot()
    assert pair.talk(record=False) == 0
    assert pair.one.door.rejected["replayed"] == 10
    pair.two.clock = 1_800_000_000
    pair.two.restart()
    assert pair.talk(record=False) >= 8


def test_a_flood_of_recorded_words_does_not_keep_the_living_one_out(pair: Pair) -> None:
    pair.one.lose_disk()
    pair.one.boot()
    pair.two.boot()
    believed = 0
    for _ in range(4):
        assert pair.one.hear(pair.recorded) == []
        pair.two.hear(pair.one.say())
        believed += len(pair.one.hear(pair.two.say()))
    assert believed >= 4


def test_what_is_not_proven_is_a_rumour(pair: Pair) -> None:
    """The epochs in it were true once, and only rise; and somebody may be there."""
    pair.one.boot()
    pair.one.hear(pair.recorded[:2])
    assert [word.groups["serv2"].epoch for word in pair.one.rumours[-2:]] == [4, 4]


def test_on_another_path_it_is_nothing(pair: Pair) -> None:
    pair.one.boot()
    crossed = [(data, LAN if path == HB else HB) for data, path in pair.recorded]
    assert pair.one.hear(crossed) == []
    assert pair.one.door.rejected == {"signature": len(crossed)}


def test_reflected_to_who_said_it(pair: Pair) -> None:
    pair.two.boot()
    assert pair.two.hear(pair.recorded) == []
    assert pair.two.door.rejected == {}


def test_to_a_third_node(pair: Pair) -> None:
    """A node of the same cluster believes what is meant for all; of another cluster, with a key of its own, nothing.
    What was recorded before its boot, it does not either."""
    third = Node("serv3", "serv2")
    assert third.hear(pair.recorded) == []
    assert pair.one.door.rejected == {}
    elsewhere = Doorkeeper("serv1", ("serv2",), (b"the key of another cluster",), lambda *_: None)
    assert [elsewhere.admit(*said) for said in pair.recorded[:4]] == [None] * 4
    assert elsewhere.rejected == {"signature": 4}


# --- and what must go on working -------------------------------------------------------------------------------------


def test_a_restart_of_the_loop_is_no_reboot(pair: Pair) -> None:
    """The nonce is the same, the numbers are known: not a word is lost, and nothing old is believed."""
    pair.one.restart()
    assert pair.one.hear(pair.recorded) == []
    assert pair.talk(3, record=False) == 6
    pair.two.restart()
    assert pair.talk(3, record=False) == 6


def test_a_peer_that_hears_us_on_no_path_is_a_rumour_for_as_long_as_that_lasts(pair: Pair) -> None:
    pair.one.boot()
    for _ in range(MEETING):
        assert pair.one.hear(pair.two.say()) == []
    assert pair.one.door.rejected == {"unproven": MEETING}
    assert pair.talk(3, record=False) >= 4


def test_who_repeats_no_nonces_is_believed_by_its_numbers(box: "Box") -> None:
    """A version that has none; nothing recorded before a restart of it is believed all the same."""
    door = Doorkeeper("serv1", ("serv2",), KEYS, nonce="n1")
    heard = pair_of_old_words()
    assert door.admit(heard[1], HB) is not None
    assert door.admit(heard[0], HB) is None
    assert door.rejected == {"replayed": 1}


def pair_of_old_words() -> list[bytes]:
    from unit.test_heartbeat import packet

    return [packet(incarnation=100, sequence=9000), packet(incarnation=101, sequence=1)]


def test_what_says_what_was_is_not_taken_in_over_a_slow_path(box: "Box") -> None:
    """The words of a path that is behind another would set back what is known: dropped, and no attack."""
    from unit.test_heartbeat import packet

    door = Doorkeeper("serv1", ("serv2",), KEYS)
    assert door.admit(packet(HB, sequence=40), HB) is not None
    assert door.admit(packet(LAN, sequence=30), LAN) is None
    assert door.rejected == {}
    assert door.admit(packet(LAN, sequence=39), LAN) is not None


def test_a_view_of_this_boot_carries_it_over(box: "Box") -> None:
    door = Doorkeeper("serv1", ("serv2",), KEYS, nonce="n1")
    door.met = {"serv2": (7, "n2")}
    door.last = {("serv2", HB): (7, 3)}
    path = f"{box.run}/door.json"
    state.write(path, door.kept(), durable=False)
    again = heartbeat.Doorkeeper("serv1", ("serv2",), KEYS, nonce="other")
    again.go_on(state.read(path))
    assert (again.nonce, again.echo(), again.last, again.newest) == ("n1", ("n2",), door.last, {"serv2": (7, 3)})
