"""Figures of states beside the decoder: each from the rows that it speaks of, paired, and only of whole runs."""

from __future__ import annotations

from math import exp, log

import pytest

from preread.bench.quality_cepe import (
    ALL,
    ALONE,
    BEYOND,
    FEW,
    FULL,
    GAP,
    LONG_SETS,
    MANY,
    MOVED_ROW,
    NEAR,
    OPEN_DOMAIN,
    RECALL,
    RETRIEVED,
    ROW,
    SETS,
    cepe_figures,
)
from preread.core.config import load
from preread.eval.case import Outcome, Record
from preread.eval.recipe import EvalRecipe
from preread.eval.runner import Judged
from preread.eval.tasks.chunked import Chunked
from preread.eval.tasks.keyvalue import KeyValue
from preread.eval.tasks.open_domain import OpenDomain
from preread.eval.tasks.ralm import Ralm

from ..eval.test_eval_recipes import RECIPES

FILES = tuple(f"{name}.{split}" for name in SETS for split in ("train", "valid", "test"))
DOCUMENTS = 3
KINDS = {ALONE: "none", FULL: "full"}


def judged(task, rows):
    """A task of three documents with two stretches each; a row is nats a token of a document, or None for one unfit."""
    outcomes = {
        label: [
            Outcome(
                f"{document}-{part}",
                () if nll is None else (Record(f"{document}", f"{document}-{part}", {"nll": nll}, weight=256),),
                unfit="too long" if nll is None else "",
            )
            for document, nll in enumerate(each)
            for part in range(2)
        ]
        for label, each in rows.items()
    }
    caveats = {label: ("reader: small",) if label == ROW else () for label in rows}
    return Judged(task, [], outcomes, {label: KINDS.get(label, "memory") for label in rows}, caveats)


def gap(own, sets=SETS):
    rows = {ALONE: [4.0] * 3, FULL: [3.0] * 3, ROW: own}
    return [judged(Chunked(name, chunks=28, near=1024), rows) for name in sets]


def found(*tasks):
    return {one.id: one for one in cepe_figures(tasks)}


def test_the_gap_is_the_share_that_is_closed_of_all_sets_together():
    made = found(*gap([3.25] * 3))["cepe.gap_closed_8k"]
    assert (made.value.value, made.value.low, made.value.high) == pytest.approx((0.75, 0.75, 0.75))
    assert made.value.n == 4 * DOCUMENTS * 2
    assert "reader: small" in made.note
    spread = found(*gap([3.25, 3.75, 3.5]))["cepe.gap_closed_8k"].value
    assert 0.25 < spread.low < spread.value < spread.high < 0.75


def test_a_set_or_a_stretch_less_is_no_figure():
    assert not found(*gap([3.25] * 3, SETS[:-1]))
    assert not found(*gap([3.25, 3.25, None]))
    assert not found(*(judged(Chunked(name, chunks=28, near=1024), {ROW: [3.0] * 3}) for name in SETS))
    assert not found(
        *(judged(Chunked(name, chunks=16, near=1024), {ALONE: [4.0] * 3, ROW: [3.0] * 3}) for name in SETS)
    )


def test_past_the_window_a_perplexity_is_held_against_the_window_alone():
    def tasks(own):
        return [judged(Chunked(name, chunks=96, near=8192), {ALONE: [3.0, 2.0, 4.0], ROW: own}) for name in LONG_SETS]

    made = found(*tasks([2.99, 1.99, 3.99]))["cepe.beyond_window_32k"].value
    assert (made.value, made.low, made.high) == pytest.approx((exp(0.01),) * 3), (
        "paired: documents differ, gains do not"
    )
    assert found(*tasks([3.0, 2.0, 4.0]))["cepe.beyond_window_32k"].value.value == pytest.approx(1)
    worse = found(*tasks([2.9, 2.1, 4.2]))["cepe.beyond_window_32k"].value
    assert worse.low < worse.value < worse.high
    assert worse.value == pytest.approx(exp((0.1 - 0.1 - 0.2) / 3))


def test_more_retrieved_passages_are_held_against_fewer_before_the_same_windows():
    def tasks(few, many):
        return [
            judged(Ralm(name, passages=count, also=FILES, search="words"), {ROW: [nll, nll + 1, nll + 2]})
            for name in SETS
            for count, nll in ((FEW, few), (MANY, many))
        ]

    made = found(*tasks(2 + log(1.05), 2))["cepe.rag_k50_over_k10"].value
    assert (made.value, made.low, made.high) == pytest.approx((1.05,) * 3)
    assert not found(*tasks(2, 2)[1:])


def questions(scores, counts=(NEAR, 15, ALL)):
    task = OpenDomain(also=("hotpotqa_distractor", "squad2_articles"))
    records = [
        Record(f"q{number}", f"q{number} {count}", {"em": em}, at=(("passages", float(count)),))
        for number, row in enumerate(scores)
        for count, em in zip(counts, row, strict=True)
    ]
    outcomes = {ROW: [Outcome(str(number), (record,)) for number, record in enumerate(records)]}
    return Judged(task, [], outcomes, {ROW: "memory"}, {ROW: ()})


def test_exact_match_with_all_passages_over_that_with_the_near_ones():
    made = found(questions([(100, 0, 100), (100, 0, 0), (0, 0, 0), (100, 100, 100)]))["cepe.odqa_em_60_over_10"]
    assert made.value.value == pytest.approx(2 / 3)
    assert made.value.low < 2 / 3 < made.value.high <= 1
    assert made.value.n == 4
    assert "50.0 with 60" in made.note
    assert not found(questions([(100, 0)], (NEAR, 15)))


def pairs(row, hits, length=8192):
    records = [
        Record(f"c{number}", f"c{number}-{depth}", {"contains": 100.0 * hit}, at=(("length", length), ("depth", depth)))
        for number, own in enumerate(hits)
        for depth, hit in enumerate(own)
    ]
    records.append(Record("near", "near", {"contains": 0.0}, at=(("length", 64), ("depth", 0))))
    outcomes = {row: [Outcome(str(number), (record,)) for number, record in enumerate(records)]}
    return Judged(KeyValue(), [], outcomes, {row: "memory"}, {row: ()})


def test_recall_is_of_texts_of_8k_alone_fresh_and_moved():
    fresh, moved = found(pairs(ROW, [(1, 0), (0, 0)])), found(pairs(MOVED_ROW, [(1, 1), (1, 0)]))
    assert {name: (one.value.value, one.value.n) for name, one in (fresh | moved).items()} == {
        "cepe.recall_8k": (0.25, 4),
        "cepe.recall_8k_moved": (0.75, 4),
    }
    assert not found(pairs(ROW, [(1, 0)], length=4096))


def test_every_figure_has_a_recipe_whose_rows_and_tasks_it_is_made_of():
    """Labels are how figures find their rows: a recipe that is changed must not lose them in silence."""
    recipes = {path.stem: load(EvalRecipe, path) for path in RECIPES}

    def holds(name, tasks, rows):
        chosen = recipes[name]
        assert set(tasks) <= {task.label for task in chosen.chosen_tasks()}
        assert set(rows) <= {answerer.label for answerer in chosen.chosen_answerers()}
        return {task.label: task for task in chosen.chosen_tasks()}

    holds("eval-cepe-gap", [f"{name}, {GAP}" for name in SETS], [ROW, ALONE, FULL])
    holds("eval-cepe-window", [f"{name}, {BEYOND}" for name in LONG_SETS], [ROW, ALONE])
    retrieved = [f"{name}, {RETRIEVED.format(count)}" for name in SETS for count in (FEW, MANY)]
    tasks = holds("eval-cepe-passages", retrieved, [ROW])
    assert all(set(tasks[label].also) == set(FILES) for label in retrieved)
    asked = holds("eval-cepe-questions", [OPEN_DOMAIN], [ROW])[OPEN_DOMAIN]
    assert (asked.near, asked.near + max(asked.more), asked.gold) == (NEAR, ALL, "near")
    assert 8192 in holds("eval-cepe-recall", [RECALL], [ROW, MOVED_ROW])[RECALL].lengths
