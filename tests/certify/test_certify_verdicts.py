"""Verdicts: the word of an interval, and numbers that equal those of other ways to take them."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from scipy.stats import binomtest

from preread.certify import verdicts
from preread.certify.plan import Plan
from preread.certify.span import Span, span
from preread.certify.verdicts import TOLERANCE, word
from preread.core.errors import UsageError
from preread.core.intervals import wilson
from preread.eval.answerers.plain import Full
from preread.eval.cache import Cache
from preread.eval.kit import Kit
from preread.eval.pooled import mean_difference
from preread.eval.runner import Judged, run
from preread.eval.summary import table
from preread.eval.tables import Value
from preread.nn.views import within

from .conftest import SMALL


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-0.3, -0.1, "used"),
        (-0.3, 0.0, "survived"),
        (-0.3, TOLERANCE, "survived"),
        (0.001, 0.01, "survived"),
        (-0.3, 0.3, "undecided"),
        (0.01, 0.3, "undecided"),
        (-inf, inf, "undecided"),
        (0.1, 0.3, "broken"),
    ],
)
def test_the_word_follows_from_the_interval(low, high, said):
    assert word(Value((low + high) / 2, low, high, 9)) == said


@pytest.mark.parametrize(("right", "asked"), [(0, 5), (5, 5), (1, 40), (36, 40), (1, 1)])
def test_wilson_is_what_scipy_has(right, asked):
    found = binomtest(right, asked).proportion_ci(method="wilson")
    assert wilson(right, asked) == pytest.approx((found.low, found.high), abs=1e-12)


def test_the_span_is_what_is_known_of_the_window_before(tiny_decoder):
    decoder = tiny_decoder()
    assert span(decoder).windows == [512, 1024, 2048]
    assert span(decoder, within(decoder, 1024)).windows == [1024, 2048]
    assert span(decoder, within(decoder, 1500), 2000).windows == [1500, 2000]
    assert span(decoder, within(decoder, 1024), 1024).before == 256, "no longer than the window of the base"
    config = decoder.model.config
    config.rope_parameters = {**config.rope_parameters, "original_max_position_embeddings": 1024}
    assert span(decoder).windows == [1024, 2048]
    for length in (3, 4096):
        with pytest.raises(UsageError, match="Nothing was certified"):
            span(decoder, length=length)


@pytest.fixture
def judge(data, tmp_path, tiny_decoder):
    kit = Kit(tiny_decoder(), data, tmp_path)
    return lambda tasks: run(kit, tasks, [Full()], Cache(tmp_path / "judged"))


def test_the_difference_by_length_is_that_of_the_harness(judge):
    it = Span(256, 1024, "a test")
    found = judge(Plan(it, SMALL, 0).by_length)
    verdict = verdicts.by_length(found, it)
    assert [one.window for one in verdict] == [512, 1024]
    for number, one in enumerate(verdict, 1):
        # The same tokens as two rows of one task: the harness's own difference of rows.
        rows = {"longer": found[number].outcomes["full text"], "before": found[0].outcomes["full text"]}
        both = Judged(found[0].task, found[0].units, rows, {}, {})
        assert one.difference.value == pytest.approx(mean_difference([both], "longer", "before").value, abs=1e-9)
        assert one.difference.n == 3 * 2
        assert one.difference.low <= one.difference.value <= one.difference.high


def test_all_lengths_judge_the_same_tokens(judge, data, tmp_path, tiny_decoder):
    it = Span(250, 1000, "a test")
    kit = Kit(tiny_decoder(), data, tmp_path)
    targets = [[unit.target for unit in task.units(kit)] for task in Plan(it, SMALL, 0).by_length]
    assert targets[0] == targets[1] == targets[2]
    assert len(targets[0]) == 6


def test_by_position_is_the_mean_of_documents_over_their_last_quarters(judge):
    it = Span(256, 1024, "a test")
    [found] = judge([Plan(it, SMALL, 0).by_position])
    cells = {cell.at["position"]: cell.metrics["nll"].value for cell in table(found, on_gpu=False).rows[0].cells}
    assert len(cells) == 16
    for one in verdicts.by_position(found, it):
        quarter = [value for end, value in cells.items() if 0.75 * one.window < end <= one.window]
        assert len(quarter) == one.window // 256
        assert one.difference.value == pytest.approx(np.mean(quarter) - cells[256.0], abs=1e-9)
        assert one.difference.n == 3


def test_a_base_with_other_tokens_is_no_base(judge):
    plan = Plan(Span(256, 1024, "a test"), SMALL, 0)
    found = judge(plan.short)
    same = verdicts.regression(found[0], found[0])
    assert same is not None
    assert (same.relative.value, same.relative.low, same.relative.high) == (0.0, 0.0, 0.0)
    other = Judged(found[0].task, ["another", *found[0].units[1:]], found[0].outcomes, {}, {})
    assert verdicts.regression(found[0], other) is None
