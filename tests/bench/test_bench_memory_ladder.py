"""The ladder on a shape that a CPU holds: each rung carries further, and estimates say how far."""

from __future__ import annotations

from dataclasses import replace

import pytest
from transformers import LlamaConfig

from preread.bench import memory_ladder
from preread.bench.memory_ladder import RUNGS, LadderConfig, climb, estimate, ladder_figures, longest
from preread.core.errors import UsageError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torchao", "ignore::DeprecationWarning")


@pytest.fixture
def config(tmp_path):
    LlamaConfig(
        vocab_size=4096,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    ).save_pretrained(tmp_path / "shape")
    return LadderConfig(str(tmp_path / "shape"), memory=40_000_000, host=10**9, grain=256)


@pytest.mark.slow
def test_what_is_measured_is_what_was_estimated_and_no_rung_is_taken_twice(config, tmp_path, monkeypatch):
    monkeypatch.setattr(memory_ladder, "CLIMBS", 1)
    monkeypatch.setattr(memory_ladder, "RUNGS", tuple(few(rung) for rung in RUNGS))
    climbed = climb(config, tmp_path / "work")
    assert all(one.length and one.error < 0.1 for one in climbed), climbed
    lengths = [one.length for one in climbed]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[1] < lengths[2] < lengths[4]
    assert all(one.peak <= config.memory for one in climbed)
    [figure] = ladder_figures(config, climbed, "preread bench memory-ladder")
    assert (figure.id, figure.n) == ("longlora.memory_estimate_error", 5)
    assert figure.value == pytest.approx(100 * max(one.error for one in climbed))
    monkeypatch.setattr(memory_ladder, "longest", None)
    assert climb(config, tmp_path / "work") == climbed


def test_another_memorys_ladder_is_not_taken_for_this_ones(config, tmp_path, monkeypatch):
    monkeypatch.setattr(memory_ladder, "RUNGS", RUNGS[:1])
    climb(config, tmp_path, measure=False)
    with pytest.raises(UsageError, match="another --work"):
        climb(replace(config, memory=10_000_000), tmp_path, measure=False)
    assert climb(config, tmp_path, measure=False)


def few(rung):
    """With fewer tiles, for rows of some hundred tokens."""
    levers = rung.plan.levers
    return replace(rung, plan=replace(rung.plan, levers=replace(levers, tiles=min(4, levers.tiles))))


def test_the_longest_row_fits_and_a_longer_one_does_not(config):
    rung = RUNGS[1]
    length = longest(config, rung)
    assert estimate(config, rung, length).total <= config.memory < estimate(config, rung, length + 256).total
    offloading, bound = RUNGS[2], replace(config, host=2 * 64 * 2 * 768)
    assert longest(bound, offloading) == 768
