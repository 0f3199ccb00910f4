"""Measurements compare like with like, and figures carry what is needed to take them again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from preread.bench.figures import Figure, publish
from preread.bench.measure import Comparison, Pace, compare, cpu_figures, plain_pace
from preread.core.errors import WindowExceeded
from preread.engines.local import LocalEngine
from preread.nn.cpu import FOLDED, heads_unfolded


def test_each_ratio_is_of_neighbouring_runs_and_above_one_where_the_memory_is_quicker():
    runs = Comparison(
        memory=[Pace(0.1, 0.01), Pace(0.2, 0.02)],
        text=[Pace(3.0, 0.02), Pace(8.0, 0.03)],
        plain=[Pace(3.0, 0.2), Pace(8.0, 0.3)],
    )
    assert runs.first_token == pytest.approx([30, 40])
    assert runs.decode == pytest.approx([2, 1.5])
    assert runs.decode_plain == pytest.approx([20, 15])


def test_compare_runs_all_three_by_turns(tiny_decoder):
    done: list[float] = []
    runs = compare(tiny_decoder(), 300, 30, 4, seed=0, repeats=2, progress=lambda units=1, note="": done.append(units))
    assert [len(r) for r in (runs.memory, runs.text, runs.plain)] == [2, 2, 2]
    assert all(p.first_token_s > 0 and p.per_token_s > 0 for r in (runs.memory, runs.text, runs.plain) for p in r)
    assert done == [1, 1]


def test_plain_is_plain_and_ours_comes_back(tiny_decoder, monkeypatch):
    decoder = tiny_decoder()
    LocalEngine(decoder)
    seen = []
    generate = decoder.model.generate

    def spy(*args, **kwargs):
        seen.append(decoder.model.config._attn_implementation)
        return generate(*args, **kwargs)

    monkeypatch.setattr(decoder.model, "generate", spy)
    plain_pace(decoder, torch.arange(3, 20), 4)
    assert seen == ["sdpa"]
    assert decoder.model.config._attn_implementation == FOLDED
    with pytest.raises(KeyError), heads_unfolded(decoder.model):
        raise KeyError
    assert decoder.model.config._attn_implementation == FOLDED


def test_neither_side_ends_before_the_limit(tiny_decoder):
    decoder = tiny_decoder()
    decoder.model.generation_config.eos_token_id = list(
        range(len(decoder.tokenizer) - 1)
    )  # all tokens but one would end an answer
    runs = compare(decoder, 60, 30, 6, seed=0, repeats=1, progress=lambda units=1, note="": None)
    assert len(runs.plain) == len(runs.text) == 1


def test_a_decoder_with_a_short_window_is_refused(tiny_decoder):
    with pytest.raises(WindowExceeded):
        cpu_figures(tiny_decoder(), repeats=1)


def test_published_figures_are_lines_in_the_shape_of_the_scoreboard(tmp_path: Path):
    path = tmp_path / "results" / "figures.jsonl"
    figure = Figure.of("a.ratio", [3.0, 1.0, 2.0, 9.0, 2.5], "x", "tokens=4", "preread bench cpu", "random ids")
    publish([figure], path)
    newer = Figure.of("a.ratio", [4.0], "x", "tokens=4", "preread bench cpu", "random ids")
    publish([Figure.of("b.ratio", [1.0], "x", "", "", ""), newer], path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["id"], line["value"]) for line in lines] == [("a.ratio", 4.0), ("b.ratio", 1.0)]
    publish([figure], path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {k: lines[0][k] for k in ("id", "value", "low", "high", "unit", "n")} == {
        "id": "a.ratio", "value": 2.5, "low": 1.0, "high": 9.0, "unit": "x", "n": 5,
    }  # fmt: skip
    keys = ["id", "value", "low", "high", "unit", "n", "recipe", "command", "commit", "device", "date", "note"]
    assert sorted(lines[0]) == sorted(keys)
    assert "thread" in lines[0]["device"]
