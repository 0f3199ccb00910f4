"""What tuning gave, beside the paper's rows: told where rows were judged before and after, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
from markdown_it import MarkdownIt

from preread.eval.tables import Gain, Value
from preread.report.markdown import markdown
from preread.report.page import page
from preread.report.reading import read
from preread.report.sections import Report
from preread.report.tuning import published

from .made import question_sets, running_text, write
from .seen import Page

GAINS = (
    Gain("single document", "lloco 30x", 2, 11.5, 24.25, Value(12.75, 9.0, 16.5, 300)),
    Gain("single document", "full text", 2, 15.0, 30.0, Value(15.0, -inf, inf, 300)),
    Gain("all", "lloco <b>30x", 5, 10.0, 9.0, Value(-1.0, -3.0, 1.0, 700)),
)


def shown(made, kind):
    if kind == "page":
        return Page(page(made))
    return Page(MarkdownIt("commonmark").enable("table").render(markdown(made)))


@pytest.fixture(params=["page", "markdown"])
def kind(request):
    return request.param


def test_before_after_and_the_gain_stand_beside_each_other_for_each_window(tmp_path, kind):
    short = replace(question_sets(), name="short", window=4096, gains=GAINS[:1])
    made = Report(read(write(tmp_path, replace(question_sets(), window=8192, gains=GAINS), short)))
    assert [len(one.evaluation.gains) for one in made.sections] in ([3, 1], [1, 3]), (
        "they are read as they were written"
    )
    seen = shown(made, kind)
    tables = [table for table in seen.tables if "untuned" in "".join(table[0])]
    assert sorted(len(rows) for _, *rows in tables) == [1, 3]
    rows = [[" ".join(field.split()) for field in row] for _, *rows in tables for row in rows]
    assert ["lloco 30x", "single document", "2", "11.5", "24.2"] in [row[:5] for row in rows]
    assert "12.8" in rows[0][5]
    assert "9.0 to 16.5" in rows[0][5]
    assert any("open" in row[5] for row in rows), "what the documents do not bound is not made up"
    assert all(text in seen.text for text in ("4,096 positions", "8,192 positions"))
    assert "lloco <b>30x" in [row[0] for row in rows], "as text, not as markup"


def test_the_papers_rows_are_marked_as_another_models(tmp_path, kind):
    seen = shown(Report(read(write(tmp_path, replace(question_sets(), gains=GAINS)))), kind)
    rows = seen["LLoCO (tuned)"]
    assert {" ".join(row["mean"].split()) for row in rows.values()} == {"23.73", "24.70", "24.32", "18.75", "30.67"}
    assert "another model" in seen.text
    assert "not against them" in seen.text


def test_without_tuned_rows_there_is_neither(tmp_path, kind):
    seen = shown(Report(read(write(tmp_path, question_sets(), running_text()))), kind)
    assert "untuned" not in seen.text
    assert "LLoCO (tuned)" not in seen.text


def test_published_means_are_those_of_their_five_sets():
    sheet = published()
    assert sheet.head[2:] == ["QuALITY", "Qasper", "QMSum", "NarrativeQA", "HotpotQA", "mean"]
    for row in sheet.rows:
        *scores, mean = (float(field.text) for field in row[2:])
        assert mean == pytest.approx(sum(scores) / 5, abs=0.006)
