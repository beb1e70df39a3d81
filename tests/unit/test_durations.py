"""Durations and ages, as people write them."""

import datetime
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd import durations

AMOUNTS = st.one_of(st.integers(0, 10**9).map(str), st.decimals(0, 10**6, places=3).map(lambda number: f"{number:f}"))
SPACES = st.sampled_from(["", " ", "  ", "\t"])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("200 ms", 0.2),
        ("180ms", 0.18),
        ("1.5 seconds", 1.5),
        ("1 second", 1),
        ("1 s", 1),
        ("5 minutes", 300),
        ("1 min", 60),
        ("3 h", 10800),
        ("2 days", 172800),
        ("1 week", 604800),
        ("0 s", 0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert durations.parse(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "ms",
        "5 fortnights",
        "-5 s",
        "+5 s",
        "5 s s",
        "1,5 s",
        "1e3 s",
        ".5 s",
        "5. s",
        "\u0665 s",
        "5 MS",
        "1 month",
    ],
)
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(durations.ALLOWED)):
        durations.parse(text)


@given(AMOUNTS, SPACES, st.sampled_from(sorted(durations.UNITS)))
def test_amount_times_unit(amount: str, space: str, unit: str) -> None:
    assert durations.parse(f"{space}{amount}{space}{unit}{space}") == float(amount) * durations.UNITS[unit]


@given(st.text())
def test_any_text_is_a_duration_or_refused(text: str) -> None:
    try:
        assert durations.parse(text) >= 0
    except ValueError as error:
        assert str(error) == durations.ALLOWED


@given(st.text())
def test_any_text_is_an_age_or_refused(text: str) -> None:
    try:
        durations.parse_age(text)
    except ValueError as error:
        assert str(error) == durations.ALLOWED_AGE


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("30 days", (2024, 2, 1), (2024, 3, 2)),
        ("1 month", (2024, 1, 31), (2024, 2, 29)),
        ("1 month", (2023, 1, 31), (2023, 2, 28)),
        ("2 weeks", (2024, 12, 25), (2025, 1, 8)),
        ("1 year", (2024, 2, 29), (2025, 2, 28)),
        ("18 months", (2024, 2, 29), (2025, 8, 29)),
    ],
)
def test_ages_count_in_the_calendar(text: str, start: tuple[int, int, int], end: tuple[int, int, int]) -> None:
    assert datetime.date(*start) + durations.parse_age(text) == datetime.date(*end)


@pytest.mark.parametrize("text", ["", "30", "days", "1.5 months", "-1 day", "1 fortnight", "200 ms", "1 h"])
def test_no_ages(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(durations.ALLOWED_AGE)):
        durations.parse_age(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.18, "180 ms"),
        (0.9996, "1 s"),
        (1, "1 s"),
        (1.5, "1.5 s"),
        (59.96, "1 min"),
        (60, "1 min"),
        (3599, "1 h"),
        (3600, "1 h"),
        (12000, "3 h 20 min"),
        (86399, "1 day"),
        (86400, "1 day"),
        (187200, "2 days 4 h"),
    ],
)
def test_shown_for_people(seconds: float, text: str) -> None:
    assert durations.show(seconds) == text


@given(st.floats(0, 10**8))
def test_what_is_shown_is_close(seconds: float) -> None:
    shown = durations.show(seconds)
    assert re.fullmatch(r"[0-9.]+ [a-z]+( [0-9]+ [a-z]+)?", shown)
    parts = re.findall(r"[0-9.]+ [a-z]+", shown)
    assert sum(map(durations.parse, parts)) == pytest.approx(seconds, rel=0.05, abs=0.0006)
