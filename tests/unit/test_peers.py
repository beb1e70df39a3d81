"""What is remembered of the peers: by path and by word, through pauses and restarts."""

import time
from typing import Any

import pytest

from clusterd import reach, state, view
from clusterd.heartbeat import Word
from clusterd.model import Config
from clusterd.peers import Peers, open_paths
from clusterd.picture import Claim, Me, Own, Rules
from unit.site import Peer, Site
from unit.site import made_peer as made_peer
from unit.site import made_site as made_site

pytest_plugins = ["lan"]

RULES = Rules()
ME = Me("serv1", {"serv1": Own("serv1"), "serv2": Own("serv2")}, reach=2)


def word(config: Config, sequence: int = 1, **facts: Any) -> Word:
    made = Word(
        node="serv2",
        incarnation=7,
        sequence=sequence,
        boot="theirs",
        groups={"serv2": Claim(4, "serv2", True)},
        standby="",
        reach=2,
        asked=2,
        lan=True,
        hears=("serv1",),
        digest=config.digest[:16],
        clock=time.time() + 3,
    )
    return made._replace(**facts)


def test_nothing_is_known_at_first(pair: Config) -> None:
    made = Peers(pair)
    [peer] = made.note(RULES, ME, 100.0)
    assert peer.heard == {"heartbeat": None}
    assert (peer.silence(100.0), peer.fresh(RULES, 100.0), made.heard(RULES, 100.0)) == (None, False, ())


def test_a_word_is_taken_in(pair: Config) -> None:
    made = Peers(pair)
    assert made.hear(word(pair), "heartbeat", 100.0)
    [peer] = made.note(RULES, ME, 100.05)
    assert peer.fresh(RULES, 100.05) and not peer.fresh(RULES, 100.19)
    assert (peer.groups["serv2"].epoch, peer.reach, peer.hears_me, peer.digest_same) == (4, 2, True, True)
    assert made.heard(RULES, 100.05) == ("serv2",)
    seen = made.views(RULES, 100.05)["serv2"]
    assert seen.paths == {"heartbeat": 0.05}
    assert seen.skew is not None and 2.5 < seen.skew < 3.5
    assert made.views(RULES, 101.0)["serv2"].skew is None


@pytest.mark.parametrize(
    "news",
    [
        {"groups": {"serv2": Claim(5, "serv2", True)}},
        {"standby": "person"},
        {"reach": 1},
        {"hears": ()},
    ],
)
def test_what_is_news(pair: Config, news: dict[str, Any]) -> None:
    """The loop decides at once on what has changed, and not on every datagram."""
    made = Peers(pair)
    made.hear(word(pair), "heartbeat", 100.0)
    assert not made.hear(word(pair, 2), "heartbeat", 100.1)
    assert made.hear(word(pair, 3, **news), "heartbeat", 100.15)
    assert made.hear(word(pair, 4, **news), "heartbeat", 100.45)  # it was overdue


def test_who_hears_nobody_asks_the_reference_hosts_often_for_as_long_as_that_lasts(pair: Config) -> None:
    """They are all that shows that it is cut off; its peer may live, hear nobody either, and take what it serves."""
    made = Peers(pair)
    made.hear(word(pair), "heartbeat", 100.0)
    assert [made.pace(RULES, standby, 100.05) for standby in (False, True)] == [reach.CALM, reach.CLOSE]
    assert made.pace(RULES, False, 100.2) == reach.URGENT
    assert made.pace(RULES, False, 100.0 + 10 * RULES.dead_after + 1) == RULES.interval
    assert made.pace(RULES, False, 100.0 + 3600) == RULES.interval


def test_another_configuration_is_noticed(pair: Config) -> None:
    made = Peers(pair)
    made.hear(word(pair, digest="0" * 16), "heartbeat", 100.0)
    assert not made.views(RULES, 100.0)["serv2"].digest_same


def test_the_lan_is_a_path_only_while_both_have_an_address(pair: Config) -> None:
    made = Peers(pair)
    made.expect_lan(True, 99.0)
    assert set(made.peers["serv2"].heard) == {"heartbeat"}
    made.hear(word(pair), "heartbeat", 100.0)
    made.expect_lan(False, 100.0)
    assert set(made.peers["serv2"].heard) == {"heartbeat"}
    made.expect_lan(True, 100.0)
    # It counts from when that began, and the time runs on while it is silent.
    assert made.peers["serv2"].heard["lan"] == 100.0
    made.hear(word(pair, 2), "heartbeat", 100.4)
    made.expect_lan(True, 100.4)
    assert made.peers["serv2"].dead_paths(RULES, 100.4) == ["lan"]
    made.hear(word(pair, 3, lan=False), "heartbeat", 100.5)
    made.expect_lan(True, 100.5)
    assert set(made.peers["serv2"].heard) == {"heartbeat"}


def test_a_path_is_not_forgotten_with_the_last_that_was_heard_on_it(pair: Config) -> None:
    """A peer that was last heard on the LAN alone: when this node loses its address, it does not look unheard-of."""
    made = Peers(pair)
    made.hear(word(pair), "lan", 100.0)
    made.expect_lan(True, 100.0)
    made.expect_lan(False, 100.1)
    assert made.peers["serv2"].silence(100.5) == 0.5
    made.hear(word(pair, 2), "heartbeat", 101.0)
    made.hear(word(pair, 3), "lan", 101.3)
    made.expect_lan(False, 101.3)
    assert made.peers["serv2"].silence(101.4) == pytest.approx(0.1)
    made.hear(word(pair, 4), "heartbeat", 101.5)
    made.expect_lan(False, 101.5)
    assert set(made.peers["serv2"].heard) == {"heartbeat"}


def test_what_came_on_the_forgotten_path_a_moment_later_counts(pair: Config) -> None:
    made = Peers(pair)
    made.hear(word(pair), "heartbeat", 100.0)
    made.hear(word(pair, 2), "lan", 100.06)
    made.expect_lan(False, 100.1)
    assert made.peers["serv2"].heard == {"heartbeat": 100.06}


def test_epochs_that_a_rumour_was_the_first_to_tell_of(pair: Config) -> None:
    made = Peers(pair)
    known = {"serv1": 5, "serv2": 3}
    made.rumour(word(pair), 100.0, known.get)
    assert made.peers["serv2"].news == {"serv2": 4}
    made.rumour(word(pair, 2), 100.1, {**known, "serv2": 4}.get)
    peer = made.peers["serv2"]
    assert peer.news == {"serv2": 4}
    assert peer.has_it_by_rumour(RULES, "serv2", 100.2) and not peer.has_it_by_rumour(RULES, "serv1", 100.2)
    assert made.views(RULES, 100.2)["serv2"].rumours == {"serv2": 4}
    assert made.views(RULES, 101.0)["serv2"].rumours == {}


def test_a_pause_is_not_the_peers_silence(pair: Config) -> None:
    made = Peers(pair)
    made.hear(word(pair), "heartbeat", 100.0)
    made.note(RULES, ME, 100.0)
    made.excuse(RULES, 100.1, 130.0)
    [peer] = made.peers.values()
    assert peer.silence(130.0) == 0.0
    assert not peer.hears_me and peer.whole_since is None
    # Who was silent already is not excused.
    made.excuse(RULES, 130.5, 140.0)
    assert made.peers["serv2"].silence(140.0) == 10.0


def test_a_path_that_never_spoke_stays_silent_through_a_pause(pair: Config) -> None:
    made = Peers(pair)
    made.peers["serv2"] = made.peers["serv2"]._replace(heard={"heartbeat": 100.0, "lan": None})
    made.excuse(RULES, 100.1, 130.0)
    assert made.peers["serv2"].heard == {"heartbeat": 130.0, "lan": None}


def test_whole_since_survives_only_what_is_whole(pair: Config) -> None:
    made = Peers(pair)
    for tick in range(5):
        made.hear(word(pair, tick + 1), "heartbeat", 100.0 + tick / 10)
        [peer] = made.note(RULES, ME, 100.0 + tick / 10)
    assert peer.whole_since == 100.0
    [peer] = made.note(RULES, ME, 101.0)
    assert peer.whole_since is None
    made.hear(word(pair, 9), "heartbeat", 101.1)
    [peer] = made.note(RULES, ME, 101.1)
    assert peer.whole_since == 101.1


def test_the_old_view_is_gone_on_from(pair: Config) -> None:
    """A loop that was restarted knows what the one before knew, at the times at which it knew it."""
    old = Peers(pair)
    old.hear(word(pair, standby="program"), "heartbeat", 100.0)
    written = view.View(
        "serv1", state.boot_id(), 103.1, 100.1, "", 2, 2, {}, old.views(RULES, 100.1), [], {}
    )  # fmt: skip
    view.write(written)
    found = view.read(stale=True)
    assert found
    made = Peers(pair)
    made.remember(found)
    peer = made.peers["serv2"]
    assert peer.heard == {"heartbeat": pytest.approx(100.0)}
    assert (peer.groups["serv2"].epoch, peer.groups["serv2"].held, peer.standby) == (4, True, "program")
    assert peer.silence(100.5) == pytest.approx(0.5)
    # A network that has left the configuration is not remembered, nor is a node.
    elsewhere = found.peers["serv2"]._replace(paths={"heartbeat": 0.1, "lan": 0.2, "plant": 0.1})
    made = Peers(pair)
    made.remember(found._replace(peers={"serv2": elsewhere}))
    assert set(made.peers["serv2"].heard) == {"heartbeat", "lan"}
    gone = found._replace(peers={"serv9": found.peers["serv2"]._replace(name="serv9")})
    made = Peers(pair)
    made.remember(gone)
    assert set(made.peers) == {"serv2"}


def test_paths_of_the_pair(site: Site, peer: Peer) -> None:
    """The heartbeat network and the LAN; on the LAN the peer may be at any of its addresses."""
    opened = open_paths(site.load())
    try:
        assert [(path.name, path.interface, path.port) for path in opened] == [
            ("heartbeat", "eth1", 694),
            ("lan", "eth0", 694),
        ]
        assert opened[0].targets == {"serv2": ("192.168.111.2",)}
        assert opened[1].targets == {"serv2": ("10.1.0.2", "10.1.0.12")}
        assert all(path.send(b"x" * 100) for path in opened[:1])
    finally:
        for path in opened:
            path.close()


def test_what_was_overtaken_on_another_path_is_a_sign_of_life_and_no_word(pair: Config) -> None:
    made = Peers(pair)
    made.hear(word(pair, 8), "heartbeat", 100.0)
    assert not made.hear(word(pair, 7, groups={}, standby="person"), "lan", 100.3)
    [peer] = made.note(RULES, ME, 100.3)
    assert (peer.silence(100.3), peer.standby, peer.groups["serv2"].held) == (0.0, "", True)
    made.hear(word(pair, 1, incarnation=8, standby="program"), "heartbeat", 100.4)
    assert made.peers["serv2"].standby == "program"


# --- more than two ---


def three(pair: Config) -> Peers:
    return Peers(pair._replace(nodes={**pair.nodes, "serv3": pair.nodes["serv2"]._replace(name="serv3")}))


def test_of_several_all_that_are_heard_must_know_what_is_taken(pair: Config) -> None:
    made = three(pair)
    assert made.agree(RULES, "serv2", (5, 10), 100.0), "nobody is heard"
    made.hear(word(pair, node="serv3", groups={}), "heartbeat", 100.0)
    assert not made.agree(RULES, "serv2", (5, 10), 100.0), "it has not heard us yet"
    for seen, known in (((5, 9), False), ((4, 99), False), ((5, 10), True), ((6, 1), True)):
        made.hear(word(pair, node="serv3", groups={}, seen={"serv1": seen}), "heartbeat", 100.0)
        assert made.agree(RULES, "serv2", (5, 10), 100.1) == known
    wants = {"serv2": Claim(4, "serv2", taking=5)}
    made.hear(word(pair, node="serv3", groups=wants, seen={"serv1": (6, 1)}), "heartbeat", 100.0)
    assert made.awaits_us(made.words["serv3"])
    assert not made.agree(RULES, "serv2", (5, 10), 100.1), "it wants the group itself"
    assert made.agree(RULES, "serv2", (5, 10), 100.3), "it is not heard any more"
    assert made.seen(RULES, 100.1) == {"serv3": (7, 1)}


def test_who_is_heard_again_and_has_not_heard_us_yet_is_waited_for(pair: Config) -> None:
    """Two that begin to hear each other have old words of each other, and both might take the same group."""
    made = three(pair)
    for at in (100.0, 100.1, 100.2, 100.29):
        made.hear(word(pair, node="serv3", groups={}, hears=()), "heartbeat", at)
        made.note(RULES, ME, at)
        assert not made.agree(RULES, "serv2", (5, 10), at), "its word may be older than its hearing"
    made.hear(word(pair, node="serv3", groups={}, hears=()), "heartbeat", 100.31)
    made.note(RULES, ME, 100.31)
    assert made.agree(RULES, "serv2", (5, 10), 100.31), "it has not heard us in dead_after, and is the isolated one"


def test_who_comes_to_no_word_of_ours_for_long_is_not_waited_for(pair: Config) -> None:
    """It is heard, and says that it hears us; but it is so busy that it throws away what it gets each time."""
    made = three(pair)
    busy: dict[str, Any] = {"node": "serv3", "groups": {}, "seen": {"serv1": (5, 9)}}
    made.hear(word(pair, **busy), "heartbeat", 100.0)
    for step in range(1, 13):
        made.hear(word(pair, 1 + step, **busy), "heartbeat", 100.0 + step / 4)
        assert made.agree(RULES, "serv2", (5, 10), 100.0 + step / 4) == (step == 12)
    wants = {**busy, "groups": {"serv2": Claim(4, "serv2", taking=5)}}
    made.hear(word(pair, 14, **wants), "heartbeat", 103.1)
    assert not made.agree(RULES, "serv2", (5, 10), 103.1), "it wants the group itself"
    made.hear(word(pair, 15, **{**busy, "seen": {"serv1": (5, 9)}}), "heartbeat", 104.0)
    assert not made.agree(RULES, "serv2", (5, 10), 104.0), "it was silent, and may have something new to say"
    made.hear(word(pair, 16, **{**busy, "seen": {"serv1": (5, 10)}}), "heartbeat", 104.1)
    assert made.agree(RULES, "serv2", (5, 10), 104.1)


def test_a_pair_needs_no_agreement(pair: Config) -> None:
    made = Peers(pair)
    made.hear(word(pair, groups={"serv2": Claim(4, "serv2", taking=5)}), "heartbeat", 100.0)
    assert made.agree(RULES, "serv2", (5, 10), 100.0)
    assert not made.awaits_us(made.words["serv2"])
    assert made.seen(RULES, 100.0) == {}


def test_a_loop_that_starts_anew_remembers_who_counts_no_more(pair: Config) -> None:
    made = three(pair)
    for name in ("serv2", "serv3"):
        made.hear(word(pair, node=name), "heartbeat", 100.0)
    me = Me("serv1", {name: Own(name) for name in ("serv1", "serv2", "serv3")}, reach=2)
    made.hear(word(pair, 2), "heartbeat", 104.0)
    made.note(RULES, me, 104.0)
    seen = made.views(RULES, 104.0)
    assert (seen["serv2"].counted, seen["serv3"].counted) == (True, False)
    old = view.View("serv1", state.boot_id(), 107.0, 104.0, "", 2, 2, {}, seen, [], {})
    assert not old.outnumbered()
    anew = three(pair)
    anew.remember(old)
    assert (anew.peers["serv2"].counted, anew.peers["serv3"].counted) == (True, False)
    alone = old._replace(peers={name: each._replace(heard=False, counted=True) for name, each in seen.items()})
    assert alone.outnumbered()
    assert not alone._replace(peers={"serv2": alone.peers["serv2"]}).outnumbered(), "a pair has no majority"
