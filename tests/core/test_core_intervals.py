"""Intervals against scipy's bootstrap, and by how often they hold what they should."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from preread.core.intervals import drawn_interval, interval, ratio_interval


def alone(values):
    """Every record a document of its own."""
    return {str(i): [pair] for i, pair in enumerate(values)}


def test_a_mean_is_what_scipy_says():
    values = np.random.default_rng(1).gamma(2.0, 10.0, size=60)
    value, low, high = interval(alone((v, 1.0) for v in values), draws=20_000)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=2).confidence_interval
    assert value == pytest.approx(values.mean())
    assert (low, high) == pytest.approx(tuple(theirs), abs=0.02 * (high - low))


def test_a_ratio_of_sums_is_what_scipy_says():
    draw = np.random.default_rng(3)
    bottoms = draw.gamma(3.0, 1.0, size=50)
    tops = bottoms * 0.6 + draw.normal(0, 0.3, size=50)
    value, low, high = ratio_interval(alone(zip(tops, bottoms, strict=True)), draws=20_000)
    theirs = stats.bootstrap(
        (tops, bottoms),
        lambda a, b, axis=-1: a.sum(axis) / b.sum(axis),
        n_resamples=20_000,
        method="percentile",
        paired=True,
        rng=4,
    ).confidence_interval
    assert value == pytest.approx(tops.sum() / bottoms.sum())
    assert (low, high) == pytest.approx(tuple(theirs), abs=0.02 * (high - low))


def test_what_is_no_mean_of_records_is_drawn_as_a_mean_is():
    """The one function's draws give the other's interval, but for which draws they are."""
    draw = np.random.default_rng(6)
    units = {str(i): [(v, 1.0) for v in draw.gamma(1.0, 10.0, size=1 + i % 4)] for i in range(40)}
    slow = drawn_interval(units, lambda rows: {"mean": float(np.mean([value for value, _ in rows]))}, draws=4000)[
        "mean"
    ]
    value, low, high = interval(units, draws=20_000)
    assert slow == pytest.approx((value, low, high), abs=0.05 * (high - low))


def test_weights_are_what_numpy_says_and_their_scale_does_not_matter():
    draw = np.random.default_rng(5)
    records = draw.normal(size=(12, 7)), draw.integers(1, 9, size=(12, 7)).astype(float)
    units = {str(i): list(zip(v, w, strict=True)) for i, (v, w) in enumerate(zip(*records, strict=True))}
    found = interval(units)
    assert found[0] == pytest.approx(np.average(records[0], weights=records[1]))
    scaled = {name: [(v, 3 * w) for v, w in own] for name, own in units.items()}
    assert interval(scaled) == pytest.approx(found)


def coverage(documents, questions, spread, by_document):
    """How often 300 intervals hold the true mean 0, for documents that differ by `spread` and questions by 1."""
    held = 0
    for trial in range(300):
        draw = np.random.default_rng(trial)
        values = draw.normal(0, spread, size=(documents, 1)) + draw.normal(size=(documents, questions))
        rows = values if by_document else values.reshape(-1, 1)
        _, low, high = interval({str(i): [(v, 1.0) for v in row] for i, row in enumerate(rows)}, 400, trial)
        held += low <= 0 <= high
    return held / 300


def test_95_in_100_intervals_hold_the_truth_where_questions_of_a_document_go_together():
    assert 0.90 <= coverage(40, 5, spread=2.0, by_document=True) <= 0.98
    assert coverage(40, 5, spread=2.0, by_document=False) < 0.75  # what drawing questions would promise in vain


def test_the_same_seed_gives_the_same_interval_and_another_one_nearly():
    units = alone((float(i % 7), 1.0) for i in range(50))
    assert interval(units) == interval(units)
    assert interval(units, seed=1) != interval(units)
    assert interval(units, seed=1) == pytest.approx(interval(units), abs=0.1)


def test_what_the_documents_do_not_bound_has_no_ends():
    assert interval({"a": [(1.0, 1.0), (2.0, 1.0)]}) == (1.5, -math.inf, math.inf)
    assert ratio_interval(alone([(1.0, 4.0), (1.0, -3.0)])) == (2.0, -math.inf, math.inf)
    no_gap = ratio_interval(alone([(1.0, 2.0), (1.0, -3.0)]))
    assert math.isnan(no_gap[0])
    assert no_gap[1:] == (-math.inf, math.inf)
    assert math.isnan(interval({})[0])


def test_few_draws_without_a_gap_widen_the_interval_and_do_not_open_it():
    gaps = alone([(1.0, 2.0)] * 5 + [(0.5, 2.0)] * 6 + [(0.5, -4.0)])
    value, low, high = ratio_interval(gaps, draws=20_000)
    times = np.random.default_rng(1).multinomial(12, np.full(12, 1 / 12), size=20_000)
    bottoms = times @ np.array([2.0] * 11 + [-4.0])
    assert 0 < (bottoms <= 0).mean() < 0.025
    assert low < value < high < math.inf
    ratios = (times @ np.array([1.0] * 5 + [0.5] * 7))[bottoms > 0] / bottoms[bottoms > 0]
    assert low <= np.quantile(ratios, 0.03)
    assert high >= np.quantile(ratios, 0.97)


def test_a_share_may_be_negative():
    value, low, high = ratio_interval(alone([(-1.0, 2.0), (-2.0, 3.0)] * 9))
    assert low <= value == -0.6 <= high < 0
