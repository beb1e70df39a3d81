"""The decision: every row of the table of docs/design.md, and what may never be decided, whatever the picture."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterd.actions import Acquire, Desist, EnterStandby, Failback, HandOver, LeaveStandby, LetGo, Resume, Suspend
from clusterd.conditions import Condition
from clusterd.picture import ACQUIRE, PERSON, PROGRAM, RESUME, UNHELD, Claim, Me, Own, Peer, Rules
from clusterd.silence import RESTART
from clusterd.verdict import Verdict, decide

RULES = Rules()
NOW = 1000.0
HB, LAN = "heartbeat", "lan"


def own(home: str, **about: Any) -> Own:
    return Own(home, **{"epoch": 5, "holder": home, **about})


def held(home: str, **about: Any) -> Own:
    return own(home, **{"holder": "serv1", "held": True, "up": True, **about})


def me(groups: dict[str, Own] | None = None, **about: Any) -> Me:
    """serv1, which holds its own group while serv2 holds the other."""
    return Me("serv1", groups or {"serv1": held("serv1"), "serv2": own("serv2")}, **{"reach": 2, **about})


def claims(*mine: str, epoch: int = 5) -> dict[str, Claim]:
    """What serv2 says when it holds `mine`."""
    return {
        group: Claim(epoch, "serv2", True) if group in mine else Claim(epoch, "serv1") for group in ("serv1", "serv2")
    }


def peer(*mine: str, ago: float | None = 0.05, **about: Any) -> Peer:
    """serv2, heard on both paths `ago` seconds ago."""
    at = None if ago is None else NOW - ago
    known: dict[str, Any] = {
        "heard": {HB: at, LAN: at},
        "groups": claims(*mine),
        "reach": 2,
        "hears_me": True,
        "mutual_since": NOW - 60,
        "boot": "b2",
    }
    return Peer("serv2", **{**known, **about})


def actions(rules: Rules, who: Me, *peers: Peer) -> list[Any]:
    return list(decide(rules, who, peers, NOW).actions)


def conditions(who: Me, *peers: Peer, rules: Rules = RULES) -> set[str]:
    return {condition.name for condition in decide(rules, who, peers, NOW).conditions}


SILENT = {"silent_since": NOW - 0.16}
LONG_SILENT = {"silent_since": NOW - UNHELD}
DEAD = peer("serv2", ago=RULES.dead_after + 0.01)
HUNG = peer("serv2", ago=RULES.dead_after + RESTART + 0.01)


# --- the peer is heard on every path ---


def test_all_is_well() -> None:
    assert decide(RULES, me(), (peer("serv2"),), NOW) == Verdict((), ())


def away(**about: Any) -> Me:
    """serv1 holds both groups."""
    return me({"serv1": held("serv1"), "serv2": held("serv2", **about)})


def back(**about: Any) -> Peer:
    """serv2 is back, in standby, stable for longer than hold_down."""
    return peer(**{"whole_since": NOW - 61, "standby": PROGRAM, **about})


def test_failback_when_the_home_node_is_stable() -> None:
    assert actions(RULES, away(), back()) == [Failback("serv2", "serv2")]


@pytest.mark.parametrize(
    "peer_about",
    [
        {"whole_since": NOW - 59},
        {"whole_since": None},
        {"standby": PERSON},
        {"digest_same": False},
        {"reach": 1},
        {"reach": None},
        {"hears_me": False},
    ],
)
def test_no_failback_to_a_node_that_is_not_fit(peer_about: dict[str, Any]) -> None:
    assert actions(RULES, away(), back(**peer_about)) == []


def test_no_failback_of_what_a_person_moved() -> None:
    assert actions(RULES, away(pinned=True), back()) == []


def test_no_failback_of_a_group_that_is_at_home() -> None:
    assert actions(RULES, me(), back(groups=claims())) == []


def test_no_failback_while_the_group_is_being_worked_on() -> None:
    assert actions(RULES, away(busy=True), back()) == []


def test_failback_waits_after_a_failed_one() -> None:
    assert actions(RULES, away(move_at=NOW + 1), back()) == []
    assert actions(RULES, away(move_at=NOW), back()) == [Failback("serv2", "serv2")]
    assert actions(RULES, away(retry_at=NOW + 1), back()) == [Failback("serv2", "serv2")]


def test_manual_failback_is_left_to_a_person_who_is_told() -> None:
    manual = RULES._replace(failback="manual")
    assert actions(manual, away(), back()) == []
    assert "failback-waiting" in conditions(away(), back(), rules=manual)
    assert "failback-waiting" not in conditions(away(), back(whole_since=NOW), rules=manual)


def test_no_failback_with_a_path_down() -> None:
    half = back(heard={HB: NOW - 0.05, LAN: NOW - 9}, whole_since=None)
    assert actions(RULES, away(), half) == []


# --- heard on some paths only ---


def outvoted(since: float, **about: Any) -> Peer:
    return peer("serv2", heard={HB: NOW - 0.05, LAN: NOW - 9}, outvoted_since=since, **about)


def test_lower_reach_for_the_whole_of_dead_after_hands_over() -> None:
    who = me(reach=0)
    assert actions(RULES, who, outvoted(NOW - RULES.dead_after - 0.01)) == [
        HandOver("serv1", "serv2", "serv1 reaches 0 reference hosts, serv2 2")
    ]


def test_lower_reach_for_less_than_dead_after_waits() -> None:
    assert actions(RULES, me(reach=0), outvoted(NOW - RULES.dead_after + 0.01)) == []


def test_a_switch_that_comes_back_port_by_port_moves_nothing() -> None:
    """Both were dark for long; who sees the network a moment later than the other is no worse a node."""
    who = me(reach=0, unreached_since=NOW - 10)
    assert actions(RULES, who, outvoted(NOW - UNHELD + 0.1)) == []
    assert [type(action) for action in actions(RULES, who, outvoted(NOW - UNHELD - 0.1))] == [HandOver]


@pytest.mark.parametrize("cause", [PERSON, PROGRAM])
def test_nothing_is_handed_to_a_node_in_standby(cause: str) -> None:
    assert actions(RULES, me(reach=0), outvoted(NOW - 9, standby=cause)) == []


def test_equal_reach_carries_on_and_names_the_path() -> None:
    half = peer("serv2", heard={HB: NOW - 9, LAN: NOW - 0.05})
    answer = decide(RULES, me(), (half,), NOW)
    assert answer.actions == ()
    assert [(c.name, c.subject) for c in answer.conditions] == [("path-down", "serv2/heartbeat")]


# --- nobody is heard, and no reference host answers ---


def isolated(**about: Any) -> Me:
    return me(**{"reach": 0, "unreached_since": NOW - 0.1, **about})


def test_the_isolated_one_lets_go_at_once() -> None:
    quiet = peer("serv2", ago=RULES.isolated_after + 0.01)
    assert actions(RULES, isolated(), quiet) == [Suspend("serv1", "no peer is heard and no reference host answers")]
    assert "isolated" in conditions(isolated(), quiet)


def test_the_isolated_one_lets_go_even_of_what_is_being_worked_on() -> None:
    both = {"serv1": held("serv1", busy=True), "serv2": held("serv2", unfinished=True)}
    assert [type(action) for action in actions(RULES, isolated(groups=both), peer(ago=1.0))] == [Suspend, Suspend]


def test_it_is_not_isolated_before_isolated_after() -> None:
    assert actions(RULES, isolated(), peer("serv2", ago=RULES.isolated_after - 0.01)) == []


def test_who_is_heard_by_nobody_and_reaches_no_reference_host_is_isolated_though_it_hears_a_peer() -> None:
    """Its cable carries one way only: the peer will take its group, and it may not hear that in time."""
    deaf = peer("serv2", hears_me=False)
    said = "no reference host answers, and no peer hears this node"
    assert actions(RULES, isolated(), deaf) == [Suspend("serv1", said)]
    assert actions(RULES, me(), deaf) == []
    assert actions(RULES, isolated(), peer("serv2")) == []


def test_it_is_not_isolated_while_a_reference_host_answers() -> None:
    quiet = peer("serv2", ago=RULES.isolated_after + 0.01)
    assert actions(RULES, me(reach=1), quiet) == []


def test_it_lets_go_once() -> None:
    suspended = {"serv1": held("serv1", up=False)}
    assert actions(RULES, isolated(groups=suspended), peer(ago=1.0)) == []


def test_the_isolated_one_acquires_nothing() -> None:
    groups = {"serv1": held("serv1", up=False, **LONG_SILENT), "serv2": own("serv2", **LONG_SILENT)}
    assert actions(RULES, isolated(groups=groups), DEAD) == []


# --- not heard for dead_after, while reference hosts answer ---


def test_the_dead_ones_group_is_taken_when_the_lan_is_silent() -> None:
    who = me({"serv1": held("serv1"), "serv2": own("serv2", **SILENT)})
    assert actions(RULES, who, DEAD) == [Acquire("serv2", 6, "serv2 is dead")]
    assert "peer-dead" in conditions(who, DEAD)


def test_it_is_not_taken_before_dead_after() -> None:
    who = me({"serv1": held("serv1"), "serv2": own("serv2", **SILENT)})
    assert actions(RULES, who, peer("serv2", ago=RULES.dead_after - 0.01)) == []


def test_it_is_not_taken_while_somebody_answers() -> None:
    who = me({"serv1": held("serv1"), "serv2": own("serv2", answered=True, **SILENT)})
    assert actions(RULES, who, DEAD) == []
    assert "takeover-held-back" in conditions(who, DEAD)


def test_it_is_not_taken_before_the_lan_was_asked() -> None:
    assert actions(RULES, me(), DEAD) == []


@pytest.mark.parametrize("reach", [0, None])
def test_it_is_not_taken_without_a_reference_host(reach: int | None) -> None:
    who = me({"serv1": held("serv1"), "serv2": own("serv2", **SILENT)}, reach=reach)
    assert actions(RULES, who, DEAD) == []


def test_it_is_not_taken_while_a_takeover_is_under_way_or_has_just_failed() -> None:
    for about in ({"busy": True}, {"retry_at": NOW + 1}):
        who = me({"serv1": held("serv1"), "serv2": own("serv2", **SILENT, **about)})
        assert actions(RULES, who, DEAD) == []


def test_a_peer_that_answers_for_another_group_lives() -> None:
    """What was asked about the one was lost. With a fence agent it may answer; and not for ever."""
    who = me({"serv1": own("serv1", holder="serv2", **SILENT), "serv2": own("serv2", answered=True)})
    both = peer("serv1", "serv2", ago=RULES.dead_after + 0.01)
    assert actions(RULES, who, both) == []
    assert actions(RULES, who, peer("serv1", ago=RULES.dead_after + 0.01)) == [], "it has taken serv2 since"
    later = peer("serv1", "serv2", ago=RULES.dead_after + UNHELD + 0.01)
    assert [each.group for each in actions(RULES, who, later)] == ["serv1"]
    assert [each.group for each in actions(RULES._replace(fencing=True), who, both)] == ["serv1"]


def test_a_takeover_does_not_wait_for_a_hand_over_that_has_failed() -> None:
    who = me({"serv1": held("serv1"), "serv2": own("serv2", **SILENT, move_at=NOW + 300)})
    assert actions(RULES, who, DEAD) == [Acquire("serv2", 6, "serv2 is dead")]


def test_the_highest_epoch_that_anybody_named_is_exceeded() -> None:
    who = me({"serv1": held("serv1"), "serv2": own("serv2", epoch=3, **SILENT)})
    gone = DEAD._replace(groups={"serv2": Claim(8, "serv2", True)})
    assert actions(RULES, who, gone) == [Acquire("serv2", 9, "serv2 is dead")]


def test_a_group_that_the_dead_one_held_last_is_taken_though_it_claimed_it_no_more() -> None:
    who = me({"serv1": held("serv1"), "serv2": own("serv2", **SILENT)})
    assert actions(RULES, who, DEAD._replace(groups=claims())) == [Acquire("serv2", 6, "serv2 is dead")]


def test_what_was_here_last_is_taken_only_after_a_long_silence() -> None:
    """The other end of the cut sees the same silence, and takes it at once: only one of the two may."""
    lost = me({"serv1": own("serv1", **SILENT), "serv2": own("serv2")})
    gone = DEAD._replace(groups=claims("serv2"))
    assert actions(RULES, lost, gone) == []
    waited = me({"serv1": own("serv1", **LONG_SILENT), "serv2": own("serv2")})
    assert actions(RULES, waited, gone) == [Acquire("serv1", 6, "nobody holds it")]


def test_a_group_that_nobody_ever_held_goes_to_its_home() -> None:
    fresh = {"epoch": 0, "holder": ""}
    who = me({"serv1": own("serv1", **fresh, **LONG_SILENT), "serv2": own("serv2", **fresh, **LONG_SILENT)})
    gone = DEAD._replace(groups={name: Claim() for name in ("serv1", "serv2")})
    assert actions(RULES, who, gone) == [Acquire("serv1", 1, "nobody holds it")]


# --- with a fence agent its success, which the takeover waits for, is the proof ---

FENCING = RULES._replace(fencing=True)


@pytest.mark.parametrize("lan", [{"answered": True}, {}])
def test_with_fencing_the_dead_ones_group_is_taken_whoever_answers(lan: dict[str, Any]) -> None:
    """But not at once: its watchdog may be starting again, and a restart costs nobody the power."""
    who = me({"serv1": held("serv1"), "serv2": own("serv2", **lan)})
    assert actions(FENCING, who, DEAD) == actions(RULES, who, HUNG) == []
    assert actions(FENCING, who, HUNG) == [Acquire("serv2", 6, "serv2 is dead")]


def test_with_fencing_one_that_does_not_answer_either_is_taken_from_at_once() -> None:
    who = me({"serv1": held("serv1"), "serv2": own("serv2", **SILENT)})
    assert actions(FENCING, who, DEAD) == [Acquire("serv2", 6, "serv2 is dead")]


def test_with_fencing_nobody_is_fenced_for_what_was_here_last_and_is_answered_for_elsewhere() -> None:
    who = me({"serv1": own("serv1", answered=True, **LONG_SILENT)})
    assert actions(FENCING, who, DEAD._replace(groups={})) == []


def test_with_fencing_what_nobody_claims_is_not_taken_while_it_is_answered_for() -> None:
    groups = {"serv1": own("serv1", unheld_since=NOW - UNHELD, answered=True, **SILENT)}
    assert actions(FENCING, me(groups), peer()) == []


def test_with_fencing_whoever_hears_nobody_after_a_boot_fences_nobody_who_answers() -> None:
    """Never heard is not dead: it may be this node that is deaf."""
    rules, never = FENCING._replace(start_alone="any"), peer(ago=None, groups={})
    for silence in (SILENT, {}, {"answered": True}):
        who = me({"serv2": own("serv2", **silence)}, started=NOW - 1000)
        taken = [Acquire("serv2", 6, "no peer has been heard since the start")]
        assert actions(rules, who, never) == (taken if silence == SILENT else [])


def test_with_fencing_a_takeover_goes_on_while_the_one_to_be_fenced_still_answers() -> None:
    taking = {"busy": True, "ordered": ACQUIRE, "intended": 6, "answered": True}
    who = me({"serv1": held("serv1"), "serv2": own("serv2", unheard=("serv2",), **taking)})
    assert actions(FENCING, who, DEAD) == []
    assert actions(RULES, who, DEAD) == [Desist("serv2", "somebody else answers for it")]
    nobody = me({"serv1": held("serv1"), "serv2": own("serv2", **taking)})
    assert actions(FENCING, nobody, peer()) == [Desist("serv2", "somebody else answers for it")]


@pytest.mark.parametrize("other", [peer("serv2"), peer()])
def test_with_fencing_a_takeover_ends_when_the_one_to_be_fenced_is_heard_again(other: Peer) -> None:
    """Whatever it claims: it may have let go because it has heard that its group is to be taken."""
    about = {"busy": True, "ordered": ACQUIRE, "intended": 6}
    who = me({"serv1": held("serv1"), "serv2": own("serv2", unheard=("serv2",), **about)})
    assert actions(FENCING, who, other) == [Desist("serv2", "serv2 is heard again: it is not to be fenced")]
    assert actions(FENCING, who, DEAD) == []
    assert actions(RULES, who, other) == [], "without an agent it takes no time, and the holder lets go"
    nobody = me({"serv1": held("serv1"), "serv2": own("serv2", **about)})
    assert actions(FENCING, nobody, other) == [], "nobody is to be fenced"


def test_with_fencing_isolation_ends_it_too() -> None:
    who = me({"serv2": own("serv2", busy=True, ordered=ACQUIRE)}, reach=0, unreached_since=NOW - 0.1)
    assert actions(FENCING, who, DEAD) == [Desist("serv2", "this node is isolated")]


def test_a_fencing_that_failed_is_a_condition_while_the_peer_is_silent() -> None:
    """It stands there between two tries and during them; nothing is held back by what answers."""
    for busy in (False, True):
        failed = own("serv2", failed="not fenced: serv2 could not be switched off", busy=busy, answered=True)
        who = me({"serv1": held("serv1"), "serv2": failed}, reach=2)
        found = decide(FENCING, who, (DEAD,), NOW).conditions
        assert [each for each in found if each.name != "peer-dead"] == [
            Condition("fence-failed", "serv2", "not fenced: serv2 could not be switched off")
        ]
        assert decide(FENCING, who, (peer("serv2"),), NOW).conditions == ()
    other = me({"serv1": held("serv1"), "serv2": own("serv2", failed="the NIC is missing", answered=True)})
    assert conditions(other, DEAD, rules=FENCING) == {"peer-dead"}


# --- two holders claimed ---


def test_the_lower_epoch_lets_go_at_once() -> None:
    other = peer("serv1", "serv2", groups=claims("serv1", "serv2", epoch=6))
    assert actions(RULES, me(), other)[0] == LetGo("serv1", 6, "serv2", "serv2 holds it with epoch 6")


def test_the_higher_epoch_keeps_it() -> None:
    other = peer(groups=claims("serv1", "serv2", epoch=4))
    assert actions(RULES, me(), other) == []


def test_with_equal_epochs_the_home_node_keeps_it() -> None:
    both = me({"serv1": held("serv1"), "serv2": held("serv2")})
    other = peer("serv1", "serv2")
    assert actions(RULES, both, other) == [LetGo("serv2", 5, "serv2", "serv2 claims it with the same epoch")]


def test_with_equal_epochs_the_home_node_lets_go_if_the_other_cannot_hear_its_claim() -> None:
    other = peer("serv1", "serv2", hears_me=False)
    assert actions(RULES, me(), other) == [LetGo("serv1", 5, "serv2", "serv2 claims it with the same epoch")]


def test_a_takeover_under_way_is_given_up_for_a_higher_epoch() -> None:
    who = me({"serv1": held("serv1"), "serv2": own("serv2", busy=True, intended=6, **SILENT)})
    other = peer(groups=claims("serv2", epoch=7))
    assert LetGo("serv2", 7, "serv2", "serv2 holds it with epoch 7") in actions(RULES, who, other)


def test_a_takeover_under_way_is_given_up_for_an_equal_epoch_of_the_home_node() -> None:
    who = me({"serv1": held("serv1"), "serv2": own("serv2", busy=True, intended=6, **SILENT)})
    other = peer(groups={"serv2": Claim(6, "serv2", True)})
    assert actions(RULES, who, other) == [LetGo("serv2", 6, "serv2", "serv2 claims it with the same epoch")]


def test_two_takeovers_under_way_the_home_node_goes_on() -> None:
    coming = {name: Claim(5, name, False, False, 6) for name in ("serv1", "serv2")}
    groups = {name: own(name, busy=True, intended=6, **SILENT) for name in ("serv1", "serv2")}
    assert actions(RULES, me(groups), peer(groups=coming)) == [
        LetGo("serv2", 6, "serv2", "serv2 is taking it with the same epoch")
    ]
    deaf = peer(groups=coming, hears_me=False)
    assert [action.group for action in actions(RULES, me(groups), deaf)] == ["serv1", "serv2"]


def test_a_takeover_under_way_at_home_is_given_up_for_what_is_served_elsewhere() -> None:
    """The address is up there; the one that is not up yet gives way, or both would answer for a moment."""
    for about in ({"intended": 5}, {"held": True}):
        who = me({"serv1": own("serv1", busy=True, **about)})
        assert actions(RULES, who, peer("serv1")) == [LetGo("serv1", 5, "serv2", "serv2 claims it with the same epoch")]


def test_a_suspended_group_is_given_up_for_an_equal_epoch() -> None:
    who = me({"serv1": held("serv1", up=False)})
    assert actions(RULES, who, peer("serv1"))[0] == LetGo("serv1", 5, "serv2", "serv2 claims it with the same epoch")


def coming(epoch: int = 6, **about: Any) -> Peer:
    """serv2 is about to take serv1's group."""
    return peer(groups={"serv1": Claim(5, "serv1", False, False, epoch)}, **about)


def test_what_is_being_taken_by_a_peer_is_served_no_more() -> None:
    assert actions(RULES, me(), coming(hears_me=False)) == [Suspend("serv1", "serv2 is about to take it")]
    assert actions(RULES, me(), coming(5)) == []


def test_what_is_being_taken_is_not_resumed() -> None:
    assert actions(RULES, me({"serv1": held("serv1", up=False)}), coming()) == []


def test_what_a_deaf_peer_serves_as_well_is_served_no_more() -> None:
    """It has the lower epoch, and does not hear it: only this node can end that."""
    deaf = peer(groups=claims("serv1", epoch=4), hears_me=False)
    assert actions(RULES, me(), deaf._replace(deaf_since=NOW - RULES.dead_after - 0.01)) == [
        Suspend("serv1", "serv2 serves it, and does not hear that it is ours")
    ]
    assert actions(RULES, me(), deaf._replace(deaf_since=NOW - RULES.dead_after + 0.01)) == []
    assert actions(RULES, me(), peer(groups=claims("serv1", epoch=4))) == []


def test_an_epoch_that_was_anothers_as_well_is_exceeded() -> None:
    """The other one would take no pass from us, and we none from it."""
    two = peer(groups={"serv1": Claim(5, "serv2", False)})
    assert actions(RULES, me(), two) == [Acquire("serv1", 6, "another node takes its epoch for an old one")]
    assert actions(RULES, me(standby=PERSON), two)[0] == HandOver("serv1", "serv2", "serv1 is in standby")


def test_a_higher_epoch_that_we_are_said_to_have_is_exceeded() -> None:
    """Another group's, learnt while the nodes had different configurations: no pass of ours would be taken again."""
    two = peer(groups={"serv1": Claim(40, "serv1", False)})
    assert actions(RULES, me(), two) == [Acquire("serv1", 41, "another node takes its epoch for an old one")]
    assert actions(RULES, me(standby=PERSON), two)[0] == HandOver("serv1", "serv2", "serv1 is in standby")
    assert actions(RULES, me(), peer(groups={"serv1": Claim(5, "serv1", False)})) == []


def test_a_takeover_under_way_goes_on_while_the_old_claim_is_repeated() -> None:
    who = me({"serv1": held("serv1"), "serv2": own("serv2", busy=True, intended=6, **SILENT)})
    assert actions(RULES, who, peer("serv2")) == []


def test_a_higher_epoch_counts_even_if_its_holder_does_not_serve_it_now() -> None:
    other = peer(groups={"serv1": Claim(6, "serv2", False)})
    assert actions(RULES, me(), other)[0] == LetGo("serv1", 6, "serv2", "serv2 holds it with epoch 6")


def test_an_old_word_of_a_silent_peer_is_no_claim() -> None:
    gone = peer("serv1", ago=RULES.isolated_after + 0.01, groups=claims("serv1", epoch=9))
    assert actions(RULES, me({"serv1": held("serv1")}), gone) == []


def test_the_isolated_one_heard_again_lets_go_of_what_was_taken() -> None:
    suspended = {"serv1": held("serv1", up=False)}
    other = peer("serv1", groups=claims("serv1", epoch=6))
    assert actions(RULES, me(suspended), other)[0] == LetGo("serv1", 6, "serv2", "serv2 holds it with epoch 6")


# --- ours, but not served: after isolation, a lapsed lease, a takeover that was cut ---


@pytest.mark.parametrize("other", [peer("serv2"), DEAD._replace(groups=claims("serv2"))])
def test_what_was_cut_with_its_addresses_up_is_finished_whoever_is_heard(other: Peer) -> None:
    """Nobody can be asked whether another answers: this node does."""
    who = me({"serv1": held("serv1", unfinished=True)})
    assert actions(RULES, who, other) == [Resume("serv1", "a script that was at work on it was cut")]


@pytest.mark.parametrize("about", [{"up": False}, {"up": False, "unfinished": True}])
def test_resumed_when_the_peer_is_heard_and_has_not_taken_it(about: dict[str, Any]) -> None:
    who = me({"serv1": held("serv1", **about)})
    assert actions(RULES, who, peer("serv2")) == [Resume("serv1", "heard again, and nobody took it")]
    for since in (None, NOW - RULES.dead_after + 0.01):
        assert actions(RULES, who, peer("serv2", mutual_since=since)) == [], "one word that came through is no proof"


def test_not_resumed_before_the_peer_has_heard_us() -> None:
    """Until then it may be taking the group, and says so only in its next word."""
    who = me({"serv1": held("serv1", up=False)})
    assert actions(RULES, who, peer("serv2", hears_me=False)) == []


def test_not_resumed_while_somebody_else_answers() -> None:
    who = me({"serv1": held("serv1", up=False, answered=True)})
    assert actions(RULES, who, peer("serv2")) == []


def test_not_resumed_while_the_peer_claims_it() -> None:
    who = me({"serv1": held("serv1", up=False)})
    assert actions(RULES, who, peer("serv1", groups=claims("serv1", epoch=4))) == []


@pytest.mark.parametrize(("claim", "yields"), [(Claim(5, "serv2", True), True), (Claim(4, "serv2", True), False)])
def test_a_word_that_may_be_old_is_yielded_to_if_its_epoch_is_not(claim: Claim, yields: bool) -> None:
    """It comes from a peer that has heard us on no path since its boot; what was recorded before has a lower epoch."""
    rumour = UNHEARD._replace(rumoured=NOW - 0.05, rumours={"serv1": claim})
    served = me({"serv1": held("serv1")})
    suspended = [Suspend("serv1", "serv2 may be about to take it, and does not hear us")]
    assert actions(RULES, served, rumour) == (suspended if yields else [])
    taking = rumour._replace(rumours={"serv1": Claim(0, "", False, False, claim.epoch)})
    assert actions(RULES, served, taking) == (suspended if yields else [])
    assert actions(RULES, served, rumour._replace(rumoured=NOW - 1)) == []


@pytest.mark.parametrize(("epoch", "hears_me", "suspended"), [(6, True, True), (5, False, True), (5, True, False)])
def test_what_a_peer_is_about_to_take_is_suspended(epoch: int, hears_me: bool, suspended: bool) -> None:
    """One that hears nothing may think of an epoch that is over."""
    other = peer("serv2", hears_me=hears_me, groups={"serv1": Claim(4, "serv1", False, False, epoch)})
    expected = [Suspend("serv1", "serv2 is about to take it")] if suspended else []
    assert actions(RULES, me({"serv1": held("serv1")}), other) == expected


@pytest.mark.parametrize("ordered", [RESUME, ACQUIRE])
@pytest.mark.parametrize("record", [{}, {"holder": "serv1", "held": True}])
def test_a_takeover_goes_on_while_its_reason_lasts(ordered: str, record: dict[str, Any]) -> None:
    who = me({"serv1": own("serv1", busy=True, ordered=ordered, **record)})
    assert actions(RULES, who, peer("serv2")) == []


@pytest.mark.parametrize("ordered", [RESUME, ACQUIRE])
def test_a_takeover_ends_when_somebody_answers_or_the_network_is_gone(ordered: str) -> None:
    about = {"busy": True, "ordered": ordered, "held": True, "holder": "serv1"}
    who = me({"serv1": own("serv1", answered=True, **about)})
    assert actions(RULES, who, peer("serv2")) == [Desist("serv1", "somebody else answers for it")]
    who = me({"serv1": own("serv1", **about)}, reach=0, unreached_since=NOW - 0.1)
    assert actions(RULES, who, DEAD) == [Desist("serv1", "this node is isolated")]
    up = me({"serv1": held("serv1", busy=True, ordered=ordered, answered=True)})
    assert actions(RULES, up, peer("serv2")) == [], "what is up answers for itself"


def test_coming_back_ends_when_a_peer_is_not_heard_or_takes_it() -> None:
    """By the time its script is ready, a peer that does not hear this node may have taken the group."""
    about = {"busy": True, "held": True, "holder": "serv1"}
    back = me({"serv1": own("serv1", ordered=RESUME, **about)})
    for other in (DEAD, peer("serv2", hears_me=False)):
        assert [type(action) for action in actions(RULES, back, other)] == [Desist]
        anew = me({"serv1": own("serv1", ordered=ACQUIRE, **about)})
        assert actions(RULES, anew, other) == []
    taking = peer("serv2", groups={"serv1": Claim(5, "serv1", False, False, 6)})
    assert actions(RULES, back, taking) == [Desist("serv1", "a peer is about to take it")]


def test_alone_it_is_acquired_anew_after_a_long_silence() -> None:
    gone = DEAD._replace(groups=claims("serv2"))
    short = me({"serv1": held("serv1", up=False, **SILENT)})
    assert actions(RULES, short, gone) == []
    waited = me({"serv1": held("serv1", up=False, **LONG_SILENT)})
    assert actions(RULES, waited, gone) == [Acquire("serv1", 6, "nobody else answers for it")]


def test_what_it_has_started_alone_it_puts_up_again_after_a_cut() -> None:
    """Of a peer that was never heard nothing can be told; nor could it before."""
    cut = me({"serv1": held("serv1", up=False, **SILENT)})
    assert actions(RULES, cut, UNHEARD) == []
    waited = me({"serv1": held("serv1", up=False, **LONG_SILENT)})
    assert actions(RULES, waited, UNHEARD) == [Acquire("serv1", 6, "nobody else answers for it")]
    assert actions(RULES, waited._replace(reach=0), UNHEARD) == []
    answering = me({"serv1": held("serv1", up=False, answered=True, **LONG_SILENT)})
    assert actions(RULES, answering, UNHEARD) == []
    rumour = UNHEARD._replace(rumoured=NOW - 0.05, rumours={"serv1": Claim(5, "serv2", True)})
    assert actions(RULES, waited, rumour) == []


def test_what_is_held_and_not_up_is_told() -> None:
    def text(who: Me, other: Peer) -> list[str]:
        found = decide(RULES, who, (other,), NOW).conditions
        return [each.text for each in found if each.name == "not-served"]

    down = me({"serv1": held("serv1", up=False)})
    deaf = peer("serv2", hears_me=False, mutual_since=None)
    (said,) = text(down, deaf)
    assert said == (
        "serv1 is held here, but its addresses are down: not every peer has said that it has not taken it "
        "(serv2: does not hear this node)"
    )
    (said,) = text(me({"serv1": held("serv1", up=False, answered=True, failed="no link")}), peer("serv2"))
    assert said == "serv1 is held here, but its addresses are down: somebody answers for it; the last try: no link"
    assert text(me(), deaf) == []
    assert text(down._replace(unreached_since=NOW - 1, reach=0), deaf) == [], "isolated is told by itself"
    assert text(me({"serv1": held("serv1", up=False, busy=True)}), deaf) == []


def test_a_restart_within_the_lease_moves_nothing() -> None:
    assert actions(RULES, me(started=NOW - 0.1), peer("serv2", ago=None)) == []


# --- just booted ---


def booted(ago: float, **about: Any) -> Me:
    fresh = {"silent_since": NOW - ago + 0.05}
    groups = about.pop("groups", {"serv1": own("serv1", **fresh), "serv2": own("serv2", **fresh)})
    return me(groups, **{"started": NOW - ago, "clean": False, **about})


UNHEARD = peer(ago=None, groups={}, reach=None, hears_me=False)


@pytest.mark.parametrize(("start_alone", "taken"), [("home", ["serv1"]), ("any", ["serv1", "serv2"]), ("never", [])])
@pytest.mark.parametrize(("clean", "wait"), [(True, RULES.dead_after), (False, RULES.wait_for_peer)])
def test_alone_after_boot(start_alone: str, taken: list[str], clean: bool, wait: float) -> None:
    rules = RULES._replace(start_alone=start_alone)
    assert actions(rules, booted(wait - 0.01, clean=clean), UNHEARD) == []
    at_once = [action.group for action in actions(rules, booted(wait + 0.01, clean=clean), UNHEARD)]
    assert at_once == taken[:1], "another node, back as well, has three seconds for its own"
    late = booted(wait + UNHELD + 0.01, clean=clean)
    assert [action.group for action in actions(rules, late, UNHEARD)] == taken


@pytest.mark.parametrize(("taking", "starts"), [(5, True), (6, False)])
def test_alone_after_boot_it_does_not_take_what_a_peer_takes_that_does_not_hear_it(taking: int, starts: bool) -> None:
    """Only one hears the other. An old word, which may have been recorded, tells of no epoch that is new."""
    rumour = UNHEARD._replace(rumoured=NOW - 0.05, rumours={"serv1": Claim(5, "serv1", False, False, taking)})
    found = actions(RULES, booted(500), rumour)
    assert [type(action) for action in found] == ([Acquire] if starts else [])
    groups = {"serv1": own("serv1", ordered=ACQUIRE, intended=6, busy=True)}
    found = actions(RULES, booted(500, groups=groups), rumour)
    assert [type(action) for action in found] == ([] if starts else [Desist])


def test_what_a_peer_has_is_not_taken_though_it_hears_nobody() -> None:
    """Only one hears the other, which has taken its group in this boot; the LAN between the two is silent. What it says
    counts if nobody had told of that epoch before, for as long as it says so: it may also be a recording.
    """
    who = me({"serv1": held("serv1"), "serv2": own("serv2", epoch=6, **SILENT)})
    says: dict[str, Any] = {"rumoured": NOW - 0.05, "rumours": claims("serv2", epoch=6)}
    assert actions(RULES, who, DEAD._replace(**says, news={"serv2": 6})) == []
    taken = [Acquire("serv2", 7, "serv2 is dead")]
    assert actions(RULES, who, DEAD._replace(**says)) == taken
    assert actions(RULES, who, DEAD._replace(**says, news={"serv2": 5})) == taken
    over = {**says, "rumoured": NOW - RULES.isolated_after - 0.01}
    assert actions(RULES, who, DEAD._replace(**over, news={"serv2": 6})) == taken


def test_alone_after_boot_it_does_not_take_home_what_another_held_last() -> None:
    groups = {"serv1": own("serv1", holder="serv2", **LONG_SILENT)}
    assert actions(RULES, booted(500, groups=groups), UNHEARD) == []
    any_of_them = RULES._replace(start_alone="any")
    assert actions(any_of_them, booted(500, groups=groups), UNHEARD) == [
        Acquire("serv1", 6, "no peer has been heard since the start")
    ]


@pytest.mark.parametrize(("start_alone", "taken"), [("home", ["serv1"]), ("any", ["serv1"]), ("never", [])])
def test_alone_after_boot_while_words_come_that_may_be_old(start_alone: str, taken: list[str]) -> None:
    """A recording must not keep this node from what it is sure of; but who knows whether somebody is there?"""
    rumour = UNHEARD._replace(rumoured=NOW - 1)
    rules = RULES._replace(start_alone=start_alone)
    assert [action.group for action in actions(rules, booted(500), rumour)] == taken
    over = UNHEARD._replace(rumoured=NOW - rules.wait_for_peer)
    assert len(actions(rules, booted(500), over)) == {"home": 1, "any": 2, "never": 0}[start_alone]


def test_alone_after_boot_nothing_without_a_reference_host() -> None:
    assert actions(RULES, booted(500, reach=0), UNHEARD) == []


def test_alone_after_boot_nothing_that_answers() -> None:
    groups = {"serv1": own("serv1", answered=True, **LONG_SILENT)}
    assert actions(RULES, booted(500, groups=groups), UNHEARD) == []


def test_both_booted_and_nobody_holds_it_the_last_holder_takes_it() -> None:
    since = {"unheld_since": NOW - UNHELD, **SILENT}
    groups = {"serv1": own("serv1", **since), "serv2": own("serv2", **since)}
    assert actions(RULES, me(groups), peer()) == [Acquire("serv1", 6, "nobody holds it, and it was here last")]


def test_both_booted_a_group_that_was_away_goes_to_where_it_was() -> None:
    groups = {"serv2": own("serv2", holder="serv1", unheld_since=NOW - UNHELD, **SILENT)}
    there = peer(groups={"serv2": Claim(4, "serv2")})
    assert actions(RULES, me(groups), there) == [Acquire("serv2", 6, "nobody holds it, and it was here last")]


def test_both_booted_they_wait_first() -> None:
    groups = {"serv1": own("serv1", unheld_since=NOW - UNHELD + 0.1, **SILENT)}
    assert actions(RULES, me(groups), peer()) == []


def test_both_booted_nothing_that_answers() -> None:
    groups = {"serv1": own("serv1", unheld_since=NOW - UNHELD, answered=True, **SILENT)}
    assert actions(RULES, me(groups), peer()) == []


def test_nobody_holds_it_for_long_is_told() -> None:
    groups = {"serv2": own("serv2", holder="serv2", unheld_since=NOW - 2 * UNHELD - 0.1)}
    assert "contradiction" in conditions(me(groups), peer(groups={}))


def test_back_from_a_crash_it_stands_by_while_the_peer_holds_its_group() -> None:
    who = me({"serv1": own("serv1"), "serv2": own("serv2")})
    assert actions(RULES, who, peer("serv1", "serv2")) == [EnterStandby("serv2 holds serv1")]
    assert actions(RULES, who._replace(standby=PROGRAM), peer("serv1", "serv2")) == []


def test_back_from_a_crash_it_first_takes_again_what_was_here_last_and_nobody_has() -> None:
    """Its files are the newest: in standby nobody would serve the group."""
    groups = {"serv1": own("serv1"), "serv2": own("serv2", holder="serv1", epoch=6)}
    assert actions(RULES, me(groups), peer("serv1")) == []
    taken = peer(groups={**claims("serv1"), "serv2": Claim(7, "serv2", True)})
    assert actions(RULES, me(groups), taken) == [EnterStandby("serv2 holds serv1")]


def test_a_node_that_has_put_itself_in_standby_leaves_it_for_what_nobody_has_and_was_here_last() -> None:
    """A hand-over home that failed after its first step, with a lock that a slow disk took late."""
    mine = own("serv1", holder="serv1", epoch=5, unheld_since=NOW - UNHELD)
    who = me({"serv1": mine, "serv2": own("serv2")}, standby=PROGRAM)
    there = peer(groups={"serv1": Claim(5, "serv1"), "serv2": Claim(1, "serv2", held=True)})
    assert actions(RULES, who, there) == [LeaveStandby("nobody holds serv1, and it was here last")]
    assert actions(RULES, who._replace(standby=PERSON), there) == []
    assert actions(RULES, who._replace(groups={"serv1": mine._replace(busy=True)}), there) == []
    assert actions(RULES, who._replace(groups={"serv1": mine._replace(unheld_since=NOW - 1)}), there) == []
    newer = there._replace(groups={**there.groups, "serv1": Claim(6, "serv2")})
    assert actions(RULES, who, newer) == [], "the peer's files are newer"
    assert actions(RULES, who, peer(groups=there.groups, ago=1.0)) == [], "it may have it"


def test_a_node_whose_group_a_person_has_moved_away_is_ready_to_take_over() -> None:
    who = me({"serv1": own("serv1"), "serv2": own("serv2")})
    groups = {"serv1": Claim(4, "serv2", held=True, pinned=True), "serv2": Claim(5, "serv2", held=True)}
    assert actions(RULES, who, peer(groups=groups)) == []


# --- standby ---


@pytest.mark.parametrize("cause", [PERSON, PROGRAM])
def test_in_standby_nothing_is_acquired(cause: str) -> None:
    groups = {"serv1": own("serv1", **LONG_SILENT), "serv2": own("serv2", **LONG_SILENT)}
    assert actions(RULES, me(groups, standby=cause), DEAD) == []
    assert actions(RULES._replace(start_alone="any"), booted(500, standby=cause), UNHEARD) == []


def test_in_standby_what_is_still_held_is_handed_over() -> None:
    assert actions(RULES, me(standby=PERSON), peer("serv2")) == [HandOver("serv1", "serv2", "serv1 is in standby")]


def test_in_standby_it_is_kept_while_nobody_else_can_have_it() -> None:
    assert actions(RULES, me(standby=PERSON), peer("serv2", standby=PROGRAM)) == []
    assert actions(RULES, me(standby=PERSON), peer("serv2", reach=1)) == []


# --- what a person is told ---


def test_another_configuration_is_told() -> None:
    assert "config-differs" in conditions(me(), peer("serv2", digest_same=False))
    assert "config-differs" not in conditions(me(), DEAD._replace(digest_same=False))


def test_a_peer_never_heard_is_not_called_dead() -> None:
    assert "peer-dead" not in conditions(me(), UNHEARD)


@pytest.mark.parametrize("standby", ["", PROGRAM])
def test_one_that_came_up_alone_and_waits_says_so(standby: str) -> None:
    """It had given its group away before both lost power; the other one may never come up again."""
    groups = {"serv1": own("serv1", holder="serv2", **LONG_SILENT), "serv2": own("serv2", **LONG_SILENT)}
    wait = max(RULES.dead_after, RULES.wait_for_peer) + UNHELD

    def told(ago: float, other: Peer = UNHEARD, standby: str = standby) -> bool:
        return "waits-for-peer" in conditions(me(groups, started=NOW - ago, standby=standby), other)

    assert told(wait + 1)
    assert not told(wait - 1)
    assert not told(wait + 1, standby=PERSON)
    assert not told(wait + 1, DEAD)


def test_what_a_takeover_would_need_is_told() -> None:
    lame = me(unready={"eth2": "eth2: has no link"})
    assert "not-ready" in conditions(lame, peer("serv2"))
    assert "not-ready" not in conditions(me(), peer("serv2"))


# --- a last holder that does not know it any more ---


def forgotten(ago: float, claim: Claim, **about: Any) -> list[Any]:
    """What serv1 does about serv2's group, of which it knows epoch 7, `ago` after anybody had it last."""
    theirs = own("serv2", epoch=7, holder="serv2", unheld_since=NOW - ago, **SILENT)
    who = me({"serv1": held("serv1"), "serv2": theirs}, **about)
    return [action for action in actions(RULES, who, peer(groups={"serv2": claim})) if action.group == "serv2"]


def test_what_its_last_holder_does_not_know_any_more_is_taken() -> None:
    """Its record is damaged: it serves it no more, and cannot take it again."""
    why = "serv2 had it last, and does not take it again"
    assert forgotten(2 * UNHELD, Claim()) == [Acquire("serv2", 8, why)]
    assert forgotten(2 * UNHELD - 0.1, Claim()) == []
    assert forgotten(2 * UNHELD, Claim(7, "serv2", False)) == []
    assert forgotten(2 * UNHELD, Claim(), standby=PROGRAM) == []


def test_so_is_what_its_last_holder_may_not_take() -> None:
    """A person has put it in standby, and the hand-over of the group failed in the middle."""
    theirs = own("serv2", epoch=7, holder="serv2", unheld_since=NOW - 2 * UNHELD, **SILENT)
    who = me({"serv1": held("serv1"), "serv2": theirs})
    knows = {"serv2": Claim(7, "serv2")}
    [taken] = [each for each in actions(RULES, who, peer(groups=knows, standby=PERSON)) if each.group == "serv2"]
    assert taken == Acquire("serv2", 8, "serv2 had it last, and does not take it again")
    assert not any(each.group == "serv2" for each in actions(RULES, who, peer(groups=knows, standby=PROGRAM)))


# --- whatever the picture ---

times = st.one_of(st.none(), st.floats(0, 10).map(lambda ago: NOW - ago))
some_claim = st.builds(
    Claim, epoch=st.integers(0, 4), holder=st.sampled_from(("", "serv1", "serv2")), held=st.booleans()
)
some_own = st.builds(
    Own,
    home=st.sampled_from(("serv1", "serv2")),
    epoch=st.integers(0, 4),
    holder=st.sampled_from(("", "serv1", "serv2")),
    held=st.booleans(),
    up=st.booleans(),
    unfinished=st.booleans(),
    pinned=st.booleans(),
    busy=st.booleans(),
    intended=st.integers(0, 4),
    silent_since=times,
    answered=st.booleans(),
    unheld_since=times,
    retry_at=st.sampled_from((0.0, NOW - 1, NOW + 1)),
    move_at=st.sampled_from((0.0, NOW - 1, NOW + 1)),
)
some_me = st.builds(
    Me,
    name=st.just("serv1"),
    groups=st.fixed_dictionaries({"serv1": some_own, "serv2": some_own}).map(
        lambda groups: {name: own._replace(home=name) for name, own in groups.items()}
    ),
    standby=st.sampled_from(("", PERSON, PROGRAM)),
    reach=st.one_of(st.none(), st.integers(0, 2)),
    unreached_since=times,
    started=st.floats(NOW - 200, NOW),
    clean=st.booleans(),
)
some_peer = st.builds(
    Peer,
    name=st.just("serv2"),
    heard=st.dictionaries(st.sampled_from((HB, LAN)), times, min_size=1),
    groups=st.dictionaries(st.sampled_from(("serv1", "serv2")), some_claim),
    standby=st.sampled_from(("", PERSON, PROGRAM)),
    reach=st.one_of(st.none(), st.integers(0, 2)),
    hears_me=st.booleans(),
    deaf_since=times,
    digest_same=st.booleans(),
    whole_since=times,
    outvoted_since=times,
)
some_rules = st.tuples(
    st.sampled_from(("home", "any", "never")), st.sampled_from(("auto", "manual")), st.booleans()
).map(lambda drawn: Rules(start_alone=drawn[0], failback=drawn[1], fencing=drawn[2]))
pictures = given(some_rules, some_me, st.lists(some_peer, min_size=1, max_size=1))


def acquired(rules: Rules, who: Me, peers: list[Peer]) -> list[Acquire]:
    return [action for action in actions(rules, who, *peers) if isinstance(action, Acquire)]


def never_acquires_in_standby_what_it_does_not_hold(rules: Rules, who: Me, peers: list[Peer]) -> None:
    for action in acquired(rules, who, peers):
        assert not who.standby or who.groups[action.group].held


def never_acquires_what_answers_without_fencing(rules: Rules, who: Me, peers: list[Peer]) -> None:
    for action in acquired(rules._replace(fencing=False), who, peers):
        group = who.groups[action.group]
        if group.held and group.up:
            continue  # it answers here: only the epoch is new
        assert group.silent_since is not None
        assert not group.answered


def never_acquires_from_a_silent_peer_without_a_reference_host(rules: Rules, who: Me, peers: list[Peer]) -> None:
    if any(not other.fresh(rules, NOW) for other in peers) and not who.reach:
        assert acquired(rules, who, peers) == []


def never_acquires_what_a_peer_that_is_heard_claims(rules: Rules, who: Me, peers: list[Peer]) -> None:
    for action in acquired(rules, who, peers):
        for other in peers:
            if other.fresh(rules, NOW) and other.groups.get(action.group, Claim()).held:
                assert who.groups[action.group].unheld_since is not None


def acquires_only_with_a_higher_epoch_than_any(rules: Rules, who: Me, peers: list[Peer]) -> None:
    for action in acquired(rules, who, peers):
        known = [who.groups[action.group].epoch]
        known += [other.groups.get(action.group, Claim()).epoch for other in peers]
        assert action.epoch > max(known)


def a_lower_epoch_always_lets_go(rules: Rules, who: Me, peers: list[Peer]) -> None:
    done = {action.group: type(action) for action in actions(rules, who, *peers) if hasattr(action, "group")}
    for name, group in who.groups.items():
        for other in peers:
            claim = other.groups.get(name, Claim())
            mine = max(group.epoch, group.intended)  # 0: nobody ever had it, nor does this node
            higher = claim.epoch > mine > 0 and claim.holder != who.name
            if group.held and other.fresh(rules, NOW) and higher:
                assert done[name] is LetGo


def at_most_one_action_a_group(rules: Rules, who: Me, peers: list[Peer]) -> None:
    groups = [action.group for action in actions(rules, who, *peers) if hasattr(action, "group")]
    assert len(groups) == len(set(groups))


def the_same_picture_gives_the_same_answer(rules: Rules, who: Me, peers: list[Peer]) -> None:
    before = repr((rules, who, peers))
    first = decide(rules, who, tuple(peers), NOW)
    assert decide(rules, who, tuple(peers), NOW) == first
    assert repr((rules, who, peers)) == before


def time_only_counts_as_a_distance(rules: Rules, who: Me, peers: list[Peer]) -> None:
    """No clock of its own: the whole picture moved by a day gives the same actions."""
    day = 65536.0

    def moved(at: float | None) -> float | None:
        return None if at is None else at + day

    groups = {
        name: group._replace(
            silent_since=moved(group.silent_since),
            unheld_since=moved(group.unheld_since),
            retry_at=group.retry_at + day,
            move_at=group.move_at + day,
        )
        for name, group in who.groups.items()
    }
    later = who._replace(groups=groups, started=who.started + day, unreached_since=moved(who.unreached_since))
    others = tuple(
        other._replace(
            heard={path: moved(at) for path, at in other.heard.items()},
            whole_since=moved(other.whole_since),
            outvoted_since=moved(other.outvoted_since),
            deaf_since=moved(other.deaf_since),
        )
        for other in peers
    )
    first = [type(action) for action in decide(rules, who, tuple(peers), NOW).actions]
    assert [type(action) for action in decide(rules, later, others, NOW + day).actions] == first


@settings(max_examples=250)
@pictures
def test_whatever_the_picture(rules: Rules, who: Me, peers: list[Peer]) -> None:
    """All that is true of one decision: to draw a picture takes a hundred times as long as to decide on it."""
    for holds in (
        never_acquires_in_standby_what_it_does_not_hold,
        never_acquires_what_answers_without_fencing,
        never_acquires_from_a_silent_peer_without_a_reference_host,
        never_acquires_what_a_peer_that_is_heard_claims,
        acquires_only_with_a_higher_epoch_than_any,
        a_lower_epoch_always_lets_go,
        at_most_one_action_a_group,
        the_same_picture_gives_the_same_answer,
        time_only_counts_as_a_distance,
    ):
        holds(rules, who, peers)
