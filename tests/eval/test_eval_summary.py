"""Tables: what is averaged over what, shares of the gap, grids, and what is not known is not shown."""

from __future__ import annotations

import gzip
import json
from math import exp, log

import pytest

from preread.eval.case import Outcome, Record
from preread.eval.recipe import EvalRecipe
from preread.eval.results import result, sets_reported, write
from preread.eval.runner import Judged
from preread.eval.summary import table
from preread.eval.tables import evaluation, plain
from preread.eval.tasks.qa import Qa


def outcome(unit, records, seconds=1.0, unfit="", **extra):
    return Outcome(unit, tuple(records), seconds, unfit=unfit, **extra)


def record(unit, item, weight=1.0, at=(), **scores):
    return Record(unit, item, scores, weight, positions=100, at=at)


def judged(kinds=None, **outcomes):
    kinds = kinds or {label: label for label in outcomes}
    units = [one.unit for one in next(iter(outcomes.values()))]
    return Judged(Qa("tales"), units, outcomes, kinds, dict.fromkeys(outcomes, ()))


def rows(found, on_gpu=False):
    return {row.answerer: row for row in table(found, on_gpu).rows}


THREE = judged(
    none=[outcome("a", [record("a", "1", nll=6.0, f1=0.0), record("a", "2", nll=4.0, f1=10.0)]),
          outcome("b", [record("b", "3", nll=5.0, f1=20.0)])],
    full=[outcome("a", [record("a", "1", nll=2.0, f1=50.0), record("a", "2", nll=2.0, f1=50.0)], seconds=8.0),
          outcome("b", [], unfit="too long")],
    memory=[outcome("a", [record("a", "1", nll=3.0, f1=40.0), record("a", "2", nll=4.0, f1=10.0)], seconds=3.0),
            outcome("b", [record("b", "3", nll=1.0, f1=90.0)], seconds=5.0)],
)  # fmt: skip


def test_means_are_over_questions():
    assert rows(THREE)["none"].metrics["f1"].value == pytest.approx(10.0)
    assert rows(THREE)["memory"].metrics["f1"].n == 3


def test_the_share_is_counted_where_all_three_have_a_likelihood():
    found = rows(THREE)
    assert found["memory"].metrics["share"].value == pytest.approx(100 * (3.0 + 0.0) / (4.0 + 2.0))
    assert found["memory"].metrics["share"].n == 2, "the document that the full text could not do is left out"
    assert found["full"].metrics["share"].value == pytest.approx(100)
    assert found["none"].metrics["share"].value == pytest.approx(0)


def test_without_both_ends_there_is_no_share():
    assert "share" not in rows(judged(none=THREE.outcomes["none"]))["none"].metrics


def test_times_compare_units_that_both_did():
    found = rows(THREE)
    assert found["memory"].times == pytest.approx((3 + 5) / 2)
    assert found["full"].times == pytest.approx(8.0)
    assert found["none"].times == pytest.approx(1.0)
    assert found["memory"].seconds is None, "absolute times of a CPU mean nothing elsewhere"
    assert rows(THREE, on_gpu=True)["memory"].seconds == pytest.approx(8 / 3)


def test_what_was_left_out_is_said():
    row = rows(THREE)["full"]
    assert (row.units, row.items, row.unfit.units, row.unfit.reason) == (1, 2, 1, "too long")


def test_an_interval_draws_documents_not_questions():
    scattered = judged(none=[outcome(u, [record(u, f"{u}{i}", f1=100.0 * (i % 2)) for i in range(40)]) for u in "abcd"])
    alike = judged(none=[outcome(u, [record(u, f"{u}{i}", f1=100.0 * (u in "ab")) for i in range(40)]) for u in "abcd"])
    same, wide = (rows(found)["none"].metrics["f1"] for found in (scattered, alike))
    assert same.value == wide.value == 50
    assert same.high - same.low == pytest.approx(0), "every document is alike inside"
    assert wide.high - wide.low == pytest.approx(100), "whole documents differ"


def test_running_text_is_weighted_by_its_tokens_and_shown_as_perplexity():
    first = [record("a", "1", weight=300, nll=log(8)), record("a", "2", weight=100, nll=log(2))]
    second = [record("b", "3", weight=400, nll=log(4))]
    found = rows(judged(none=[outcome("a", first), outcome("b", second)]))["none"].metrics
    mean = (300 * log(8) + 100 * log(2) + 400 * log(4)) / 800
    assert found["nll"].value == pytest.approx(mean)
    assert found["perplexity"].value == pytest.approx(exp(mean))
    assert found["perplexity"].low <= found["perplexity"].value <= found["perplexity"].high


def test_a_grid_has_a_cell_for_each_place():
    at = lambda length, depth: (("length", length), ("depth", depth))  # noqa: E731
    found = rows(judged(none=[
        outcome("a", [record("a", "1", at=at(1000, 0.5), em=100.0), record("a", "2", at=at(2000, 0.5), em=0.0)]),
        outcome("b", [record("b", "3", at=at(1000, 0.5), em=0.0)]),
    ]))["none"].cells  # fmt: skip
    assert [(cell.at, cell.metrics["em"].value, cell.metrics["em"].n) for cell in found] == [
        ({"length": 1000, "depth": 0.5}, 50.0, 2),
        ({"length": 2000, "depth": 0.5}, 0.0, 1),
    ]


def test_json_has_no_number_that_is_none():
    one = judged(none=[outcome("a", [record("a", "1", f1=3.0)])])
    value = plain(table(one, on_gpu=False))["rows"][0]["metrics"]["f1"]
    assert value == {"value": 3.0, "low": None, "high": None, "n": 1}, "one document says nothing of others"


def test_a_set_counts_with_every_kind_of_row_and_narrow_intervals():
    found = table(THREE, on_gpu=False)
    assert sets_reported([found], ["none", "full", "memory", "tuned"]) == [], "the intervals are wide"
    narrow = judged(none=[outcome(u, [record(u, u, f1=10.0 + i)]) for i, u in enumerate("abcdef")])
    narrow = judged(full=narrow.outcomes["none"], none=narrow.outcomes["none"])
    assert sets_reported([table(narrow, on_gpu=False)], ["none", "full", "tuned"]) == ["tales"]
    assert sets_reported([table(narrow, on_gpu=False)], ["none", "full", "oracle"]) == []


def test_a_result_is_written_with_every_record_behind_it(kit, tmp_path):
    found = result("tales", EvalRecipe([{"kind": "qa", "set": "tales"}]), [THREE], kit, "preread eval x", "abc", None)
    path = write(found, [THREE], tmp_path)
    assert json.loads(path.read_text()) == found
    assert [plain(one) for one in evaluation(path.read_bytes()).tasks] == found["tasks"], "it is read as it was written"
    records = gzip.decompress((tmp_path / "eval" / "tales.records.jsonl.gz").read_bytes()).decode().splitlines()
    assert len(records) == sum(len(one.records) for outcomes in THREE.outcomes.values() for one in outcomes)
    first = (path.read_bytes(), (tmp_path / "eval" / "tales.records.jsonl.gz").read_bytes())
    write(found, [THREE], tmp_path)
    assert first == (path.read_bytes(), (tmp_path / "eval" / "tales.records.jsonl.gz").read_bytes())
