"""The scoreboard: which way is better, what an interval leaves open, and what is absent."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preread.report.numbers import plain, size
from preread.report.reading import Goal, Results, read
from preread.report.scoreboard import OTHERS, Entry, by_part, counted, scoreboard

from .made import FIGURES, figure, write

NUMBERS = st.floats(-1e6, 1e6)


def goal(better, number, what="what"):
    return Goal("a", "part", better, number, "x", what)


@settings(deadline=None)
@given(NUMBERS, NUMBERS)
def test_a_value_hits_on_its_side_of_the_goal_and_the_two_sides_meet_at_it_alone(value, number):
    higher = Entry("a", goal("higher", number), figure("a", value, value, value)).verdict
    lower = Entry("a", goal("lower", number), figure("a", value, value, value)).verdict
    assert (higher == "hit") == (value >= number)
    assert (lower == "hit") == (value <= number)
    assert {higher, lower} == ({"hit"} if value == number else {"hit", "miss"})


@settings(deadline=None)
@given(st.sampled_from(["higher", "lower"]), NUMBERS, st.lists(NUMBERS, min_size=3, max_size=3).map(sorted))
def test_a_verdict_is_sure_where_both_ends_have_it_too(better, number, numbers):
    low, value, high = numbers
    verdicts = {Entry("a", goal(better, number), figure("a", one, one, one)).verdict for one in numbers}
    assert Entry("a", goal(better, number), figure("a", value, low, high)).sure == (len(verdicts) == 1)


def test_what_is_absent_is_said_and_never_guessed(tmp_path):
    found = {entry.id: entry for entry in scoreboard(read(write(tmp_path)))}
    assert found["c.gpu"].verdict == found["c.later"].verdict == "absent"
    assert "GPU" in found["c.gpu"].why_absent
    assert "GPU" not in found["c.later"].why_absent
    assert found["a.sure"].why_absent == ""


def test_every_goal_and_every_figure_has_one_entry_by_part(tmp_path):
    results = read(write(tmp_path))
    entries = scoreboard(results)
    assert [entry.id for entry in entries] == [one.id for one in results.goals] + ["z.new"]
    assert {entry.id for entry in entries if entry.figure} == {one.id for one in FIGURES}
    assert list(by_part(entries)) == ["house", "parity", "scale", OTHERS]
    assert counted(entries) == {"hit": 3, "miss": 1, "absent": 2, "no goal": 1}
    assert sum(counted(entries).values()) == len(entries)


def test_no_goals_is_no_verdict():
    assert counted(scoreboard(Results(figures=list(FIGURES)))) == {"no goal": len(FIGURES)}


@settings(deadline=None)
@given(st.floats(-1e12, 1e12).filter(lambda number: number == 0 or abs(number) > 1e-9))
def test_a_number_in_words_is_the_number_to_three_digits(number):
    assert float(plain(number).replace(",", "")) == pytest.approx(number, rel=0.05 if abs(number) < 1e-3 else 0.005)


@settings(deadline=None)
@given(st.floats(0, 9e14))
def test_a_size_in_words_is_the_size_to_three_digits(count):
    told, unit = size(count).split()
    power = ("B", "kB", "MB", "GB", "TB").index(unit)
    assert float(told.replace(",", "")) * 1000**power == pytest.approx(count, rel=0.0051, abs=0.5 if power == 0 else 0)
    assert "e" not in told
