"""Who answers on the LAN: when an answer is missing often and long enough to be a silence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd.reach import CALM, ENOUGH, LONG_ENOUGH, RECENT, URGENT, Asked, Census, answered, silent_since

NOW = 1000.0
HOSTS = ("10.1.0.254", "10.1.0.253")


def asked(*times: float, answer: float | None = None) -> Asked:
    """Asked at those times, and answered at that one."""
    made = Asked()
    if answer is not None:
        made = made.answer(answer)
    for at in times:
        made = made.ask(at)
    return made


# --- one address ---


def test_not_asked_is_no_silence() -> None:
    assert Asked().silent_since(NOW) is None


def test_a_silence_begins_with_the_first_question_that_nobody_answered() -> None:
    state = asked(NOW, NOW + 0.02, NOW + 0.05)
    assert state.silent_since(NOW + 0.05) == NOW


def test_too_few_questions_are_no_silence_however_long_ago() -> None:
    assert asked(*[NOW] * (ENOUGH - 1)).silent_since(NOW + 100) is None


def test_too_short_a_time_is_no_silence_however_many_questions() -> None:
    state = asked(*[NOW] * 50)
    assert state.silent_since(NOW + LONG_ENOUGH - 0.001) is None
    assert state.silent_since(NOW + LONG_ENOUGH + 0.001) == NOW


def test_an_answer_ends_the_silence() -> None:
    state = asked(NOW, NOW + 0.02, NOW + 0.05).answer(NOW + 0.06)
    assert state.silent_since(NOW + 9) is None
    assert state.answered_at == NOW + 0.06
    assert state.unanswered == 0


def test_after_an_answer_the_next_silence_has_a_beginning_of_its_own() -> None:
    state = asked(NOW + 1, NOW + 1.02, NOW + 1.05, answer=NOW)
    assert state.silent_since(NOW + 1.05) == NOW + 1


@given(st.lists(st.tuples(st.floats(0.001, 0.1), st.booleans()), max_size=30))
def test_silent_is_who_has_not_answered_since_then(steps: list[tuple[float, bool]]) -> None:
    state, now, last_answer = Asked(), NOW, None
    for wait, answers in steps:
        now += wait
        state = state.ask(now)
        if answers:
            state, last_answer = state.answer(now), now
    since = state.silent_since(now)
    if since is not None:
        assert last_answer is None or since > last_answer
        assert now - since >= LONG_ENOUGH
        assert state.unanswered >= ENOUGH


# --- the reference hosts ---


def all_answer(census: Census, now: float) -> None:
    for host in HOSTS:
        census.ask(host, now)
        census.answer(host, now + 0.001)


def none_answers(census: Census, now: float, *hosts: str) -> None:
    for number in range(ENOUGH + 1):
        for host in hosts or HOSTS:
            census.ask(host, now + number * 0.02)


def test_all_are_due_at_first() -> None:
    assert Census(HOSTS).due(NOW, CALM) == list(HOSTS)


def test_those_that_answered_are_due_after_the_interval() -> None:
    census = Census(HOSTS)
    all_answer(census, NOW)
    assert census.due(NOW + CALM - 0.01, CALM) == []
    assert census.due(NOW + CALM, CALM) == list(HOSTS)
    assert census.due(NOW + URGENT + 0.001, URGENT) == list(HOSTS)


def test_one_that_owes_an_answer_is_asked_again_at_once() -> None:
    census = Census(HOSTS)
    all_answer(census, NOW)
    census.ask(HOSTS[0], NOW + 1)
    assert census.due(NOW + 1.001 + URGENT, 100.0) == [HOSTS[0]]


def test_one_that_is_known_to_be_silent_is_not_pestered() -> None:
    census = Census(HOSTS)
    none_answers(census, NOW)
    assert census.due(NOW + 0.5, CALM) == []


def test_reached_is_unknown_until_each_has_answered_or_not() -> None:
    census = Census(HOSTS)
    assert census.reached(NOW) is None
    census.ask(HOSTS[0], NOW)
    census.answer(HOSTS[0], NOW + 0.001)
    assert census.reached(NOW + 0.002) is None
    none_answers(census, NOW, HOSTS[1])
    assert census.reached(NOW + 0.1) == 1
    census.answer(HOSTS[1], NOW + 0.2)
    assert census.reached(NOW + 0.2) == 2


def test_one_lost_question_changes_no_count() -> None:
    census = Census(HOSTS)
    all_answer(census, NOW)
    census.ask(HOSTS[0], NOW + 1)
    assert census.reached(NOW + 1.5) == 2


def test_unreached_needs_every_host_silent() -> None:
    census = Census(HOSTS)
    assert census.unreached_since(NOW) is None
    none_answers(census, NOW, HOSTS[0])
    assert census.unreached_since(NOW + 0.1) is None
    none_answers(census, NOW + 1, HOSTS[1])
    assert census.unreached_since(NOW + 2) == NOW + 1, "since the last of them fell silent"
    census.answer(HOSTS[0], NOW + 3)
    assert census.unreached_since(NOW + 3) is None


def test_without_reference_hosts_nobody_is_isolated_and_nobody_reaches_any() -> None:
    census = Census(())
    assert census.unreached_since(NOW) is None
    assert census.reached(NOW) == 0


def test_answers_of_others_are_ignored() -> None:
    census = Census(HOSTS)
    census.answer("10.1.0.9", NOW)
    assert set(census.asked) == set(HOSTS)


# --- a group's addresses ---


def test_a_group_is_silent_when_all_of_its_addresses_are() -> None:
    first, second = asked(NOW, NOW, NOW), asked(NOW + 1, NOW + 1, NOW + 1)
    assert silent_since([first, second], NOW + 2) == NOW + 1
    assert silent_since([first, Asked()], NOW + 2) is None
    assert silent_since([first, second.answer(NOW + 1.5)], NOW + 2) is None


def test_a_group_that_was_not_asked_about_is_not_silent() -> None:
    assert silent_since([], NOW) is None
    assert answered([], NOW) is False


@pytest.mark.parametrize(("ago", "is_answered"), [(0.0, True), (RECENT - 0.001, True), (RECENT + 0.001, False)])
def test_one_address_that_has_just_answered_is_enough(ago: float, is_answered: bool) -> None:
    silent = asked(NOW, NOW, NOW)
    assert answered([silent, Asked().answer(NOW - ago)], NOW) is is_answered
