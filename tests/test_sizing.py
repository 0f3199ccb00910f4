"""A recipe's memory, and the levers that fit it, from the config alone."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import LlamaConfig

from preread import sizing
from preread.core.config import build
from preread.core.errors import UnknownModel, UsageError
from preread.core.types import TextBatch
from preread.methods.longlora.extension import Extension, ExtensionConfig
from preread.models.hollow import config_of, hollow
from preread.nn.activations import Levers
from preread.nn.lora import LoraConfig
from preread.recipes import Recipe
from preread.training.footprint import Plan, footprint

SHAPE = LlamaConfig(
    vocab_size=512,
    hidden_size=64,
    intermediate_size=160,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
)


@pytest.fixture
def recipe(tmp_path):
    SHAPE.save_pretrained(tmp_path)

    def make(behind="", **changes):
        values = {
            "method": "longlora",
            "stage": "extend",
            "model": f"{tmp_path}{behind}",
            "settings": {"length": 256, "levers": {"checkpoint": "full"}},
            "data": ["none.jsonl"],
            "window": 256,
        }
        return build(Recipe, {**values, **changes})

    return make


def test_it_is_the_footprint_of_the_recipes_own_step(recipe):
    decoder = hollow(config_of(recipe().model))
    with sizing.build(sizing.LongLora, {"length": 256, "levers": {"checkpoint": "none"}}).attach(decoder) as handle:
        batch = TextBatch(torch.zeros(2, 128, dtype=torch.int64), 0)
        expected = footprint(decoder, handle.objective("extend"), batch, Plan(Levers("full"), "adamw8bit", "int4"))
    # Of two phases the larger one counts, and two processes share each of its rows.
    phases = [{"window": 64}, {"window": 256, "rows": 2}]
    training = {"optimizer": "adamw8bit", "sequence_parallel": 2}
    assert sizing.size(recipe(":int4", phases=phases, training=training)) == expected


def test_a_fitted_recipe_takes_what_it_says(recipe):
    whole = sizing.size(recipe(settings={"length": 256, "levers": {"checkpoint": "none"}}))
    chosen, found = sizing.fitted(recipe(), sizing.Machine(whole.total - 1, 0))
    assert chosen.settings["levers"]["checkpoint"] == "selective"
    assert sizing.size(chosen) == found
    assert chosen.model == recipe().model


def test_what_fits_keeps_the_bits_that_the_recipe_asks_for(recipe):
    chosen, _ = sizing.fitted(recipe(":int4"), sizing.Machine(10**12, 0))
    assert chosen.model == recipe(":int4").model


def test_other_methods_and_models_that_are_not_there_are_refused(recipe, tmp_path):
    with pytest.raises(UsageError, match="a recipe of longlora"):
        sizing.size(recipe(method="lloco", stage="compress"))
    with pytest.raises(UsageError, match="bfloat16, int8 or int4"):
        sizing.size(recipe(":float32"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnknownModel):
        config_of(str(tmp_path / "empty"))


def test_going_on_from_weights_takes_what_they_are(recipe, tmp_path):
    """Length, rule and parts are the stored extension's, which the recipe need not say again."""
    decoder = hollow(config_of(recipe().model))
    decoder.model.to_empty(device="cpu")
    folder = tmp_path / "trained"
    Extension(ExtensionConfig(LoraConfig(rank=24, dropout=0.0), embeddings="frozen"), decoder).save(folder)
    manifest = {"base": "whose", "rule": "linear", "length": 256}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    own = sizing.size(recipe(settings={"weights": str(folder)}))
    extension = {"lora": {"rank": 24, "dropout": 0.0}, "embeddings": "frozen"}
    assert own == sizing.size(recipe(settings={"length": 256, "rule": "linear", "extension": extension}))
    assert own != sizing.size(recipe(settings={"length": 256, "rule": "linear"}))
