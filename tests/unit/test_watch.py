"""The watchdog's loop, turn by turn, on a real network: what it says, hears, asks, renews and starts."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clusterd import arp, keyfile, ownership, paths, view, watch
from clusterd.ownership import Record
from clusterd.places import Place
from clusterd.watchdev import Dog
from unit.site import Peer, Site, wait
from unit.site import made_peer as made_peer
from unit.site import made_site as made_site

pytest_plugins = ["lan"]

STAND_IN = """\
echo "{name} $*" >> {root}/journal
case " $* " in *" --on-go "*) while read line; do echo "{name} told $line" >> {root}/journal; done ;; esac
exit $(cat {root}/broken/{name} 2>/dev/null || echo 0)"""
Make = Callable[..., watch.Watch]


@pytest.fixture(name="make")
def making(site: Site, peer: Peer) -> Iterator[Make]:
    """Make the loop; it turns when the test says so. Its scripts are stand-ins that keep the journal."""
    for name in ("takeover", "release"):
        site.box.program(name, STAND_IN.format(name=name, root=site.root))
    made: list[watch.Watch] = []
    (site.box.run / "view.json").unlink()

    def make(clean: bool = False) -> watch.Watch:
        settings = site.load()
        made.append(watch.Watch(settings, keyfile.read(settings), clean=clean))
        return made[-1]

    yield make
    for each in made:
        close(each)


def close(loop: watch.Watch) -> None:
    """As at the end of its process."""
    loop.crew.disarm()
    loop.worker.finish(10)
    loop.estate.keeper.close()
    loop.selector.close()
    loop.lan.close()
    for path in loop.paths:
        path.close()


def turn(loop: watch.Watch, seconds: float = 0.0, until: Callable[[], object] | None = None) -> None:
    """Let it turn for some seconds, or until something is true."""
    end = view.now() + (seconds or 60.0)
    while view.now() < end:
        loop.turn()
        if until and until():
            return
    assert not until, "did not happen in time"


def talk(loop: watch.Watch, peer: Peer, seconds: float = 0.0, until: Callable[[], object] | None = None) -> None:
    """The same while serv2 speaks, as often as it should, on both paths."""
    end = view.now() + (seconds or 60.0)
    while view.now() < end:
        peer.say()
        loop.turn()
        if until and until():
            return
    assert not until, "did not happen in time"


def calm(loop: watch.Watch, peer: Peer) -> None:
    """Both hear each other, the reference host answers, and the claims are known."""
    talk(
        loop,
        peer,
        until=lambda: not loop.peers.urgent(loop.rules, view.now()) and view.now() >= loop.unsure_until and reach(loop),
    )


def reach(loop: watch.Watch) -> int | None:
    return loop.census.reached(view.now())


def stop(loop: watch.Watch, seconds: float) -> None:
    """The process does not run for a while."""
    time.sleep(seconds)


def test_it_speaks_on_every_path(make: Make, site: Site, peer: Peer) -> None:
    site.hold("serv1", 3)
    loop = make()
    peer.claim("serv2", 5)
    calm(loop, peer)
    peer.hears()
    talk(loop, peer, 0.3)
    words = peer.hears()
    assert set(words) == {"heartbeat", "lan"}
    word = words["heartbeat"]
    assert (word.node, word.reach, word.asked, word.lan, word.hears, word.standby) == (
        "serv1",
        1,
        1,
        True,
        ("serv2",),
        "",
    )
    claim = word.groups["serv1"]
    assert (claim.epoch, claim.holder, claim.held) == (3, "serv1", True)
    assert (word.groups["serv2"].epoch, word.groups["serv2"].holder, word.groups["serv2"].held) == (5, "serv2", False)


def test_the_view_is_published(make: Make, site: Site, peer: Peer) -> None:
    site.hold("serv1", 3)
    loop = make()
    peer.claim("serv2", 5)
    calm(loop, peer)
    talk(loop, peer, until=lambda: (seen := view.read()) and seen.reach is not None and seen.peers["serv2"].hears_me)
    seen = view.need()
    assert (seen.node, seen.reach, seen.asked) == ("serv1", 1, 1)
    assert (seen.holder("serv1"), seen.holder("serv2")) == ("serv1", "serv2")
    there = seen.peers["serv2"]
    assert there.heard and there.hears_me and there.digest_same
    assert set(there.paths) == {"heartbeat", "lan"}
    assert there.skew is not None and abs(there.skew) < 1
    assert seen.groups["serv1"]["interface"] == "eth0"
    assert os.stat(paths.VIEW).st_mode & 0o777 == 0o644


def test_what_is_held_is_renewed(make: Make, site: Site, peer: Peer) -> None:
    site.configure(lease="1 second")
    site.hold("serv1", 3)
    loop = make()
    talk(loop, peer, 2.5)
    assert site.up("serv1")
    assert "suspended" not in site.told()


def test_nothing_is_renewed_before_the_claims_could_be_heard(make: Make, site: Site, peer: Peer) -> None:
    """After a pause the peer may have taken the group: a renewal would keep a second holder alive."""
    site.configure(lease="8 seconds")
    site.hold("serv1", 3)
    loop = make()
    calm(loop, peer)
    stop(loop, 0.5)
    renewed: list[float] = []
    loop.estate.keeper.renew = lambda places: renewed.append(view.now())  # type: ignore[method-assign]
    now = view.now()
    assert now - loop.last_turn > loop.rules.isolated_after
    loop.next_beat = now
    loop.turn()
    assert loop.unsure_until > now
    unsure = loop.unsure_until
    talk(loop, peer, until=lambda: renewed)
    assert renewed[0] >= unsure


def test_after_a_pause_the_claims_come_first(make: Make, site: Site, peer: Peer) -> None:
    """The peer took the group meanwhile: it is let go of at once, and nothing else is done."""
    site.hold("serv1", 3)
    loop = make()
    calm(loop, peer)
    stop(loop, 0.5)
    peer.claim("serv1", 4)
    loop.turn()
    talk(loop, peer, until=lambda: not site.up("serv1"))
    talk(loop, peer, until=lambda: ownership.read("serv1").epoch == 4)
    record = ownership.read("serv1")
    assert (record.holder, record.phase) == ("serv2", "free")
    talk(loop, peer, until=site.journal)
    assert site.journal() == [f"release --config {site.box.conf} --let-go --why=serv2 holds it with epoch 4 serv1"]
    talk(loop, peer, until=ownership.standby)
    wait(lambda: "released-lost" in site.told())


def test_after_a_pause_a_silent_peer_is_not_dead(make: Make, site: Site, peer: Peer) -> None:
    """It was this node that did not listen."""
    loop = make()
    peer.claim("serv2", 5)
    calm(loop, peer)
    stop(loop, 1.0)
    loop.turn()
    assert loop.peers.peers["serv2"].fresh(loop.rules, loop.last_turn)
    talk(loop, peer, 0.5)
    assert not any(line.startswith("takeover told") for line in site.journal())
    assert ownership.read("serv2").holder != "serv1"


def test_what_lay_in_the_sockets_during_a_pause_is_not_believed(make: Make, site: Site, peer: Peer) -> None:
    """It is old: a claim from the middle of the pause says nothing of now."""
    loop = make()
    calm(loop, peer)
    peer.claim("serv2", 5)
    peer.say()
    peer.claims.clear()
    stop(loop, 0.5)
    loop.next_beat = view.now()
    loop.turn()
    assert loop.peers.peers["serv2"].groups == {}


def test_the_dead_peers_group_is_taken_over(make: Make, site: Site, peer: Peer) -> None:
    """The script is armed from the first missed datagram on, and told once the peer is dead and the LAN is silent."""
    loop = make()
    peer.claim("serv2", 5)
    calm(loop, peer)
    ready = f"takeover --config {site.box.conf} --on-go serv2"
    turn(loop, until=lambda: ready in site.journal())
    turn(loop, until=lambda: "takeover told go" in site.journal())
    assert [line for line in site.journal() if line.startswith("takeover told")] == [
        "takeover told epoch 6",
        "takeover told why serv2 is dead",
        "takeover told unheard serv2",
        "takeover told go",
    ]
    assert loop.crew.busy("serv2")


def test_a_peer_that_is_heard_again_sends_the_armed_script_away(make: Make, site: Site, peer: Peer) -> None:
    loop = make()
    peer.claim("serv2", 5)
    calm(loop, peer)
    turn(loop, until=lambda: loop.crew.armed)
    process = loop.crew.armed["serv2"]
    talk(loop, peer, until=lambda: not loop.crew.armed)
    wait(lambda: process.poll() is not None)
    assert process.returncode == 0
    assert not any("told" in line for line in site.journal())


def test_an_address_that_answers_is_not_taken(make: Make, site: Site, peer: Peer) -> None:
    """A hung node, whose kernel still answers ARP."""
    loop = make()
    peer.claim("serv2", 5)
    calm(loop, peer)
    site.lan.ip("serv2", "addr add 10.1.0.2/24 dev eth0")
    turn(loop, 2.0)
    assert not any("told" in line for line in site.journal())
    wait(lambda: "takeover-held-back" in site.told())
    site.lan.ip("serv2", "addr del 10.1.0.2/24 dev eth0")
    turn(loop, until=lambda: "takeover told go" in site.journal())


def test_isolated_it_lets_go_and_resumes(make: Make, site: Site, peer: Peer) -> None:
    site.hold("serv1", 3)
    loop = make()
    peer.claim("serv2", 5)
    calm(loop, peer)
    site.lan.ip("switch", "link set router-eth0 down")
    turn(loop, until=lambda: not site.up("serv1"))
    assert ownership.read("serv1").phase == "held"
    assert loop.estate.claims(loop.crew)["serv1"].held is False
    site.lan.ip("switch", "link set router-eth0 up")
    resume = f"takeover --config {site.box.conf} --resume serv1"
    talk(loop, peer, until=lambda: resume in site.journal())
    assert not any("told" in line for line in site.journal())


def test_a_lapsed_lease_is_noticed(make: Make, site: Site, peer: Peer) -> None:
    """Somebody took the address away: the group is suspended, wholly, and resumed by the script."""
    site.configure(lease="8 seconds")
    site.hold("serv1", 3)
    loop = make()
    calm(loop, peer)
    site.lan.ip("serv1", "addr del 10.1.0.1/24 dev eth0")
    talk(loop, peer, until=lambda: f"takeover --config {site.box.conf} --resume serv1" in site.journal())
    wait(lambda: "suspended" in site.told())


def test_a_node_that_returns_goes_to_standby(make: Make, site: Site, peer: Peer) -> None:
    loop = make()
    peer.claim("serv1", 4)
    peer.claim("serv2", 5)
    talk(loop, peer, until=ownership.standby)
    standby = ownership.standby()
    assert standby and (standby.cause, standby.reason) == ("program", "serv2 holds serv1")
    talk(loop, peer, until=lambda: "standby-entered" in site.told())
    assert ownership.read("serv1") == ownership.read("serv1")._replace(epoch=4, holder="serv2", phase="free")


def test_failed_scripts_are_told_and_tried_again_later(make: Make, site: Site, peer: Peer) -> None:
    """The stand-in for takeover fails: a notice, and the next try only after a while."""
    site.break_("takeover", "1")
    site.configure(lease="8 seconds")
    site.hold("serv1", 3)
    loop = make()
    calm(loop, peer)
    site.lan.ip("serv1", "addr del 10.1.0.1/24 dev eth0")
    talk(loop, peer, until=lambda: "takeover-failed" in site.told())
    talk(loop, peer, 1.0)
    assert len([line for line in site.journal() if "--resume" in line]) == 1
    assert loop.crew.not_before("takeover", "serv1") > view.now() + 1


def test_a_new_loop_goes_on_where_the_old_one_was(make: Make, site: Site, peer: Peer) -> None:
    """Restarted by its parent: the peer is known, and the silence of the restart is not the peer's."""
    first = make()
    peer.claim("serv2", 5)
    calm(first, peer)
    talk(first, peer, 0.6)  # the view is written
    for path in first.paths:
        path.close()
    second = make()
    known = second.peers.peers["serv2"]
    assert known.fresh(second.rules, view.now() + 0.05)
    assert known.groups["serv2"].held and known.groups["serv2"].epoch == 5
    assert second.voice.incarnation > first.voice.incarnation
    assert second.unsure_until > view.now()
    talk(second, peer, 0.5)
    assert not any("told" in line for line in site.journal())


def test_strangers_are_counted_and_told(make: Make, site: Site, peer: Peer) -> None:
    loop = make()
    calm(loop, peer)
    for path in peer.paths:
        path.send(b"clusterd1" + bytes(40))
        path.send(b"hello")
    talk(loop, peer, until=lambda: "strangers" in site.told())
    assert loop.door.rejected == {"signature": 2, "short": 2}


def test_a_disk_that_hangs_does_not_stop_it(make: Make, site: Site, peer: Peer) -> None:
    """What may take long is the worker's: the loop goes on speaking."""
    loop = make()
    calm(loop, peer)
    pipe = site.root / "pipe"
    os.mkfifo(pipe)
    loop.worker.do(pipe.read_text)
    peer.claim("serv2", 9)
    peer.hears()
    talk(loop, peer, 0.5)
    assert peer.hears()["heartbeat"].groups["serv2"].epoch == 9
    pipe.write_text("the disk is back")


def test_while_the_kernel_answers_no_renewal_no_word_comes_to_the_device(
    make: Make, site: Site, peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop turns, but an address that lapses now may stay: only a reset would end that. A pipe is the device."""
    site.hold("serv1", 3)
    device = tmp_path / "watchdog"
    os.mkfifo(device)
    hardware = os.open(device, os.O_RDONLY | os.O_NONBLOCK)
    monkeypatch.setattr(Dog, "_open", lambda self: os.open(self.path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    loop = make()
    loop.estate.lease = 1.0  # the kernel's own is longer: nothing lapses on a busy machine
    loop.dog = Dog(loop.config.me()._replace(watchdog_device=str(device), watchdog_timeout=1.0), print)
    keeper, answers, renew_one = loop.estate.keeper, threading.Event(), loop.estate.keeper._renew_one

    def words() -> bytes:
        try:
            return os.read(hardware, 4096)
        except BlockingIOError:
            return b""

    def stuck(where: Place, address: str) -> int:
        answers.wait()
        return renew_one(where, address)

    try:
        calm(loop, peer)
        talk(loop, peer, until=words)
        monkeypatch.setattr(keeper, "_renew_one", stuck)
        talk(loop, peer, until=lambda: keeper.waited(view.now()) > loop.estate.lease + 0.5)
        words()  # what was said within the lease
        peer.hears()
        talk(loop, peer, 1.5)
        assert peer.hears(), "the loop turns"
        assert words() == b""
        answers.set()
        talk(loop, peer, until=words)
    finally:
        answers.set()
        loop.dog.disarm()
        os.close(hardware)


def test_a_record_that_cannot_be_read_is_neither_renewed_nor_acquired(make: Make, site: Site, peer: Peer) -> None:
    site.hold("serv1", 3)
    loop = make()
    calm(loop, peer)
    path = Path(ownership.path("serv1"))
    good = path.read_text()
    path.write_text("{")
    talk(loop, peer, until=lambda: "record-unreadable" in site.told())
    assert "serv1" not in loop.estate.up
    path.write_text(good)
    talk(loop, peer, until=lambda: "serv1" in loop.estate.up)


def test_unused_paths_do_no_harm(make: Make, site: Site, peer: Peer) -> None:
    """The main NIC goes away altogether and comes back."""
    loop = make()
    calm(loop, peer)
    site.lan.ip("serv1", "link set eth0 down")
    talk(loop, peer, 0.5)
    site.lan.ip("serv1", "link set eth0 up")
    calm(loop, peer)
    assert arp.Socket("eth0").fileno() >= 0


def test_foreign_records_are_learnt(make: Make, site: Site, peer: Peer) -> None:
    """A higher epoch that a peer knows is on this disk as well, before it is needed."""
    loop = make()
    peer.claim("serv2", 12)
    talk(loop, peer, until=lambda: ownership.read("serv2").epoch == 12)
    assert ownership.read("serv2").holder == "serv2"
    assert ownership.read("serv2").phase == Record("x").phase
