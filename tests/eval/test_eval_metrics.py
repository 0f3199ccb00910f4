"""Metrics against the libraries that define them, and the conventions that no library has."""

from __future__ import annotations

import random
import sys
from itertools import islice

import pytest
from scipy import stats

from preread.core.errors import UsageError
from preread.demo import BOOK
from preread.eval import metrics
from preread.eval.case import Record
from preread.eval.metric_check import check, pairs
from preread.eval.metrics import METRICS, declines, score
from preread.eval.tasks.qa import Qa


@pytest.fixture(scope="module")
def book():
    return BOOK.read_text(encoding="utf-8")


@pytest.mark.slow
def test_every_metric_is_what_the_libraries_say_on_200_pairs_each(book):
    found = check(book, 200, seed=1)
    assert found.mismatches == ()
    assert found.compared == 200 * 14
    assert [one.split()[0] for one in found.libraries] == ["torchmetrics", "rouge-score", "lm-eval"]


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("f1", lambda a, r: metrics._overlap(a.lower().split(), r[0].lower().split())),
        ("em", lambda a, r: float(a.lower() in [one.lower() for one in r])),
        ("rouge", lambda a, r: sum(METRICS[kind](a, r) for kind in metrics.ROUGES) / 3),
        ("rougeL", METRICS["rouge1"]),
        ("contains", lambda a, r: float(any(one in a for one in r))),
        ("contains_all", METRICS["contains"]),
        ("accuracy", METRICS["contains"]),
    ],
)
def test_the_check_sees_a_metric_that_is_nearly_right(book, monkeypatch, name, wrong):
    monkeypatch.setattr(metrics, "METRICS", METRICS | {name: wrong})
    found = check(book, 30)
    assert {one.metric for one in found.mismatches} == {name}


def test_pairs_hold_what_could_go_wrong(book):
    drawn = list(islice(pairs(book, random.Random(0), 6), 300))
    scores = [score("f1", *pair) for pair in drawn]
    assert {0.0, 100.0} < set(scores)
    assert sum(0 < value < 100 for value in scores) > 60
    assert {len(references) for _, references in drawn} == {0, 1, 2, 4}
    assert any(declines(answer) for answer, _ in drawn)
    assert not all(answer.isascii() for answer, _ in drawn)


def test_a_library_that_is_missing_is_named(book, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.text", None)
    with pytest.raises(UsageError, match=r"torchmetrics.*preread\[dev\]"):
        check(book, 1)


SAYS_SO = [
    "unanswerable",
    "Unanswerable.",
    "No answer.",
    "The question is unanswerable.",
    "It is not mentioned in the text.",
    "The passage does not say who he was.",
    "The text doesn't mention it. He may have been a sailor.",
    "This question cannot be answered from the text.",
    "I don't know.",
    "",
    " \n.",
]
DOES_NOT = [
    "He gave no answer to the king.",
    "No answer came from the ship.",
    "The unanswerable question of the age.",
    "Not much.",
    "Paris",
    "Nothing",
    "Paris. The text does not say more.",
]


@pytest.mark.parametrize("answer", SAYS_SO)
def test_an_answer_that_says_there_is_none_is_right_where_there_is_none(answer):
    assert declines(answer)
    assert {score(name, answer, ()) for name in METRICS} == {100.0}
    assert score("f1", answer, ("Paris",)) == score("em", answer, ("Paris",)) == 0.0


@pytest.mark.parametrize("answer", DOES_NOT)
def test_any_other_answer_is_wrong_where_there_is_none(answer):
    assert not declines(answer)
    assert {score(name, answer, ()) for name in METRICS} == {0.0}


def test_words_of_a_refusal_do_not_count_for_a_reference_that_has_them():
    assert score("f1", "The text does not say.", ("He did not say a word.",)) == 0.0
    assert score("f1", "Unanswerable", ("Unanswerable",)) == score("em", "unanswerable.", ("Unanswerable",)) == 100.0


def test_a_reference_without_a_word_is_none_if_there_is_another():
    assert score("f1", "unanswerable", ("interventionism", ".")) == 0.0  # as SQuAD 2.0 has one
    assert score("em", "!!!", ("!!!",)) == 100.0  # as HotpotQA has one


def test_more_references_never_harm():
    draw = random.Random(3)
    words = ["the", "keeper", "wrote", "down", "every", "ship", "that", "passed", "and", "weather", "of", "day"]
    for _ in range(50):
        answer, *references = (" ".join(draw.choices(words, k=5)) for _ in range(4))
        for name in set(METRICS) - {"contains_all"}:
            each = [score(name, answer, [one]) for one in references]
            if name == "rouge":  # each of the three takes its own best one
                assert score(name, answer, references) >= max(each) - 1e-9
            else:
                assert score(name, answer, references) == pytest.approx(max(each))


def test_an_unknown_metric_is_refused():
    with pytest.raises(UsageError, match=r"rougeL.*got bleu"):
        score("bleu", "a", ("a",))


def test_the_rouge_of_a_set_is_that_of_its_means():
    scores = [{"rouge": 0.0, "rouge1": 20.0, "rouge2": 0.0, "rougeL": 10.0}]
    scores += [{"rouge": 20.0, "rouge1": 40.0, "rouge2": 10.0, "rougeL": 20.0}]
    records = [Record("a", str(i), own) for i, own in enumerate(scores)]
    assert Qa("qmsum").overall(records) == {"rouge": pytest.approx(stats.gmean([30.0, 5.0, 15.0]))}
    assert Qa("fairytaleqa").overall(records) == {}


def test_of_a_label_the_first_line_alone_counts_also_where_there_is_none():
    assert score("accuracy", ".\nthe whole circle", ()) == 100.0
    assert score("em", ".\nthe whole circle", ()) == 0.0
    assert score("accuracy", "the whole circle\nunanswerable", ()) == 0.0
