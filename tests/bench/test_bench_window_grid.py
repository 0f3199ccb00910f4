"""The grid of an extension at tiny size: same batches for every arm, the published gap is the arms' own losses."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from preread.bench.small_decoder import SmallConfig, small_decoder
from preread.bench.window_grid import Arm, GridConfig, Judged, gap, grid_figure, record, run_grid
from preread.core.errors import UsageError
from preread.models.loading import load
from preread.recipes import Recipe
from preread.training.loop import TrainingConfig

SMALL = SmallConfig(
    vocabulary=300,
    window=32,
    width=32,
    layers=1,
    heads=2,
    kv_heads=1,
    hidden=32,
    rows=2,
    training=TrainingConfig(steps=4, learning_rate=1e-3, save_every=2),
)


@pytest.fixture
def data(tmp_path):
    for name in ("train", "test"):
        lines = [
            json.dumps({"text": f"On day {i} the {name} keeper saw {i * 7} ships, and the lamp burned. " * 60})
            for i in range(3)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    return tmp_path


def _config(**changes) -> GridConfig:
    values = {
        "extend": Recipe("longlora", "extend", ["train.jsonl"], training=TrainingConfig(steps=2, learning_rate=1e-3)),
        "arms": {
            "all": Arm({"extension": {"everything": True}, "attention": {"kind": "full"}}),
            "sparse": Arm(),
            "short": Arm(window=32, training={"steps": 1}),
            "none": Arm(trained=False),
        },
        "reference": "all",
        "figure": "sparse",
        "held_out": "test.jsonl",
        "lengths": [128],
        "step_tokens": 256,
        "windows": 3,
        "judged": 16,
        "small": SMALL,
    }
    return GridConfig(**{**values, **changes})


def test_a_small_decoder_is_made_once_and_reads_its_window(data):
    folder = small_decoder(SMALL, data / "train.jsonl", data / "small")
    decoder = load(f"{folder}:float32")
    assert (decoder.window, decoder.width) == (32, 32)
    assert decoder.tokenizer.decode(decoder.tokens("Grüße, keeper!")) == "Grüße, keeper!"
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert small_decoder(SMALL, data / "train.jsonl", data / "small") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp


def test_the_grid_runs_is_kept_and_gives_the_figure(data):
    found = run_grid(_config(), data, data / "grid")
    assert [one.arm for one in found] == ["all", "sparse", "short", "none"]
    every, sparse, _, none = found
    assert every.parameters > sparse.parameters > none.parameters == 0
    assert all(len(losses) == 3 for one in found for losses in one.losses.values())
    assert len({one.perplexity for one in found}) == 4
    log = data / "grid" / "128" / "sparse" / "log.jsonl"
    log.unlink()  # what is judged is not run again
    assert [one.losses for one in run_grid(_config(), data, data / "grid")] == [one.losses for one in found]
    assert not log.exists()
    figure = grid_figure(_config(), found, "recipe", "command")
    ours, theirs = (np.mean([*one.losses.values()]) for one in (sparse, every))
    assert figure.value == pytest.approx(100 * (math.exp(ours - theirs) - 1))
    assert figure.low <= figure.value <= figure.high
    assert figure.n == 9
    rows = record(_config(), found, "command")["rows"]
    assert [row["gap_percent"]["value"] for row in rows][:2] == [0, pytest.approx(figure.value)]


def test_a_gap_is_of_pairs():
    a = Judged("a", 1, {"x": [1.0, 2.0], "y": [5.0]}, 0)
    b = Judged("b", 1, {"x": [1.1, 2.1], "y": [5.1]}, 0)
    assert gap(b, a) == pytest.approx([100 * math.expm1(0.1)] * 3)


def test_an_arm_that_is_none_is_named():
    with pytest.raises(UsageError, match="among the arms"):
        _config(reference="other")


def test_a_held_out_document_shorter_than_the_window_is_refused(data):
    (data / "short.jsonl").write_text(json.dumps({"text": "Too short."}))
    config = _config(held_out="short.jsonl", arms={"all": Arm(trained=False), "sparse": Arm()})
    with pytest.raises(UsageError, match="at least 128 tokens"):
        run_grid(config, data, data / "grid")
