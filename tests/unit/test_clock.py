"""Whom to believe: most servers agree or nothing is set, a falseticker is outvoted and named."""

import math
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from clusterd.clock import MAX_DISTANCE, TOLERANCE, Agreement, Sample, agree


def samples(*offsets: float, uncertainty: float = 0.001) -> list[Sample]:
    return [Sample(f"server{number}", offset, uncertainty) for number, offset in enumerate(offsets)]


def names(found: tuple[Sample, ...]) -> str:
    return " ".join(sample.server.removeprefix("server") for sample in found)


def verdict(*offsets: float, uncertainty: float = 0.001, asked: int = 0) -> tuple[float | None, str, str]:
    found = agree(samples(*offsets, uncertainty=uncertainty), asked or len(offsets))
    return found.offset, names(found.good), names(found.false)


def test_three_that_agree() -> None:
    assert verdict(0.01, 0.012, 0.008) == (0.01, "0 1 2", "")


def test_the_most_certain_of_them_counts() -> None:
    found = agree([Sample("far", 0.03, 0.04), Sample("near", 0.01, 0.002), Sample("mid", 0.02, 0.02)], 3)
    assert found.offset == 0.01
    assert [sample.server for sample in found.good] == ["near", "mid", "far"]


def test_a_falseticker_is_outvoted() -> None:
    assert verdict(0.0, 3600.0, 0.001) == (0.0, "0 2", "1")
    assert verdict(-7200.0, 0.0, 0.001, 0.002, 3600.0) == (0.0, "1 2 3", "0 4")


def test_a_falseticker_that_is_very_sure_of_itself() -> None:
    found = agree([Sample("a", 0.0, 0.01), Sample("liar", 100.0, 0.0), Sample("b", 0.001, 0.02)], 3)
    assert found.offset == 0.0
    assert [sample.server for sample in found.false] == ["liar"]


def test_no_majority() -> None:
    for offsets in ((0.0, 3600.0), (0.0, 100.0, 200.0), (0.0, 0.001, 100.0, 100.001)):
        found = agree(samples(*offsets), len(offsets))
        assert (found.offset, found.good, len(found.false)) == (None, (), len(offsets))
        assert "contradict each other" in found.why and "server0 +0.000 s" in found.why


def test_one_answer_is_enough_only_if_one_was_asked() -> None:
    assert verdict(5.0, asked=1)[0] == 5.0
    assert verdict(5.0, asked=3)[0] is None
    assert "only 1 of 3" in agree(samples(5.0), 3).why
    assert verdict(5.0, 5.001, asked=3)[0] == 5.0


def test_no_answer() -> None:
    assert agree([], 3) == Agreement(None, (), (), "none of 3 time servers gave a usable answer")
    assert agree([], 0).offset is None


def test_who_knows_nothing_has_no_vote() -> None:
    vague = Sample("vague", 0.0, 16.0)
    assert agree([vague, *samples(100.0)], 2).offset is None
    found = agree([vague, *samples(100.0, 100.001)], 3)
    assert found.offset == 100.0
    assert found.false == (vague,)


def test_small_differences_are_no_contradiction() -> None:
    assert verdict(0.0, TOLERANCE, 0.02, uncertainty=0.0)[1] == "0 1 2"
    assert verdict(0.0, 2.1 * TOLERANCE, uncertainty=0.0)[0] is None


FLOATS = st.floats(-1e6, 1e6)


@given(st.lists(st.builds(Sample, st.text(max_size=3), FLOATS, st.floats(0, 3)), max_size=9), st.integers(0, 4))
def test_whatever_they_say(said: list[Sample], silent: int) -> None:
    found = agree(said, len(said) + silent)
    assert len(found.good) + len(found.false) == len(said)
    if found.offset is None:
        assert not found.good and found.why
        return
    voters = [sample for sample in said if sample.uncertainty <= MAX_DISTANCE]
    assert len(found.good) > len(voters) / 2
    assert len(found.good) >= min(2, len(said) + silent)
    assert found.offset == found.good[0].offset
    for one in found.good:
        for other in found.good:
            reach = max(one.uncertainty, TOLERANCE) + max(other.uncertainty, TOLERANCE)
            assert abs(one.offset - other.offset) <= reach * (1 + 1e-9) + 1e-9


@given(FLOATS, st.integers(1, 4), st.lists(FLOATS, min_size=0, max_size=3), st.randoms())
def test_a_minority_of_liars_never_wins(truth: float, more: int, lies: list[float], random: Random) -> None:
    honest = [Sample(f"true{number}", truth + random.uniform(-0.02, 0.02), 0.03) for number in range(len(lies) + more)]
    liars = [Sample(f"false{number}", lie, 0.0) for number, lie in enumerate(lies)]
    said = honest + liars
    random.shuffle(said)
    found = agree(said, len(said))
    if len(said) > 1 and len(honest) < 2:
        return
    assert found.offset is not None
    assert math.isclose(found.offset, truth, abs_tol=2 * TOLERANCE + 0.05)
    assert {sample.server for sample in honest} <= {sample.server for sample in found.good} or any(
        abs(lie - truth) < 1 for lie in lies
    )
