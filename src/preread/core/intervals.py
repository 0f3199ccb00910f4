"""How far a mean could be off, had other documents been drawn: the percentile bootstrap over documents.

Questions of one document rise and fall together, so documents are drawn again, each with everything it holds
(Efron and Tibshirani 1993, chapters 8 and 13).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import TypeVar

import numpy as np

LEVEL = 0.95
ENDS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
DRAWS = 2000
FEW_DRAWS = 400
"""Where each of them is slow."""
T = TypeVar("T")

Interval = tuple[float, float, float]
"""Value, lower end, upper end. The ends are infinite where the documents do not bound it."""


def interval(units: Mapping[str, Sequence[tuple[float, float]]], draws: int = DRAWS, seed: int = 0) -> Interval:
    """Weighted mean over all records, with its interval.

    Args:
        units: (value, weight) of every record, by the document that it belongs to.
        draws: how often as many documents as there are are drawn again.
        seed: of the draws.
    """
    sums = {name: [(value * weight, weight) for value, weight in records] for name, records in units.items()}
    return ratio_interval(sums, draws, seed)


def ratio_interval(units: Mapping[str, Sequence[tuple[float, float]]], draws: int = DRAWS, seed: int = 0) -> Interval:
    """Sum of all numerators over the sum of all denominators, with its interval, such as the share of a gap.

    One document alone says nothing of others: the ends are infinite then. A draw whose denominators do not sum to more
    than 0 bounds nothing and counts as below the lower end and above the upper one, so that few of them widen the
    interval and many open it. The value is NaN where the denominators of all records do not sum to more than 0.

    Args:
        units: (numerator, denominator) of every record, by the document that it belongs to.
        draws: as `interval`.
        seed: as `interval`.
    """
    return pooled_interval([units], draws, seed)


def wilson(right: int, asked: int) -> tuple[float, float]:
    """The ends of Wilson's interval of a share: of some that were asked, and are right or not, independently.

    Args:
        right: how many were.
        asked: of how many; at least one.
    """
    z = NormalDist().inv_cdf(ENDS[1])
    share, spread = right / asked, z**2 / asked
    middle = (share + spread / 2) / (1 + spread)
    half = (spread * (share * (1 - share) + spread / 4)) ** 0.5 / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def pooled_interval(
    sets: Sequence[Mapping[str, Sequence[tuple[float, float]]]], draws: int = DRAWS, seed: int = 0
) -> Interval:
    """As `ratio_interval` over all records of several sets; each set's documents are drawn again within it.

    The sets were chosen and are not drawn; one with a single document bounds nothing.
    """
    each = [
        np.array([np.sum(records, axis=0) for records in units.values() if len(records)]).reshape(-1, 2)
        for units in sets
    ]
    top, bottom = np.concatenate(each).sum(axis=0)
    value = float(top / bottom) if bottom > 0 else np.nan
    if min(map(len, each)) < 2 or not bottom > 0:
        return value, -np.inf, np.inf
    rng = np.random.default_rng(seed)
    times = [rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=draws) for sums in each]
    tops, bottoms = sum(again @ sums for again, sums in zip(times, each, strict=True)).T
    ratios = np.divide(tops, bottoms, out=np.full(draws, np.nan), where=bottoms > 0)
    unbounded = np.isnan(ratios)  # could be anything, so such a draw widens the interval at both ends
    low = np.quantile(np.where(unbounded, -np.inf, ratios), ENDS[0], method="lower")
    high = np.quantile(np.where(unbounded, np.inf, ratios), ENDS[1], method="higher")
    return value, float(low), float(high)


def drawn_interval(
    units: Mapping[str, Sequence[T]],
    measure: Callable[[Sequence[T]], Mapping[str, float]],
    draws: int = FEW_DRAWS,
    seed: int = 0,
) -> dict[str, Interval]:
    """Metrics that are no mean of records, such as an AUROC or a geometric mean of means, each with its interval.

    Args:
        units: the records of each document.
        measure: the metrics of many records; one that a draw does not have leaves that draw out.
        draws: as `interval`; each measures all records anew.
        seed: as `interval`.
    """
    groups = [list(records) for records in units.values() if len(records)]
    found = measure([record for group in groups for record in group])
    if len(groups) < 2 or not found:
        return {name: (value, -np.inf, np.inf) for name, value in found.items()}
    picks = np.random.default_rng(seed).integers(len(groups), size=(draws, len(groups)))
    again = [measure([record for pick in row for record in groups[pick]]) for row in picks]
    ends = {name: np.quantile([one[name] for one in again if name in one], ENDS) for name in found}
    return {name: (value, float(ends[name][0]), float(ends[name][1])) for name, value in found.items()}
