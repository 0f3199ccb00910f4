"""Rows over several tasks: sums over sums, scores by each task's own metric, documents drawn within tasks."""

from __future__ import annotations

from math import inf, isnan

import pytest

from preread.core.intervals import pooled_interval, ratio_interval
from preread.eval.case import Outcome, Record
from preread.eval.gains import gains
from preread.eval.pooled import mean_difference, mean_score, pooled_share
from preread.eval.runner import Judged
from preread.eval.tasks.qa import Qa


def judged(set_, **rows):
    """A task; a row has for each document the scores of its items, or a reason why it could not do it."""
    outcomes = {
        label: [
            Outcome(document, (), unfit=items)
            if isinstance(items, str)
            else Outcome(document, tuple(Record(document, f"{document}{i}", one) for i, one in enumerate(items)))
            for document, items in documents.items()
        ]
        for label, documents in rows.items()
    }
    kinds = {label: label for label in rows}
    return Judged(Qa(set_), list(next(iter(rows.values()))), outcomes, kinds, dict.fromkeys(rows, ()))


def nll(*values):
    return [{"nll": value} for value in values]


LARGE = judged(
    "tales",
    none={"a": nll(5.0, 5.0), "b": nll(5.0), "c": nll(9.0)},
    full={"a": nll(1.0, 2.0), "b": nll(3.0), "c": "too long"},
    memory={"a": nll(3.0, 4.0), "b": nll(4.0), "c": nll(1.0)},
)
SMALL = judged(
    "fables",
    none={"d": nll(2.0), "e": nll(2.0)},
    full={"d": nll(1.0), "e": nll(1.5)},
    memory={"d": nll(1.0), "e": nll(2.0)},
)


def test_the_share_is_sums_over_sums_where_the_full_text_fits():
    found = pooled_share([LARGE, SMALL], "memory")
    assert found.value == pytest.approx((2 + 1 + 1 + 1 + 0) / (4 + 3 + 2 + 1 + 0.5))
    assert found.n == 5, "c is longer than the window"
    assert found.low <= found.value <= found.high
    assert pooled_share([LARGE], "full").value == pytest.approx(1)
    assert pooled_share([LARGE, SMALL], "none").value == pytest.approx(0)


def test_a_task_without_both_ends_leaves_no_share():
    bare = judged("fables", none={"d": nll(2.0)}, memory={"d": nll(1.0)})
    assert pooled_share([LARGE, bare], "memory") is None


def test_one_set_alone_has_the_interval_it_has_in_its_table():
    units = {name: [(float(i), 2.0 + i)] for i, name in enumerate("abcdefg")}
    assert pooled_interval([units]) == ratio_interval(units)


def test_documents_are_drawn_within_their_set():
    """Where sets differ from each other and not within, nothing varies: how much each counts is no accident."""
    good = {name: [(1.0, 1.0)] for name in "abcd"}
    bad = {name: [(0.0, 1.0)] for name in "efgh"}
    assert pooled_interval([good, bad]) == (0.5, 0.5, 0.5)
    _, low, high = ratio_interval(good | bad)
    assert low < 0.5 < high, "drawn from one heap they would"


def test_a_set_with_one_document_bounds_nothing():
    assert pooled_interval([{"a": [(1.0, 1.0)]}, {"b": [(1.0, 1.0)], "c": [(1.0, 1.0)]}])[1:] == (-inf, inf)
    assert isnan(pooled_interval([{"a": [(1.0, -1.0)]}])[0])


def rouge(*values):
    return [{"rouge1": a, "rouge2": b, "rougeL": c} for a, b, c in values]


def f1(*values):
    return [{"f1": value} for value in values]


SUMMARIES = judged(
    "squality",
    ours={"a": rouge((8.0, 0.0, 1.0)), "b": rouge((8.0, 2.0, 7.0))},
    theirs={"a": rouge((1.0, 1.0, 1.0)), "b": rouge((1.0, 1.0, 1.0))},
)
ANSWERS = judged(
    "fairytaleqa",
    ours={"c": f1(50.0, 70.0), "d": f1(30.0)},
    theirs={"c": f1(40.0, 40.0), "d": f1(10.0)},
)


def test_a_mean_score_takes_each_tasks_own_metric():
    geometric = (8.0 * 1.0 * 4.0) ** (1 / 3)
    assert mean_score([SUMMARIES, ANSWERS], "ours") == pytest.approx((geometric + 50.0) / 2)
    found = mean_difference([SUMMARIES, ANSWERS], "ours", "theirs")
    assert found.value == pytest.approx((geometric - 1 + 50.0 - 30.0) / 2)
    assert found.n == 5
    assert found.low <= found.value <= found.high


def test_a_difference_is_of_pairs():
    """Rows that rise and fall together differ by the same in every draw, however much the documents differ."""
    scattered = {name: f1(10.0 * i) for i, name in enumerate("abcdef")}
    higher = {name: f1(10.0 * i + 5.0) for i, name in enumerate("abcdef")}
    found = mean_difference([judged("fairytaleqa", ours=higher, theirs=scattered)], "ours", "theirs")
    assert (found.value, found.low, found.high) == pytest.approx((5.0, 5.0, 5.0))


def test_gains_are_told_by_group_for_what_did_every_question_before_and_after():
    def rows(metric, **labels):
        return {label.replace("_", " "): {u: metric(*v) for u, v in units.items()} for label, units in labels.items()}

    def two(set_, metric, before, after, **more):
        named = {"lloco": {"a": before, "b": before}, "full": {"a": before, "b": before}}
        found = rows(metric, **named)
        found |= {f"{label}, tuned": {u: metric(*after) for u in "ab"} for label in named}
        return judged(set_, **found, **more)

    tales = two("fairytaleqa", f1, [10.0], [30.0])
    hops = two("hotpotqa_distractor", f1, [20.0], [20.0], oracle={"a": f1(1.0), "b": f1(1.0)})
    long = two("squality", rouge, [(8.0, 8.0, 8.0)], [(9.0, 9.0, 9.0)])
    long.outcomes["full, tuned"][0] = Outcome("a", (), unfit="too long")
    found = {(gain.group, gain.answerer): gain for gain in gains([tales, hops, long])}
    assert set(found) == {
        ("single document", "lloco"),
        ("single document", "full"),
        ("several documents", "lloco"),
        ("several documents", "full"),
        ("summarisation", "lloco"),
        ("all", "lloco"),
    }, "what is not tuned has no gain, and a mean over fewer documents would be of others"
    whole = found["all", "lloco"]
    assert (whole.sets, whole.untuned, whole.tuned) == pytest.approx((3, (10 + 20 + 8) / 3, (30 + 20 + 9) / 3))
    assert whole.gain.value == pytest.approx(whole.tuned - whole.untuned)
    assert not gains([judged("fairytaleqa", none={"a": f1(1.0), "b": f1(1.0)})])
    empty = judged("fairytaleqa", lloco={}, **{"lloco, tuned": {}})
    assert not gains([empty]), "no document was short enough"
