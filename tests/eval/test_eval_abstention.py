"""Abstention: what is asked, what answers and likelihoods count as, and metrics by second implementations."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import dataclass
from itertools import product
from statistics import mean
from typing import ClassVar

import numpy as np
import pytest

from preread.core.errors import UsageError
from preread.core.intervals import drawn_interval, interval
from preread.eval.answerer import Answerer
from preread.eval.answerers.plain import Nothing
from preread.eval.cache import Cache
from preread.eval.case import Answers, Likelihood, Record, Response
from preread.eval.kit import Kit
from preread.eval.runner import run
from preread.eval.summary import table
from preread.eval.tasks.abstention import Abstention, OffTopic, auroc


def _write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


def _article(number):
    yes = [{"id": f"{number}-y{n}", "question": f"What is {n}?", "answers": [f"thing {n}"]} for n in range(6)]
    no = [{"id": f"{number}-n{n}", "question": f"Why {n}?", "answers": [], "unanswerable": True} for n in range(number)]
    text = "\n\n".join(f"In {number}, thing {n} stood." for n in range(6))
    return {"doc_id": f"a-{number}", "title": f"A {number}", "text": text, "questions": [*yes, *no]}


@pytest.fixture(scope="module")
def shelf(tiny_decoder, tmp_path_factory) -> Kit:
    """Articles, the first of which has answers to all its questions, and questions from elsewhere."""
    data = tmp_path_factory.mktemp("data")
    _write(data / "qa" / "articles.test.jsonl.gz", map(_article, range(5)))
    asked = [{"id": f"e-{n}", "question": f"who was {n}", "answers": [f"person {n}"]} for n in range(7)]
    rows = [{"doc_id": one["id"], "title": "E", "text": "Elsewhere.", "questions": [one]} for one in asked]
    _write(data / "qa" / "nq_oracle.test.jsonl.gz", rows)
    return Kit(tiny_decoder("llama"), data, data / "work")


def test_half_of_the_questions_have_no_answer(shelf):
    units = Abstention(set="articles", questions=6).units(shelf)
    assert {case.id for case in units} == {"a-1", "a-2", "a-3", "a-4"}  # the first has no such question
    for case in units:
        without = [item for item in case.items if not item.answers]
        assert len(without) == min(3, int(case.id[2:])) == len(case.items) / 2
        assert all("unanswerable" in item.question and item.choices == ("unanswerable",) for item in case.items)
    assert [case.key for case in Abstention(set="articles", questions=6, documents=2).units(shelf)] == [
        case.key for case in units[:2]
    ]


def test_foreign_questions_are_of_elsewhere_and_go_round(shelf):
    units = Abstention(set="articles", questions=4, without="foreign").units(shelf)
    assert len(units) == 5
    foreign = [item for case in units for item in case.items if not item.answers]
    assert all(item.query.startswith("who was") for item in foreign)
    off = OffTopic(set="articles", questions=4).units(shelf)
    asked = [item.id for case in off for item in case.items]
    assert len(set(asked[:7])) == 7
    assert asked[7:14] == asked[:7]
    assert all(item.answers == (f"person {item.id[2:]}",) for case in off for item in case.items)
    assert all("unanswerable" not in item.question for case in off for item in case.items)


def test_a_set_without_such_questions_is_refused(shelf):
    with pytest.raises(UsageError, match="without: foreign"):
        Abstention(set="nq_oracle").units(shelf)


@dataclass(frozen=True)
class Scripted(Answerer):
    """Declines where a draw says so; the word is likelier the more a question deserves it, with noise."""

    kind: ClassVar[str] = "scripted"
    label = "scripted"

    def respond(self, kit, case, max_tokens):
        responses = []
        for item in case.items:
            draw = random.Random(item.id)
            answer = "Unanswerable." if draw.random() < (0.3 if item.answers else 0.7) else "thing 1"
            word = Likelihood(3.0 * (2.0 + draw.random() * 3 - (not item.answers)), 3)
            responses.append(Response(answer, tuple(Likelihood(2.0, 2) for _ in item.answers), (word,), 10, 2))
        return Answers(tuple(responses))


@pytest.fixture(scope="module")
def judged(shelf):
    task = Abstention(set="articles", questions=8)
    return task, [record for case in task.units(shelf) for record in task.judge(shelf, Scripted(), case)[0]]


def test_records_say_what_should_be_and_what_was(judged):
    _, records = judged
    for record in records:
        should = "-n" in record.item
        abstained = 100.0 * (record.answer == "Unanswerable.")
        assert record.scores["should_abstain"] == 100.0 * should
        assert record.scores["abstained"] == abstained
        assert record.scores.get("abstain_recall") == (abstained if should else None)
        assert record.scores.get("kept") == (None if should else 100.0 - abstained)
        assert ("nll" in record.scores) is not should
        assert "accuracy" not in record.scores
        assert not should or record.scores["f1"] == abstained


def test_metrics_of_all_records_by_second_implementations(judged):
    task, records = judged
    found = task.overall(records)
    right = [r for r in records if "-n" in r.item and r.answer == "Unanswerable."]
    precision = len(right) / sum(r.answer == "Unanswerable." for r in records)
    recall = len(right) / sum("-n" in r.item for r in records)
    assert found["abstain_precision"] == pytest.approx(100 * precision)
    assert found["abstain_f1"] == pytest.approx(100 * 2 * precision * recall / (precision + recall))
    no = [r.scores["nll_unanswerable"] for r in records if "-n" in r.item]
    yes = [r.scores["nll_unanswerable"] for r in records if "-y" in r.item]
    wins = [a < b for a, b in product(no, yes)]
    assert 0.5 < mean(wins) < 1
    assert found["auroc"] == pytest.approx(100 * mean(wins))


def test_auroc_counts_ties_half():
    draw = random.Random(3)
    for _ in range(20):
        scores = np.array([draw.randrange(5) for _ in range(30)], dtype=float)
        positive = np.array([draw.random() < 0.4 for _ in range(28)] + [True, False])
        wins = [float(a > b) + 0.5 * (a == b) for a, b in product(scores[positive], scores[~positive])]
        assert auroc(scores, positive) == pytest.approx(mean(wins))


def test_metrics_hold_where_nobody_abstains(judged):
    task, records = judged
    answered = [Record(r.unit, r.item, {**r.scores, "abstained": 0.0}) for r in records if "-y" in r.item]
    assert task.overall(answered) == {"abstain_f1": 0.0, "abstain_precision": 0.0}


def test_the_table_has_them_with_intervals(shelf, tmp_path):
    task = Abstention(set="articles", questions=8)
    [found] = run(shelf, [task], [Scripted()], Cache(tmp_path))
    made = table(found, on_gpu=False)
    [row] = made.rows
    assert made.headline in row.metrics
    for name in ("abstain_f1", "abstain_precision", "auroc"):
        value = row.metrics[name]
        assert value.low <= value.value <= value.high
        assert value.low < value.high
    assert row.metrics["abstain_recall"].n == row.metrics["kept"].n == row.items / 2


def test_a_drawn_mean_has_the_interval_of_a_mean():
    draw = random.Random(0)
    units = {str(n): [(draw.gauss(n, 1), 1.0) for _ in range(3)] for n in range(30)}
    found = drawn_interval(units, lambda records: {"mean": mean(value for value, _ in records)}, draws=1500)["mean"]
    wanted = interval(units)
    assert found[0] == pytest.approx(wanted[0])
    width = wanted[2] - wanted[1]
    assert found[1:] == pytest.approx(wanted[1:], abs=0.06 * width)


def test_one_document_bounds_nothing():
    found = drawn_interval({"a": [1.0, 3.0]}, lambda records: {"mean": mean(records)})
    assert found == {"mean": (2.0, -float("inf"), float("inf"))}


def test_reading_something_else_is_judged_by_likelihood(shelf):
    task = OffTopic(set="articles", questions=2, documents=1)
    [case] = task.units(shelf)
    for record in task.judge(shelf, Nothing(), case)[0]:
        assert {"nll", "f1", "em"} == set(record.scores)
    assert (task.headline, task.higher) == ("nll", False)
