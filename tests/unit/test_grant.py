"""The decision with an arbiter: nothing without a grant, and nothing served beyond one."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterd import grant
from clusterd.actions import Acquire, Failback, HandOver, Resume, Suspend
from clusterd.conditions import DENIED
from clusterd.picture import PERSON, UNHELD, Claim, Me, Own, Peer, Rules
from clusterd.verdict import decide
from unit.test_verdict import DEAD, NOW, away, back, held, me, own, peer, some_me, some_peer, some_rules

RULES = Rules(arbiter=True, arbiter_ttl=5.0, lease=2.0)
FAILSAFE = RULES._replace(failsafe=True)
GOOD: dict[str, Any] = {"granted_until": NOW + 4.0}
OVER: dict[str, Any] = {"granted_until": NOW + 0.4}
NONE: dict[str, Any] = {"granted_until": 0.0}
LOST: dict[str, Any] = {"arbiter_lost_since": NOW - 3.0, "arbiter_why": "refused"}
SILENT: dict[str, Any] = {"silent_since": NOW - UNHELD}


def actions(rules: Rules, who: Me, *peers: Peer) -> list[Any]:
    return list(decide(rules, who, peers, NOW).actions)


def mine(about: dict[str, Any], **more: Any) -> Me:
    """serv1, with this grant of its own group."""
    return me({"serv1": held("serv1", **about), "serv2": own("serv2", **NONE)}, **more)


def test_all_is_well_with_a_good_grant() -> None:
    assert actions(RULES, mine(GOOD), peer("serv2")) == []


def test_a_grant_that_ends_is_let_go_of_in_time() -> None:
    late = "the arbiter has not confirmed it in time"
    assert actions(RULES, mine(OVER), peer("serv2")) == [Suspend("serv1", late)]
    assert actions(RULES, mine({**OVER, "busy": True}), peer("serv2")) == [Suspend("serv1", late)]
    assert actions(RULES, mine(NONE), peer("serv2")) == [Suspend("serv1", "the arbiter does not grant it")]


def test_after_a_start_or_a_pause_it_is_not_judged_at_once() -> None:
    """Nothing is renewed then, either."""
    assert actions(RULES, mine(OVER, sure=False), peer("serv2")) == []


def test_without_an_arbiter_no_grant_is_needed() -> None:
    assert actions(Rules(), mine(NONE), peer("serv2")) == []
    assert grant.renewable(Rules(), me(), own("serv1", **NONE), (), NOW)


def test_the_dead_nodes_group_is_asked_for_and_then_acquired() -> None:
    groups = {"serv1": held("serv1", **GOOD), "serv2": own("serv2", holder="serv2", **SILENT, **NONE)}
    answer = decide(RULES, me(groups), (DEAD,), NOW)
    assert (answer.actions, answer.asks) == ((), {"serv2": 6})
    groups["serv2"] = groups["serv2"]._replace(**GOOD)
    answer = decide(RULES, me(groups), (DEAD,), NOW)
    assert [type(action) for action in answer.actions] == [Acquire]
    assert answer.asks == {}


def test_a_grant_that_does_not_outlive_the_address_is_not_enough() -> None:
    until = {"granted_until": NOW + RULES.lease}
    groups = {"serv1": held("serv1", **GOOD), "serv2": own("serv2", holder="serv2", **SILENT, **until)}
    assert actions(RULES, me(groups), DEAD) == []


def test_with_a_fence_agent_the_takeover_itself_waits() -> None:
    groups = {"serv1": held("serv1", **GOOD), "serv2": own("serv2", holder="serv2", **SILENT, **NONE)}
    assert [type(each) for each in actions(RULES._replace(fencing=True), me(groups), DEAD)] == [Acquire]


def test_who_does_not_reach_etcd_fences_nobody() -> None:
    """It would switch off a peer that may be well, and then not be granted what it had."""
    groups = {"serv1": held("serv1", **GOOD), "serv2": own("serv2", holder="serv2", **SILENT, **NONE)}
    answer = decide(RULES._replace(fencing=True), me(groups, **LOST), (DEAD,), NOW)
    assert (answer.actions, answer.asks) == ((), {"serv2": 6})


def test_what_was_let_go_of_is_resumed_when_it_is_granted_again() -> None:
    groups = {"serv1": held("serv1", up=False, **NONE), "serv2": own("serv2", **NONE)}
    answer = decide(RULES, me(groups), (peer("serv2"),), NOW)
    assert (answer.actions, answer.asks) == ((), {"serv1": 5})
    groups["serv1"] = groups["serv1"]._replace(**GOOD)
    assert [type(each) for each in actions(RULES, me(groups), peer("serv2"))] == [Resume]


# --- failsafe ---


def test_failsafe_serves_on_while_every_peer_is_heard_and_hears_it() -> None:
    who = mine({"granted_until": NOW - 60.0}, **LOST)
    assert actions(FAILSAFE, who, peer("serv2")) == []
    assert grant.renewable(FAILSAFE, who, who.groups["serv1"], (peer("serv2"),), NOW)
    for gone in (peer("serv2", hears_me=False), peer("serv2", ago=0.2), DEAD):
        assert [type(each) for each in actions(FAILSAFE, who, gone)] == [Suspend]
        assert not grant.renewable(FAILSAFE, who, who.groups["serv1"], (gone,), NOW)


def test_failsafe_is_for_silence_only() -> None:
    """Etcd answers, and says that the group is not ours."""
    assert [type(each) for each in actions(FAILSAFE, mine(NONE), peer("serv2"))] == [Suspend]
    assert [type(each) for each in actions(FAILSAFE, mine(NONE, **LOST), peer("serv2"))] == [Suspend]


# --- only this node has lost it ---


def test_a_peer_that_reaches_the_arbiter_gets_the_group() -> None:
    long_lost = {"arbiter_lost_since": NOW - RULES.arbiter_ttl}
    for who in (mine({**NONE, "up": False}, **long_lost), mine({"granted_until": NOW + 1.0}, **long_lost)):
        (action,) = actions(RULES, who, near())
        assert isinstance(action, HandOver) and action[:2] == ("serv1", "serv2")
        for unfit in ({"arbiter_since": None}, {"arbiter_since": NOW - 1.0}, {"hears_me": False}, {"standby": PERSON}):
            assert not any(isinstance(each, HandOver) for each in actions(RULES, who, near(**unfit)))
    assert actions(RULES, mine({"granted_until": NOW + 1.0}, **LOST), near()) == []


def near(**about: Any) -> Peer:
    """serv2, which has reached the arbiter all the time."""
    return peer("serv2", **{"arbiter_since": NOW - RULES.arbiter_ttl, **about})


def test_nothing_goes_to_a_peer_that_does_not_reach_it() -> None:
    who = away(**GOOD)
    who.groups["serv1"] = who.groups["serv1"]._replace(**GOOD)
    assert actions(RULES, who, back()) == [Failback("serv2", "serv2")]
    assert actions(RULES, who, back(arbiter=False)) == []


# --- what a person is told ---


def told(who: Me, *peers: Peer) -> dict[str, str]:
    return {each.name: each.text for each in decide(RULES, who, peers, NOW).conditions}


def test_a_silent_arbiter_is_told_at_once() -> None:
    text = told(mine(GOOD, **LOST), peer("serv2"))["arbiter-lost"]
    assert "refused" in text and "serv1 is let go of" in text
    assert (
        "nothing can be taken here" in told(me({"serv1": own("serv1", **NONE)}, **LOST), peer("serv2"))["arbiter-lost"]
    )


@pytest.mark.parametrize(("ago", "is_told"), [(RULES.arbiter_ttl, False), (RULES.arbiter_ttl + DENIED + 0.1, True)])
def test_a_denial_is_told_when_no_dead_nodes_lease_can_explain_it(ago: float, is_told: bool) -> None:
    groups = {"serv2": own("serv2", denied_to="serv2", denied_since=NOW - ago, **NONE)}
    assert ("arbiter-denied" in told(me(groups), DEAD)) is is_told


# --- whatever the picture ---

untils = st.one_of(st.just(0.0), st.floats(-10, 10).map(lambda ago: NOW + ago))
pictures = given(
    st.tuples(some_rules, st.booleans()).map(lambda both: both[0]._replace(arbiter=True, failsafe=both[1])),
    st.tuples(some_me, untils, untils, st.booleans(), st.one_of(st.none(), st.floats(NOW - 20, NOW))).map(
        lambda drawn: drawn[0]._replace(
            groups={
                name: each._replace(granted_until=until)
                for (name, each), until in zip(drawn[0].groups.items(), drawn[1:3], strict=True)
            },
            sure=drawn[3],
            arbiter_lost_since=drawn[4],
        )
    ),
    st.tuples(some_peer, st.booleans()).map(lambda both: both[0]._replace(arbiter=both[1])),
)


def nothing_is_put_up_without_a_grant_that_outlives_it(rules: Rules, who: Me, other: Peer) -> None:
    for action in actions(rules, who, other):
        if isinstance(action, Acquire | Resume) and not (rules.fencing and not other.fresh(rules, NOW)):
            assert who.groups[action.group].granted_until > NOW + rules.lease


def nothing_is_renewed_beyond_its_grant(rules: Rules, who: Me, other: Peer) -> None:
    """Unless the arbiter is silent, failsafe is meant, and the peer knows whose it is."""
    for group in who.groups.values():
        if grant.renewable(rules, who, group, (other,), NOW) and group.granted_until <= NOW + rules.lease:
            assert rules.failsafe and who.arbiter_lost_since is not None
            assert other.fresh(rules, NOW) and other.hears_me


def what_is_served_without_a_grant_is_dropped(rules: Rules, who: Me, other: Peer) -> None:
    done = {action.group for action in actions(rules, who, other) if hasattr(action, "group")}
    for name, group in who.groups.items():
        ended = group.granted_until <= NOW and not grant.failsafe(rules, who, group, (other,), NOW)
        if group.held and group.up and who.sure and ended:
            assert name in done


def what_is_asked_for_is_not_done_as_well(rules: Rules, who: Me, other: Peer) -> None:
    answer = decide(rules, who, (other,), NOW)
    done = {getattr(action, "group", "") for action in answer.actions}
    assert not done & set(answer.asks)
    for name, epoch in answer.asks.items():
        assert epoch >= max(who.groups[name].epoch, other.groups.get(name, Claim()).epoch * (not who.groups[name].held))


@settings(max_examples=250)
@pictures
def test_whatever_the_picture(rules: Rules, who: Me, other: Peer) -> None:
    for holds in (
        nothing_is_put_up_without_a_grant_that_outlives_it,
        nothing_is_renewed_beyond_its_grant,
        what_is_served_without_a_grant_is_dropped,
        what_is_asked_for_is_not_done_as_well,
    ):
        holds(rules, who, other)


def test_the_times_fit() -> None:
    """The address is dropped in order before the kernel would; and both before etcd gives it to anybody."""
    assert 0 < grant.EARLY * RULES.lease < RULES.lease
    assert isinstance(Own("serv1").granted_until, float) and Own("serv1").granted_until > 1e12
