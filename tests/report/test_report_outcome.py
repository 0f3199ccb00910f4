"""Sentences and marks that are computed from numbers: they follow when the numbers do."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan

import pytest

from preread.eval.tables import Row, Table, Unfits, Value
from preread.report.outcome import findings, standings, with_shares
from preread.report.plots import unbeaten
from preread.report.sheets import best, task_sheet

from .made import evaluation, question_sets, running_text


def row(label, kind, share, positions, half=5.0, unfit=None):
    shares = Value(share, share - half, share + half, 9)
    return Row(label, kind, (), 3, 9, unfit, {"f1": shares, "share": shares}, positions, None, None, 0, 0.0)


def sets(*tables):
    frame = (row("no context", "none", 0.0, 50, 0.0), row("full text", "full", 100.0, 2000, 0.0))
    made = [
        Table(f"set {n}", "qa", "single document", "f1", True, "", 3, 9, [*frame, *t]) for n, t in enumerate(tables)
    ]
    return evaluation("made", "nothing", made)


def memory(share, positions=200):
    return row("kv 16x", "memory", share, positions)


def text(share, positions=200):
    return row("hybrid 16x", "retrieved", share, positions)


@pytest.mark.parametrize(
    ("shares", "told"),
    [
        ([(40, 80), (40, 80), (40, 80)], "on 3 of 3 sets."),
        ([(80, 40), (40, 80), (40, 80)], "on 2 of 3 sets; best against it is kv 16x, which tells more on 1."),
        ([(80, 40), (80, 40), (80, 40)], "on none of 3 sets; best against it is kv 16x, which tells more on 3."),
    ],
)
def test_who_wins_at_equal_positions_is_counted(shares, told):
    lines = findings(sets(*([memory(own), text(rival)] for own, rival in shares)))
    assert lines[0] == f"Retrieved text tells more than every memory at equal positions {told}"


def test_text_that_reads_more_is_no_equal_rival():
    assert "at equal positions" not in " ".join(findings(sets([memory(40), text(80, positions=400)])))
    assert "at equal positions" in " ".join(findings(sets([memory(40), text(80, positions=210)])))


def test_who_reads_most_of_the_text_has_not_made_it_short():
    lines = " ".join(findings(sets([memory(60), text(90, positions=1900)])))
    assert "kv 16x keeps most on 1 of 1 set: 60\N{NO-BREAK SPACE}%" in lines


def test_a_memory_is_held_against_another_documents():
    def lines(share):
        other = row("kv 16x, another document's", "other", 10.0, 200)
        return " ".join(findings(sets([memory(share), other], [memory(60), other])))

    assert "another document's memory on 2 of 2 sets" in lines(60)
    assert "another document's memory on 1 of 2 sets" in lines(19), "intervals that overlap are not clear"


def test_tasks_without_shares_are_told_one_by_one():
    lines = findings(running_text())
    assert lines[0].startswith("books, by position: full text, ntk is best, perplexity ")
    assert lines[1].startswith("needle: hybrid 16x is best, contains 54.0")


def test_rows_that_did_less_do_not_compare():
    less = Unfits(1, "too long")
    one = sets([row("head", "shortened", 90.0, 100, unfit=less), memory(50), text(30)])
    assert {standing.row.answerer for standing in standings(with_shares(one))} == {
        "no context", "full text", "kv 16x", "hybrid 16x",
    }  # fmt: skip
    assert best(one.tasks[0], "f1").answerer == "kv 16x"
    assert "head" not in " ".join(findings(one))


def test_best_is_apart_from_every_other_contender():
    wide = row("head", "shortened", 30.0, 100, half=30.0)
    assert best(sets([memory(80), text(60)]).tasks[0], "share").answerer == "kv 16x"
    assert best(sets([memory(80), text(75)]).tasks[0], "share") is None
    assert best(sets([memory(80), text(60), replace(wide, answerer="tail")]).tasks[0], "share").answerer == "kv 16x"
    assert best(sets([memory(64), text(50), wide]).tasks[0], "share") is None, "the third's interval reaches the first"
    assert best(sets([memory(80)]).tasks[0], "share") is None, "alone it is better than nobody"
    open_end = replace(memory(80), metrics={"share": Value(80, -inf, inf, 9)})
    assert best(sets([open_end, text(10)]).tasks[0], "share") is None


def test_lower_is_better_where_the_task_says_so():
    one = replace(sets([memory(20), text(60)]).tasks[0], higher=False)
    assert best(one, "f1").answerer == "kv 16x"
    assert best(one, "share").answerer == "hybrid 16x", "more of the gap is always better"


def test_what_frames_the_comparison_is_never_bold():
    for table in question_sets().tasks:
        for fields in task_sheet(table).rows:
            if fields[0].family == "frame":
                assert not any(field.best for field in fields)


def test_of_a_row_that_did_nothing_nothing_is_told():
    idle = Row("full text", "full", (), 0, 0, Unfits(3, "too long"), {}, 0.0, None, None, 0, 0.0)
    table = replace(sets([memory(50)]).tasks[0], rows=[memory(50), idle])
    told = dict(zip(task_sheet(table).head, task_sheet(table).rows[1], strict=True))
    assert {title for title, field in told.items() if field.text != "–"} == {"answerer", "items", "units", "left out"}
    assert (told["left out"].text, told["left out"].notes, task_sheet(table).footnotes) == ("3", (1,), ["too long"])


def test_nobody_unbeaten_is_beaten():
    for table in question_sets().tasks:
        every = [one for one in standings([table]) if one.row.kind not in ("none", "full", "oracle", "other")]
        front = unbeaten(standings([table]))
        for one in every:
            beaten = any(o.positions <= one.positions and o.share > one.share for o in every)
            assert (one in front) == (not beaten and not any(
                o.positions < one.positions and o.share == one.share for o in every)), one  # fmt: skip


def test_shares_that_are_not_defined_are_left_out():
    undefined = replace(memory(1), metrics={"share": Value(nan, -inf, inf, 9)})
    assert findings(sets([undefined])) == []
