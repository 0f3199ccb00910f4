"""Rows over several tasks at once: one share of the gap, and the difference of two mean scores.

Documents are drawn again within their tasks, which are chosen and not drawn.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from math import exp
from statistics import mean

import numpy as np

from preread.core.intervals import ENDS, FEW_DRAWS, pooled_interval
from preread.eval.case import Record
from preread.eval.runner import Judged
from preread.eval.summary import gaps
from preread.eval.tables import Value
from preread.eval.task import Task

Pair = tuple[Record, Record]


def pooled_share(
    judged: Sequence[Judged], label: str, floor: str | None = None, ceiling: str | None = None
) -> Value | None:
    """The share of the gap that a row recovers, from 0 to 1: sums over all tasks over sums over all tasks.

    Args:
        judged: the tasks.
        label: of the row.
        floor: of the row where the gap begins; None is the one without context.
        ceiling: of the row where it ends; None is the one of the full text.

    Returns:
        None where a task lacks one of the rows, or has no item that all three could do.
    """
    each = [units for one in judged if (units := gaps(one, label, floor, ceiling))]
    if not each or len(each) < len(judged):
        return None
    return Value(*pooled_interval(each), sum(len(items) for units in each for items in units.values()))


def whole(judged: Sequence[Judged], label: str) -> bool:
    """Whether a row was judged on every unit of every one of some tasks, each of which has any."""
    return bool(judged) and all(
        label in one.outcomes and records(one, label) and not any(outcome.unfit for outcome in one.outcomes[label])
        for one in judged
    )


def mean_score(judged: Sequence[Judged], label: str) -> float:
    """The mean over tasks of a row's headline metric."""
    return mean(score(one.task, records(one, label)) for one in judged)


def mean_difference(judged: Sequence[Judged], label: str, other: str) -> Value:
    """How much higher a row's mean score over tasks is than another's, each task in its own headline metric.

    Args:
        judged: the tasks.
        label: of the row.
        other: of the row that it is held against; both did the same items.
    """
    pairs = [list(_pairs(one, label, other).values()) for one in judged]
    tasks = [one.task for one in judged]
    value, count = _difference(tasks, pairs), sum(len(unit) for units in pairs for unit in units)
    if min(map(len, pairs)) < 2:
        return Value(value, -np.inf, np.inf, count)
    rng = np.random.default_rng(0)
    picks = [rng.integers(len(units), size=(FEW_DRAWS, len(units))) for units in pairs]
    again = [
        _difference(tasks, [[units[i] for i in chosen[draw]] for units, chosen in zip(pairs, picks, strict=True)])
        for draw in range(FEW_DRAWS)
    ]
    low, high = np.quantile(again, ENDS)
    return Value(value, float(low), float(high), count)


def perplexity_ratio(over: Sequence[tuple[Judged, str]], under: Sequence[tuple[Judged, str]]) -> Value:
    """The perplexity of some rows over that of others, on the same targets.

    Args:
        over: tasks of running text, each with the label of a row.
        under: as many, each with the same stretches as the one in its place; maybe behind other text.
    """
    each = []
    for (one, row), (other, beside) in zip(over, under, strict=True):
        others = {(record.unit, record.item): record for record in records(other, beside)}
        units: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for record in records(one, row):
            more = record.scores["nll"] - others[record.unit, record.item].scores["nll"]
            units[record.unit].append((more * record.weight, record.weight))
        each.append(units)
    value, low, high = (exp(end) for end in pooled_interval(each))
    return Value(value, low, high, sum(len(items) for units in each for items in units.values()))


def records(judged: Judged, label: str) -> list[Record]:
    """Everything that a row was judged on."""
    return [record for outcome in judged.outcomes[label] for record in outcome.records]


def score(task: Task, judged: Sequence[Record]) -> float:
    """The headline metric of records: the task's own where it is no mean of theirs."""
    overall = task.overall(judged)
    if task.headline in overall:
        return overall[task.headline]
    return mean(record.scores[task.headline] for record in judged)


def _difference(tasks: Sequence[Task], pairs: Sequence[Sequence[Sequence[Pair]]]) -> float:
    """Mean over tasks; `pairs` has for each the documents, with a pair an item."""
    each = []
    for task, units in zip(tasks, pairs, strict=True):
        own, other = zip(*(pair for unit in units for pair in unit), strict=True)
        each.append(score(task, own) - score(task, other))
    return mean(each)


def _pairs(judged: Judged, label: str, other: str) -> dict[str, list[Pair]]:
    """A pair for each item, by what an interval draws again."""
    others = {(record.unit, record.item): record for record in records(judged, other)}
    found: dict[str, list[Pair]] = defaultdict(list)
    for record in records(judged, label):
        found[record.unit].append((record, others[record.unit, record.item]))
    return dict(found)
