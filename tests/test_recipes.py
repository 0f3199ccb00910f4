"""A recipe from YAML to weights that load, at small size; the same command again changes nothing."""

from __future__ import annotations

import json

import pytest

from preread.core.config import build
from preread.core.errors import UnreadableDocument, UsageError
from preread.methods.lloco.compressor import Compressor
from preread.recipes import Recipe, run

VALUES = {
    "method": "lloco",
    "stage": "compress",
    "model": "tiny",
    "settings": {"fresh": True, "shape": {"max_summary": 16, "lora": {"rank": 2, "dropout": 0.0}}},
    "objective": {"segments": "mixed", "segment_tokens": [10, 20], "ratios": [2.0, 6.0]},
    "data": ["texts.jsonl"],
    "window": 60,
    "rows": 2,
    "training": {"steps": 6, "learning_rate": 0.003, "save_every": 2},
}


@pytest.fixture
def data(tmp_path, monkeypatch, tiny_decoder):
    decoder = tiny_decoder("llama")
    monkeypatch.setattr("preread.recipes.load", lambda name: {"tiny": decoder}[name])
    lines = [json.dumps({"text": f"On day {i} the storm met the keeper and the lamp burned. " * 8}) for i in range(5)]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_a_recipe_gives_weights_that_load_and_again_changes_nothing(data, tiny_decoder):
    recipe = build(Recipe, VALUES)
    first = run(recipe, data, data / "out")
    manifest = data / "out" / "trained" / "manifest.json"
    record = json.loads(manifest.read_text())
    assert first.finished
    assert record["trained"]["tokens"] == 6 * 2 * 60 == record["training"]["tokens"]
    assert record["trained"]["segments"] == 6
    assert set(record["training"]["losses"]) == {"lm", "distil", "reconstruct"}
    compressor = Compressor.load(manifest.parent, tiny_decoder("llama"))
    again = run(recipe, data, data / "out")
    assert again.losses == first.losses
    assert Compressor.load(manifest.parent, tiny_decoder("llama")).hash == compressor.hash
    assert json.loads(manifest.read_text())["training"]["losses"] == record["training"]["losses"]


def test_a_stopped_recipe_ends_with_the_same_weights(data, tiny_decoder):
    whole = build(Recipe, VALUES)
    run(whole, data, data / "whole")
    stopped = build(Recipe, VALUES, ["training.minutes=0"])
    assert not run(stopped, data, data / "halves").finished
    assert not (data / "halves" / "trained").exists()
    run(whole, data, data / "halves")
    a, b = (Compressor.load(data / f / "trained", tiny_decoder("llama")) for f in ("whole", "halves"))
    assert a.hash == b.hash


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("method=magic", "a method"),
        ("stage=magic", "stage compress or adapter"),
        ("objective.magic=1", "magic"),
        ("window=5000", "a document of at least 5000 tokens"),
        ("settings.ratio=0", "a ratio"),
        ("settings.ratoi=4", "Did you mean ratio"),
    ],
)
def test_mistakes_are_named(data, change, message):
    with pytest.raises(UsageError) as caught:
        run(build(Recipe, VALUES, [change]), data, data / "out")
    assert message in str(caught.value)


@pytest.mark.parametrize("line", ["5", '{"title": "no text"}', "not json"])
def test_records_without_text_are_named(data, line):
    (data / "texts.jsonl").write_text(line)
    with pytest.raises(UnreadableDocument, match=r"texts\.jsonl"):
        run(build(Recipe, VALUES), data, data / "out")
