"""More than two nodes: who counts, who has the majority, whose turn it is. Every rule of docs/design.md."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd import quorum
from clusterd.actions import Acquire, LetGo, Resume, Suspend
from clusterd.model import ALL_PATHS
from clusterd.picture import PERSON, PROGRAM, UNHELD, Claim, Me, Own, Peer, Rules
from clusterd.verdict import decide

NOW = 1000.0
HB, LAN = "heartbeat", "lan"
NODES = ("serv1", "serv2", "serv3")
RULES = Rules(nodes=NODES)
SILENT: dict[str, Any] = {"silent_since": NOW - 0.16}
LONG_SILENT: dict[str, Any] = {"silent_since": NOW - UNHELD}
GONE = RULES.dead_after + 0.01
OUTNUMBERED = "fewer than half of the nodes that count are heard"


def own(home: str, **about: Any) -> Own:
    return Own(home, **{"epoch": 5, "holder": home, **about})


def held(home: str, by: str = "serv1", **about: Any) -> Own:
    return own(home, **{"holder": by, "held": True, "up": True, **about})


def me(name: str = "serv1", /, **about: Any) -> Me:
    """A node that holds its own group; `serv2` and so on say more of a group."""
    groups = {each: own(each, **about.pop(each, {})) if each != name else held(each, name) for each in NODES}
    groups |= about.pop("groups", {})
    return Me(name, groups, **{"reach": 2, **about})


def peer(name: str, *mine: str, ago: float | None = 0.05, **about: Any) -> Peer:
    """A peer, heard `ago` seconds ago, which holds `mine`, its own group if none is named."""
    at = None if ago is None else NOW - ago
    groups = {each: Claim(5, name if each in (mine or (name,)) else each, each in (mine or (name,))) for each in NODES}
    known: dict[str, Any] = {"heard": {HB: at, LAN: at}, "groups": groups, "reach": 2, "hears_me": True, "hears": NODES}
    known["mutual_since"] = NOW - 60
    return Peer(name, **{**known, **about})


def actions(who: Me, *peers: Peer, rules: Rules = RULES) -> list[Any]:
    return list(decide(rules, who, quorum.assess(rules, who, peers, NOW), NOW).actions)


def dead(name: str, *mine: str, ago: float = GONE, **about: Any) -> Peer:
    return peer(name, *mine, ago=ago, **about)


def sees(name: str, *whom: str, **about: Any) -> Peer:
    """A peer that is heard, and hears those."""
    return peer(name, hears=whom, **about)


# --- unsure is not dead: who is heard by somebody lives ---


def test_who_is_heard_by_another_peer_is_not_dead() -> None:
    who = me(serv3=LONG_SILENT)
    assert actions(who, sees("serv2", "serv1", "serv3"), dead("serv3")) == []
    assert actions(who, sees("serv2", "serv1"), dead("serv3")) == [Acquire("serv3", 6, "serv3 is dead")]


def test_what_a_silent_peer_heard_is_no_evidence() -> None:
    who = me(serv2=LONG_SILENT, serv3=LONG_SILENT)
    peers = dead("serv2", hears=("serv3",), counted=False), dead("serv3", counted=False)
    assert [action.group for action in actions(who, *peers)] == ["serv2", "serv3"]


def test_who_is_heard_by_another_peer_is_told_as_a_path() -> None:
    peers = quorum.assess(RULES, me(), (sees("serv2", "serv3"), dead("serv3")), NOW)
    found = {(each.name, each.subject) for each in decide(RULES, me(), peers, NOW).conditions}
    assert found == {("path-down", f"serv3/{ALL_PATHS}")}


# --- whose turn it is ---


def turn(who: str, waited: float, *others: Peer, **about: Any) -> list[Any]:
    """What `who` does when serv1 has been dead for `waited` seconds longer than dead_after."""
    silent = {"silent_since": NOW - RULES.dead_after / 2 - waited}
    return actions(me(who, serv1=silent, **about), dead("serv1", ago=GONE + waited), *others)


def test_the_next_one_after_its_home_takes_it_at_once_and_the_one_after_that_waits() -> None:
    two, three = sees("serv2", "serv3"), sees("serv3", "serv2")
    assert turn("serv2", 0.01, three) == [Acquire("serv1", 6, "serv1 is dead")]
    assert turn("serv3", 0.01, two) == []
    assert turn("serv3", RULES.dead_after - 0.02, two) == []
    assert turn("serv3", RULES.dead_after + 0.01, two) == [Acquire("serv1", 6, "serv1 is dead")]


def test_the_order_goes_round() -> None:
    who = me("serv1", serv3=SILENT)
    assert actions(who, sees("serv2", "serv1"), dead("serv3")) == [Acquire("serv3", 6, "serv3 is dead")]
    who = me("serv2", serv3=SILENT)
    assert actions(who, sees("serv1", "serv2"), dead("serv3")) == []


def test_who_has_fewer_groups_comes_first() -> None:
    """serv2 holds two groups, serv3 none."""
    none = sees("serv3", "serv2", groups={})
    loaded = {"groups": {"serv3": held("serv3", "serv2")}}
    assert turn("serv2", 0.01, none, **loaded) == []
    assert turn("serv2", RULES.dead_after + 0.01, none, **loaded) == [Acquire("serv1", 6, "serv1 is dead")]
    nothing = {"groups": {"serv3": own("serv3", holder="serv2")}}
    moved = {"serv2": Claim(5, "serv2", True), "serv3": Claim(5, "serv2", True, pinned=True)}
    assert turn("serv3", 0.01, sees("serv2", "serv3", groups=moved), **nothing) == [
        Acquire("serv1", 6, "serv1 is dead")
    ]


@pytest.mark.parametrize("about", [{"standby": PROGRAM}, {"reach": 0}, {"reach": None}, {"hears_me": False}])
def test_who_cannot_take_it_is_not_waited_for(about: dict[str, Any]) -> None:
    assert turn("serv3", 0.01, sees("serv2", "serv3", **about)) == [Acquire("serv1", 6, "serv1 is dead")]


def test_an_address_that_a_node_which_is_heard_has_says_nothing_of_one_that_is_not() -> None:
    about = {"serv1": {"silent_since": NOW - 9}, "serv2": {"answered": True}}
    two = sees("serv2", "serv3", standby=PROGRAM)
    [taken] = actions(me("serv3", **about), dead("serv1"), two)
    assert taken == Acquire("serv1", 6, "serv1 is dead")
    assert actions(me("serv3", **about), dead("serv1"), two._replace(groups={})) == [], "who has it, if not serv2?"


def test_nothing_is_taken_that_a_peer_is_about_to_take() -> None:
    taking = sees("serv2", "serv3", groups={"serv1": Claim(5, "serv1", taking=6)})
    assert turn("serv3", 5.0, taking) == []


def test_of_two_that_intend_to_take_it_the_first_in_line_goes_on() -> None:
    two = sees("serv2", "serv3", groups={"serv1": Claim(5, "serv1", taking=6)})
    three = sees("serv3", "serv2", groups={"serv1": Claim(5, "serv1", taking=6)})
    silent = {"silent_since": NOW - 9, "intending": 6}
    assert actions(me("serv2", serv1=silent), dead("serv1", ago=9), three) == [Acquire("serv1", 6, "serv1 is dead")]
    assert actions(me("serv3", serv1=silent), dead("serv1", ago=9), two) == []
    deaf = three._replace(hears_me=False)
    assert actions(me("serv2", serv1=silent), dead("serv1", ago=9), deaf) == []


def test_an_old_claim_of_the_dead_one_is_over_when_a_peer_that_is_heard_had_it_since() -> None:
    """serv2 had it last, is heard, and may take it again; or is in standby, and a person decides."""
    later = sees("serv2", "serv3", groups={"serv1": Claim(6, "serv2")}, standby=PROGRAM)
    assert turn("serv3", 5.0, later) == []


def test_several_dead_ones_are_all_waited_for() -> None:
    who = me(serv2=SILENT, serv3=SILENT)
    peers = dead("serv2", counted=False), peer("serv3", ago=RULES.dead_after - 0.01, counted=False)
    assert actions(who, *peers) == []


# --- equal epochs ---


def tied(who: str, **about: Any) -> list[Any]:
    """`who` serves the group of serv1, and so does the other one of serv2 and serv3, with the same epoch."""
    other = "serv3" if who == "serv2" else "serv2"
    groups = {each: held(each, who) if each in ("serv1", who) else own(each) for each in NODES}
    return actions(Me(who, groups, reach=2), peer(other, "serv1", other, **about), dead("serv1"))


def test_with_equal_epochs_away_from_home_the_next_one_after_it_keeps_it() -> None:
    assert tied("serv2") == []
    assert tied("serv3") == [LetGo("serv1", 5, "serv2", "serv2 claims it with the same epoch")]
    assert tied("serv2", hears_me=False) == [LetGo("serv1", 5, "serv3", "serv3 claims it with the same epoch")]


@pytest.mark.parametrize("group", NODES)
@pytest.mark.parametrize(("one", "other"), [("serv1", "serv2"), ("serv2", "serv3"), ("serv3", "serv1")])
def test_of_two_just_one_precedes(group: str, one: str, other: str) -> None:
    assert quorum.precedes(RULES, group, one, other) != quorum.precedes(RULES, group, other, one)
    assert quorum.precedes(RULES, group, group, one) == (group != one)
    assert quorum.precedes(Rules(), group, one, other) != quorum.precedes(Rules(), group, other, one)


# --- the majority ---


def test_who_hears_nobody_lets_go_although_a_reference_host_answers() -> None:
    silent = RULES.isolated_after + 0.01
    assert actions(me(), peer("serv2", ago=silent), peer("serv3", ago=silent)) == [Suspend("serv1", OUTNUMBERED)]
    assert actions(me(), peer("serv2", ago=silent), peer("serv3")) == []


def test_who_is_outnumbered_takes_nothing() -> None:
    who = me(serv2=LONG_SILENT, serv3=LONG_SILENT, groups={"serv1": held("serv1", up=False, **LONG_SILENT)})
    assert actions(who, dead("serv2"), dead("serv3")) == []


def test_a_watchdog_that_has_just_started_has_not_listened_yet() -> None:
    who = me(started=NOW - RULES.isolated_after + 0.01)
    assert actions(who, peer("serv2", ago=None), peer("serv3", ago=None)) == []


def counted(who: Me, *peers: Peer, rules: Rules = RULES) -> list[str]:
    return [each.name for each in quorum.assess(rules, who, peers, NOW) if each.counted]


def test_who_is_silent_for_long_counts_no_more_for_a_majority() -> None:
    assert counted(me(), sees("serv2"), peer("serv3", ago=UNHELD - 0.01)) == ["serv2", "serv3"]
    assert counted(me(), sees("serv2"), peer("serv3", ago=UNHELD)) == ["serv2"]
    assert counted(me(), sees("serv2", "serv3"), peer("serv3", ago=UNHELD)) == ["serv2", "serv3"]


def test_the_minority_counts_all_that_were_there() -> None:
    assert counted(me(), peer("serv2", ago=50), peer("serv3", ago=50)) == ["serv2", "serv3"]


def test_who_is_heard_counts_again() -> None:
    assert counted(me(), peer("serv2"), peer("serv3", counted=False)) == ["serv2", "serv3"]


def test_two_that_are_left_of_three_decide_like_a_pair() -> None:
    gone = dead("serv3", counted=False)
    who = me(serv2=SILENT, serv3=SILENT)
    assert [action.group for action in actions(who, dead("serv2"), gone)] == ["serv2", "serv3"]
    dark = me(reach=0, unreached_since=NOW - 0.1)
    assert [type(action) for action in actions(dark, dead("serv2"), gone)] == [Suspend]


def test_alone_it_carries_on_after_wait_for_peer_unless_it_never_may_start_alone() -> None:
    long = dead("serv2", ago=RULES.wait_for_peer), dead("serv3", ago=RULES.wait_for_peer)
    short = dead("serv2", ago=RULES.wait_for_peer - 0.1), dead("serv3", ago=RULES.wait_for_peer)
    never = RULES._replace(start_alone="never")
    assert counted(me(), *long) == []
    assert counted(me(), *short) == ["serv2"]
    assert counted(me(), *long, rules=never) == ["serv2", "serv3"]
    assert counted(me(reach=0), *long) == ["serv2", "serv3"]


def test_alone_after_boot_it_may_start_as_one_of_a_pair() -> None:
    unheard = [peer(name, ago=None, groups={}, reach=None, hears_me=False, hears=()) for name in ("serv2", "serv3")]
    groups = {name: own(name, **LONG_SILENT) for name in NODES}
    late = Me("serv1", groups, reach=2, started=NOW - RULES.wait_for_peer - 1)
    assert actions(late, *unheard) == [Acquire("serv1", 6, "no peer has been heard since the start")]
    early = late._replace(started=NOW - RULES.wait_for_peer + 1)
    assert actions(early, *unheard) == []
    assert actions(late, *unheard, rules=RULES._replace(start_alone="never")) == []
    up = me(started=NOW - RULES.wait_for_peer - 1)
    assert actions(up, *unheard) == [], "and serve on"


def test_of_three_two_start_without_the_third_after_wait_for_peer() -> None:
    unheard = peer("serv3", ago=None, groups={}, reach=None, hears_me=False, hears=())
    other = sees("serv2", "serv1", groups={"serv2": Claim(5, "serv2", True)})
    groups = {name: own(name, **LONG_SILENT) for name in NODES}
    early = Me("serv1", groups, reach=2, started=NOW - RULES.wait_for_peer + 1)
    assert actions(early, other, unheard) == []
    late = early._replace(started=NOW - RULES.wait_for_peer - 1)
    assert [action.group for action in actions(late, other, unheard)] == ["serv1", "serv3"]


def test_coming_back_it_waits_for_the_silence_of_who_is_not_there() -> None:
    gone = dead("serv3", counted=False)
    back = me(groups={"serv1": held("serv1", up=False, **SILENT)})
    assert actions(back, sees("serv2", "serv1"), gone) == []
    back = me(groups={"serv1": held("serv1", up=False, **LONG_SILENT)})
    assert actions(back, sees("serv2", "serv1"), gone) == [Acquire("serv1", 6, "nobody else answers for it")]
    assert actions(back, sees("serv2", "serv1", "serv3"), gone) == []
    assert actions(back, sees("serv2"), peer("serv3")) == [Resume("serv1", "heard again, and nobody took it")]


NEVER: dict[str, Any] = {"ago": None, "groups": {}, "reach": None, "hears_me": False, "hears": ()}


def test_the_last_one_left_carries_on_although_one_was_never_heard() -> None:
    """Else what it held, and let go of as the smaller part, would be nobody's for ever."""
    groups = {name: own(name, **LONG_SILENT) for name in NODES} | {"serv1": held("serv1", up=False, **LONG_SILENT)}
    peers = dead("serv2", ago=60), peer("serv3", **NEVER)
    early = Me("serv1", groups, reach=2, started=NOW - RULES.wait_for_peer + 1)
    assert actions(early, *peers) == []
    late = early._replace(started=NOW - RULES.wait_for_peer - 1)
    assert [action.group for action in actions(late, *peers)] == ["serv1", "serv2", "serv3"]
    assert actions(late, *peers, rules=RULES._replace(start_alone="never")) == []


def test_who_counts_no_more_is_missing_for_a_new_loop_as_well() -> None:
    """The view has kept that it does not count; the one that was heard dies just then."""
    groups = {name: own(name, **LONG_SILENT) for name in NODES}
    who = Me("serv1", groups, reach=2, started=NOW - 5)
    taken = actions(who, dead("serv2"), peer("serv3", counted=False, **NEVER))
    assert "serv2" in [action.group for action in taken]


def test_what_nobody_holds_is_taken_although_one_is_off_for_long() -> None:
    """serv2 had serv2 last, and a person has put it in standby; serv3 is away for repair."""
    claims = {name: Claim(5, name, name == "serv3") for name in NODES}
    other = sees("serv2", "serv1", standby=PERSON, groups={"serv2": Claim(5, "serv2")})
    since = {"unheld_since": NOW - 2 * UNHELD}
    who = me(serv2={**LONG_SILENT, **since}, serv3={"holder": "serv1", "held": True, "up": True, "epoch": 6})
    for gone in (dead("serv3", ago=50, counted=False, groups=claims), peer("serv3", **{**NEVER, "counted": False})):
        taken = actions(who, other, gone)
        assert taken == [Acquire("serv2", 6, "serv2 had it last, and does not take it again")]
    assert actions(who, other, dead("serv3", ago=1, groups=claims)) == []
    had_it = {**claims, "serv2": Claim(5, "serv3", True)}
    assert actions(who, other, dead("serv3", ago=1, groups=had_it)) == []


# --- a pair has no majority ---

some_peer = st.builds(
    Peer,
    name=st.just("serv2"),
    heard=st.dictionaries(st.sampled_from((HB, LAN)), st.one_of(st.none(), st.floats(NOW - 500, NOW)), min_size=1),
    hears=st.sampled_from(((), ("serv1",), NODES)),
)


@given(some_peer, st.sampled_from(("home", "any", "never")), st.booleans(), st.floats(NOW - 500, NOW))
def test_of_a_pair_nothing_is_assessed(other: Peer, start_alone: str, clean: bool, started: float) -> None:
    rules = RULES._replace(start_alone=start_alone)
    who = me(started=started, clean=clean)
    assert quorum.assess(rules, who, (other,), NOW) == (other,)
    assert quorum.balance(rules, (other,), NOW) >= 0
