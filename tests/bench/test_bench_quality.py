"""Which figures a run publishes: those that it is whole for, from the rows that they speak of."""

from __future__ import annotations

import pytest

from preread.bench import quality
from preread.bench.quality import GAP_SETS, LABELLED_ROW, NEEDLES, STUDIED_ROW, STUDIED_SETS, TUNED_SETS, UNTUNED_ROW
from preread.core.config import load
from preread.eval.case import Outcome, Record
from preread.eval.recipe import EvalRecipe
from preread.eval.runner import Judged
from preread.eval.tasks.needle import BookNeedle
from preread.eval.tasks.qa import Qa

from ..eval.test_eval_recipes import RECIPES

KINDS = {"no context": "none", "full text": "full"}


def of(task, rows):
    """A task of two documents with an item each; a row has the scores of both, and `None` where it could not do one."""
    outcomes = {
        label: [
            Outcome(f"{n}", (), unfit="too long") if one is None else Outcome(f"{n}", (Record(f"{n}", f"{n}", one),))
            for n, one in enumerate(scores)
        ]
        for label, scores in rows.items()
    }
    kinds = {label: KINDS.get(label, "memory") for label in rows}
    return Judged(task, ["0", "1"], outcomes, kinds, dict.fromkeys(rows, ("trained on little",)))


def published(judged, window=8192):
    return {one.id: one for one in quality.figures(judged, window, "recipe.yaml", "preread eval", "abc")}


def gap_rows(**changes):
    nll = {"no context": 6.0, "full text": 2.0, "lloco 4x": 3.0, "lloco 8x": 4.0, "lloco 16x": 5.0, "lloco 30x": 5.5}
    nll |= {"lloco 16x, another document's": 6.4, "lloco 30x, another document's": 5.9}
    rows = {label: [{"nll": value}, {"nll": value + 1}] for label, value in nll.items()}
    return {label: changes.get(label, scores) for label, scores in rows.items()}


def test_the_share_of_the_gap_at_every_ratio_and_of_another_document():
    found = published([of(Qa(name), gap_rows()) for name in GAP_SETS])
    shares = {name.removeprefix("lloco.gap_"): one.value for name, one in found.items()}
    assert shares == pytest.approx(
        {
            "recovered_4x": 0.75,
            "recovered_8x": 0.5,
            "recovered_16x": 0.25,
            "recovered_30x": 0.125,
            "other_document": 0.025,
        }
    ), "of another document's memories the one that seems to know most counts"
    assert all((one.n, one.commit, one.recipe) == (8, "abc", "recipe.yaml") for one in found.values())
    assert "trained on little" in found["lloco.gap_recovered_4x"].note


def test_a_text_longer_than_the_window_is_left_out_and_said():
    rows = gap_rows() | {"full text": [None, {"nll": 3.0}]}
    found = published([of(Qa(GAP_SETS[0]), rows), *(of(Qa(name), gap_rows()) for name in GAP_SETS[1:])])
    assert found["lloco.gap_recovered_4x"].n == 7
    assert f"{GAP_SETS[0]} 1 questions of 1 documents, 1 longer than the window" in found["lloco.gap_recovered_4x"].note


def test_without_a_set_or_a_row_there_is_no_figure():
    assert not published([of(Qa(name), gap_rows()) for name in GAP_SETS[1:]])
    rows = {label: scores for label, scores in gap_rows().items() if label != "lloco 8x" and "30x, a" not in label}
    found = published([of(Qa(name), rows) for name in GAP_SETS])
    assert set(found) == {f"lloco.gap_recovered_{ratio}x" for ratio in (4, 16, 30)}
    assert not published([of(Qa(name, "val"), gap_rows()) for name in GAP_SETS]), "that is where settings are chosen"


def tuned_rows(task, **extra):
    points = {"lloco 30x, tuned": 30.0, "no context, tuned": 20.0, "hybrid 30x, tuned": 33.0, "head, tuned": 25.0}
    points |= {"full text, tuned": 40.0, "head 2048, tuned": 28.0}
    scores = {
        label: dict.fromkeys((task.headline, "rouge1", "rouge2", "rougeL"), value) for label, value in points.items()
    }
    return {label: [score, score] for label, score in scores.items()} | extra


def test_the_tuned_memory_is_held_against_the_best_that_reads_every_document():
    tasks = [Qa(name) for name in TUNED_SETS]
    rows = [tuned_rows(task, **({"full text, tuned": [None, None]} if task is tasks[-1] else {})) for task in tasks]
    found = published([of(*pair) for pair in zip(tasks, rows, strict=True)])
    values = {name: one.value for name, one in found.items()}
    assert values == pytest.approx(
        {
            "lloco.tuned_30x_minus_text_tuned": 2.0,
            "lloco.tuned_30x_minus_retrieval": -3.0,
            "lloco.tuned_30x_minus_lora_no_context": 10.0,
        }
    )
    note = found["lloco.tuned_30x_minus_text_tuned"].note
    assert "against head 2048, tuned" in note
    assert "not every document fits full text, tuned" in note
    unfit = [of(task, row | {"lloco 30x, tuned": [None, None]}) for task, row in zip(tasks, rows, strict=True)]
    assert not published(unfit), "a mean over fewer documents would be of others"


def test_the_gain_without_labels_is_a_share_of_the_gain_with_them():
    nll = {"no context": 6.0, "full text": 1.0, UNTUNED_ROW: 5.0, LABELLED_ROW: 3.0, STUDIED_ROW: 4.5}
    rows = {label: [{"nll": value}, {"nll": value}] for label, value in nll.items()}
    found = published([of(Qa(name), rows) for name in STUDIED_SETS])
    assert found["lloco.selfstudy_share_of_labels"].value == pytest.approx(0.25)


def test_a_share_of_nothing_is_no_figure():
    """Where labels taught nothing, what is gained without them is a share of nothing, and no number."""
    nll = {"no context": 6.0, "full text": 1.0, UNTUNED_ROW: 5.0, LABELLED_ROW: 5.0, STUDIED_ROW: 4.5}
    rows = {label: [{"nll": value}, {"nll": value}] for label, value in nll.items()}
    assert not published([of(Qa(name), rows) for name in STUDIED_SETS])


def needles(kind, hits, length):
    at = (("length", length), ("depth", 0.5))
    label = f"needle, {kind}"
    records = [Record(str(n), str(n), {"contains": 100.0 * hit}, at=at) for n, hit in enumerate(hits)]
    near = Record("near", "near", {"contains": 0.0}, at=(("length", 64), ("depth", 0.5)))
    outcomes = {NEEDLES[label]: [Outcome(str(n), (record,)) for n, record in enumerate([*records, near])]}
    return Judged(BookNeedle(needle_is=kind), [], outcomes, {NEEDLES[label]: "memory"}, {NEEDLES[label]: ()})


def test_the_needle_is_the_lower_of_two_at_sixteen_windows():
    both = [needles("fixed", [1, 1, 1, 0], 1024), needles("random", [1, 0, 0, 1], 1024)]
    found = published(both, window=64)["lloco.needle_16x_window"]
    assert (found.value, found.n) == (0.5, 4)
    assert "1,024 tokens" in found.note
    assert not published(both, window=128), "no text was so long"
    assert not published(both[:1], window=64)


def test_every_figure_has_a_recipe_whose_rows_and_sets_it_is_made_of():
    """Labels are how figures find their rows: a recipe that is changed must not lose them in silence."""
    recipes = {path.stem: load(EvalRecipe, path) for path in RECIPES}

    def holds(name, tasks, rows):
        recipe = recipes[name]
        assert set(tasks) <= {task.label for task in recipe.chosen_tasks()}
        assert set(rows) <= {answerer.label for answerer in recipe.chosen_answerers()}

    holds("eval-gap", GAP_SETS, gap_rows())
    holds("eval-tuned", TUNED_SETS, [quality.TUNED_ROW, *(row for rows in quality.RIVALS.values() for row in rows)])
    holds("eval-selfstudy", STUDIED_SETS, ["no context", "full text", UNTUNED_ROW, LABELLED_ROW, STUDIED_ROW])
    holds("eval-needle-tuned", NEEDLES, NEEDLES.values())
    lengths = {task.lengths for task in recipes["eval-needle-tuned"].chosen_tasks()}
    assert all({16 * 4096, 16 * 8192} <= set(one) for one in lengths)
