"""The engine's figures compare like with like."""

from __future__ import annotations

import pytest

from preread.bench import engine
from preread.bench.engine import Costs, engine_figures, measure
from preread.nn.adapters import Adapters


def test_each_ratio_is_of_neighbouring_runs():
    assert Costs(one=[1.0, 2.0], mixed=[1.5, 2.0]).ratio == pytest.approx([1.5, 1.0])


def test_both_batches_are_full_and_differ_in_their_adapters_alone(tiny_decoder, monkeypatch):
    monkeypatch.setattr(engine, "NEW_TOKENS", 5)
    decoder, seen, use_rows = tiny_decoder(), [], Adapters.use_rows

    def spy(self, rows):
        if len(rows) == engine.ROWS:
            seen.append(len(set(rows)))
        return use_rows(self, rows)

    monkeypatch.setattr(Adapters, "use_rows", spy)
    done: list[float] = []
    costs = measure(decoder, seed=0, repeats=2, progress=lambda units=1, note="": done.append(units))
    assert {len(taken) for taken in (costs.one, costs.mixed, costs.switch, costs.first)} == {2}
    written = [count for count in seen if count != 1], [count for count in seen if count == 1]
    assert set(written[0]) == {engine.ADAPTERS}
    assert len(written[1]) - 2 * engine.SWITCHES == len(written[0]), "as many steps of eight rows under one adapter"
    assert done == [1, 1]
    assert list(decoder.adapters) == []
    assert not any(module._forward_hooks for module in decoder.model.modules())


def test_figures_have_the_ids_of_the_scoreboard(tiny_decoder, monkeypatch):
    monkeypatch.setattr(engine, "NEW_TOKENS", 3)
    figures = engine_figures(tiny_decoder(), repeats=3)
    assert [(f.id, f.unit, f.n) for f in figures] == [
        ("engine.mixed_adapter_cost", "x", 3), ("engine.adapter_switch_ms", "ms", 3),
    ]  # fmt: skip
    assert all(0 < f.low <= f.value <= f.high for f in figures)
    assert all(f.command == "preread bench engine --seed 0 --repeats 3" for f in figures)
