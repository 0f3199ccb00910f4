"""What is read of a folder: what `preread eval` wrote is, and what is broken is named while the rest is kept."""

from __future__ import annotations

import json
from math import inf, isnan

import pytest

from preread.core.errors import PrereadError
from preread.eval.tables import Value, evaluation, plain
from preread.report.reading import read

from .made import FIGURES, GOALS, question_sets, running_text, write

BROKEN = ["", "{", "[]", "null", '{"name": "x"}', "\x00", '{"name": NaN}', "[" * 100_000]


def test_an_evaluation_is_read_as_it_was_written(tmp_path):
    kept = [question_sets(), running_text()]
    found = read(write(tmp_path, *kept))
    assert [plain(table) for one in found.evaluations for table in one.tasks] == [
        json.loads(json.dumps(plain(table))) for one in kept for table in one.tasks
    ]
    assert (found.figures, found.faults) == (list(FIGURES), [])


def test_numbers_that_json_lacks_come_back(tmp_path):
    one = running_text()
    one.tasks[0].rows[0].metrics["nll"] = Value(float("nan"), -inf, inf, 3)
    folder = write(tmp_path, one)
    assert "NaN" not in (folder / "eval" / "text.json").read_text()
    back = evaluation((folder / "eval" / "text.json").read_bytes()).tasks[0].rows[0].metrics["nll"]
    assert isnan(back.value)
    assert (back.low, back.high) == (-inf, inf)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda text: text[:12])
def test_what_is_broken_is_named_and_the_rest_is_kept(tmp_path, broken):
    folder = write(tmp_path, question_sets())
    (folder / "eval" / "broken.json").write_text(broken)
    (folder / "figures.jsonl").write_text(json.dumps({"id": "a"}) + "\n" + (folder / "figures.jsonl").read_text())
    (folder / "goals.csv").write_text(GOALS + "one,two\nb,part,sideways,1,x,what\nc,part,higher,much,x,what\n")
    found = read(folder)
    assert [one.name for one in found.evaluations] == ["sets"]
    assert (len(found.figures), len(found.goals)) == (len(FIGURES), GOALS.count("\n") - 1)
    told = [str(fault) for fault in found.faults]
    assert [place in line for place, line in zip(
        ("broken.json", "figures.jsonl, line 1", "goals.csv, line 8", "goals.csv, line 9", "goals.csv, line 10"), told,
        strict=True,
    )] == [True] * 5  # fmt: skip
    assert all("\n" not in line and len(line) < 500 for line in told)


def test_what_is_not_there_is_said(tmp_path):
    found = read(write(tmp_path, question_sets(), figures=(), goals=None))
    assert [fault.expected.rpartition("/")[2] for fault in found.faults] == ["figures.jsonl", "goals.csv"]
    assert "eval" in str(read(write(tmp_path / "other")).faults[0])


def test_nothing_at_all_is_an_error(tmp_path):
    with pytest.raises(PrereadError, match="preread eval"):
        read(tmp_path / "nowhere")
