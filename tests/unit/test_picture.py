"""The picture: since when what is the case, what the LAN is asked, and who is fit."""

from typing import Any

import pytest

from clusterd.picture import (
    PERSON,
    PROGRAM,
    SLACK,
    Claim,
    Me,
    Own,
    Peer,
    Rules,
    fit,
    latest,
    note,
    questions,
    suspicious,
    unheld,
)

RULES = Rules()
NOW = 1000.0
HB, LAN = "heartbeat", "lan"


def me(reach: int | None = 2, standby: str = "", groups: dict[str, Own] | None = None) -> Me:
    mine = groups or {"serv1": Own("serv1", 5, "serv1", held=True, up=True), "serv2": Own("serv2", 5, "serv2")}
    return Me("serv1", mine, standby, reach)


def peer(hb: float | None = 0.05, lan: float | None = 0.05, **about: Any) -> Peer:
    """serv2, heard so many seconds ago on each path."""
    heard = {path: None if ago is None else NOW - ago for path, ago in ((HB, hb), (LAN, lan))}
    return Peer("serv2", heard, **{"reach": 2, "hears_me": True, "groups": {"serv2": Claim(5, "serv2", True)}, **about})


# --- a peer ---


def test_it_is_as_silent_as_its_best_path() -> None:
    assert peer(hb=0.5, lan=0.2).silence(NOW) == pytest.approx(0.2)
    assert peer(hb=None, lan=0.2).silence(NOW) == pytest.approx(0.2)
    assert peer(hb=None, lan=None).silence(NOW) is None


@pytest.mark.parametrize(("ago", "is_fresh"), [(0.0, True), (0.17, True), (0.19, False), (None, False)])
def test_its_word_is_its_present_one_for_isolated_after(ago: float | None, is_fresh: bool) -> None:
    assert peer(hb=ago, lan=None).fresh(RULES, NOW) is is_fresh


def test_dead_paths_are_those_silent_for_dead_after() -> None:
    assert peer(hb=0.29, lan=0.31).dead_paths(RULES, NOW) == [LAN]
    assert peer(hb=None, lan=0.1).dead_paths(RULES, NOW) == [HB]


@pytest.mark.parametrize(("ago", "is_suspicious"), [(0.1, False), (0.1 + SLACK + 0.01, True), (None, True)])
def test_it_is_suspicious_from_the_first_missed_datagram(ago: float | None, is_suspicious: bool) -> None:
    assert suspicious(RULES, peer(hb=ago, lan=None), NOW) is is_suspicious


# --- since when ---


def test_whole_since_begins_when_every_path_is_heard() -> None:
    assert note(RULES, me(), peer(), NOW).whole_since == NOW
    assert note(RULES, me(), peer(lan=0.2), NOW).whole_since is None
    assert note(RULES, me(), peer(lan=None), NOW).whole_since is None
    assert note(RULES, me(), Peer("serv2", {}), NOW).whole_since is None


@pytest.mark.parametrize(("reach", "whole"), [(2, True), (3, True), (1, False), (0, False), (None, False)])
def test_whole_since_begins_when_it_reaches_as_many_hosts(reach: int | None, whole: bool) -> None:
    """A node in standby has no path on the LAN that could be silent: only this shows a cable that comes and goes."""
    known = peer(whole_since=NOW - 30, reach=reach)
    assert note(RULES, me(), known, NOW).whole_since == (NOW - 30 if whole else None)
    assert note(RULES, me(reach=None), peer(reach=2), NOW).whole_since == NOW


def test_whole_since_stays_while_it_lasts_and_begins_anew_after_a_gap() -> None:
    known = peer(whole_since=NOW - 30)
    assert note(RULES, me(), known, NOW).whole_since == NOW - 30
    gap = note(RULES, me(), known._replace(heard={HB: NOW, LAN: NOW - 0.2}), NOW)
    assert gap.whole_since is None
    assert note(RULES, me(), gap._replace(heard={HB: NOW + 1, LAN: NOW + 1}), NOW + 1).whole_since == NOW + 1


def test_outvoted_since_needs_a_dead_path_and_two_known_counts() -> None:
    half = peer(lan=9.0)
    assert note(RULES, me(reach=1), half, NOW).outvoted_since == NOW
    assert note(RULES, me(reach=2), half, NOW).outvoted_since is None
    assert note(RULES, me(reach=None), half, NOW).outvoted_since is None
    assert note(RULES, me(reach=1), half._replace(reach=None), NOW).outvoted_since is None
    assert note(RULES, me(reach=1), peer(), NOW).outvoted_since is None, "every path works: no vote"
    assert note(RULES, me(reach=1), peer(hb=0.2, lan=9.0), NOW).outvoted_since is None, "its count is old"


def test_outvoted_since_keeps_its_beginning_and_ends_with_its_reason() -> None:
    half = peer(lan=9.0, outvoted_since=NOW - 0.2)
    assert note(RULES, me(reach=1), half, NOW).outvoted_since == NOW - 0.2
    assert note(RULES, me(reach=2), half, NOW).outvoted_since is None


def test_deaf_since_it_is_heard_and_does_not_hear_us() -> None:
    assert note(RULES, me(), peer(hears_me=False), NOW).deaf_since == NOW
    assert note(RULES, me(), peer(hears_me=False, deaf_since=NOW - 1), NOW).deaf_since == NOW - 1
    assert note(RULES, me(), peer(deaf_since=NOW - 1), NOW).deaf_since is None
    assert note(RULES, me(), peer(hb=1.0, lan=1.0, hears_me=False, deaf_since=NOW - 1), NOW).deaf_since is None
    rarely = peer(hb=RULES.dead_after, lan=1.0, hears_me=False, deaf_since=NOW - 1)
    assert not rarely.fresh(RULES, NOW) and note(RULES, me(), rarely, NOW).deaf_since == NOW - 1


def test_noting_changes_nothing_else() -> None:
    known = peer()
    assert note(RULES, me(), known, NOW)._replace(whole_since=None, arbiter_since=None, mutual_since=None) == known


def test_since_when_both_hear_each_other() -> None:
    assert note(RULES, me(), peer(mutual_since=NOW - 9), NOW).mutual_since == NOW - 9
    assert note(RULES, me(), peer(mutual_since=NOW - 9, hears_me=False), NOW).mutual_since is None
    assert note(RULES, me(), peer(hb=0.2, lan=0.2, mutual_since=NOW - 9), NOW).mutual_since is None


def test_since_when_the_arbiter_answers_the_peer() -> None:
    assert note(RULES, me(), peer(), NOW).arbiter_since == NOW
    assert note(RULES, me(), peer(arbiter_since=NOW - 9), NOW).arbiter_since == NOW - 9
    assert note(RULES, me(), peer(arbiter_since=NOW - 9, arbiter=False), NOW).arbiter_since is None


# --- what the LAN is asked ---


def test_nothing_is_asked_while_the_holder_is_heard() -> None:
    assert questions(RULES, me(), (peer(),), NOW) == ()


def test_asked_from_the_first_missed_datagram() -> None:
    assert questions(RULES, me(), (peer(hb=0.12, lan=0.12),), NOW) == ("serv2",)
    assert questions(RULES, me(), (peer(hb=0.12, lan=0.05),), NOW) == ()


def test_asked_when_nobody_claims_it() -> None:
    assert questions(RULES, me(), (peer(groups={}),), NOW) == ("serv2",)


def test_what_is_up_here_is_not_asked_for() -> None:
    assert "serv1" not in questions(RULES, me(), (peer(hb=None, lan=None),), NOW)


def test_what_is_ours_but_not_up_is_asked_for() -> None:
    own = Own("serv1", 5, "serv1", held=True)
    assert questions(RULES, me(groups={"serv1": own}), (peer(),), NOW) == ("serv1",)


@pytest.mark.parametrize("cause", [PERSON, PROGRAM])
def test_in_standby_only_what_is_still_held_is_asked_for(cause: str) -> None:
    groups = {"serv1": Own("serv1", held=True), "serv2": Own("serv2")}
    assert questions(RULES, me(standby=cause, groups=groups), (peer(hb=None, lan=None),), NOW) == ("serv1",)


@pytest.mark.parametrize("reach", [0, None])
def test_nothing_is_asked_while_no_reference_host_answers(reach: int | None) -> None:
    """Questions that the LAN could not carry would look like a silence in the moment in which it is back."""
    assert questions(RULES, me(reach=reach), (peer(hb=None, lan=None),), NOW) == ()


# --- who holds it, who may ---


def test_unheld_needs_every_peer_heard_and_no_claim() -> None:
    assert unheld(RULES, me(), (peer(groups={}),), "serv2", NOW)
    assert not unheld(RULES, me(), (peer(),), "serv2", NOW), "claimed"
    taking = peer(groups={"serv2": Claim(5, "serv2", taking=6)})
    assert not unheld(RULES, me(), (taking,), "serv2", NOW), "being taken"
    assert not unheld(RULES, me(), (peer(groups={}),), "serv1", NOW), "held here"
    assert not unheld(RULES, me(), (peer(hb=1.0, lan=1.0, groups={}),), "serv2", NOW), "not heard"


@pytest.mark.parametrize(
    ("mine", "theirs", "known"),
    [
        ((5, "serv1"), (4, "serv2"), (5, "serv1")),
        ((4, "serv1"), (5, "serv2"), (5, "serv2")),
        ((5, "serv1"), (5, "serv1"), (5, "serv1")),
        ((5, ""), (5, "serv2"), (5, "serv2")),
        ((5, "serv1"), (5, "serv2"), (5, "serv1")),
        ((0, ""), (0, ""), (0, "")),
    ],
)
def test_latest_is_the_highest_epoch_and_its_holder(
    mine: tuple[int, str], theirs: tuple[int, str], known: tuple[int, str]
) -> None:
    who = me(groups={"serv1": Own("serv1", *mine)})
    assert latest(who, (peer(groups={"serv1": Claim(*theirs)}),), "serv1") == known


def test_latest_with_equal_epochs_is_the_home_node() -> None:
    who = me(groups={"serv2": Own("serv2", 5, "serv1")})
    assert latest(who, (peer(groups={"serv2": Claim(5, "serv2")}),), "serv2") == (5, "serv2")


def test_latest_without_a_word_of_the_peer() -> None:
    assert latest(me(), (peer(groups={}),), "serv1") == (5, "serv1")


@pytest.mark.parametrize(
    ("mine", "about", "is_fit"),
    [
        (2, {}, True),
        (1, {}, True),
        (None, {}, True),
        (2, {"reach": 1}, False),
        (0, {"reach": None}, False),
        (2, {"hears_me": False}, False),
    ],
)
def test_fit_is_who_sees_as_much_and_hears_us(mine: int | None, about: dict[str, Any], is_fit: bool) -> None:
    assert fit(RULES, me(reach=mine), peer(**about), NOW) is is_fit


def test_fit_needs_every_path() -> None:
    assert not fit(RULES, me(), peer(lan=9.0), NOW)
