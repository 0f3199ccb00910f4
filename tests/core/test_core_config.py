"""Recipes: what is written comes back, and what is misspelt is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from preread.bench.window_grid import GridConfig
from preread.collection.lessons import StudyConfig
from preread.core.config import build, dump, load
from preread.core.errors import UsageError
from preread.eval.recipe import EvalRecipe
from preread.methods.lloco.method import Lloco
from preread.recipes import Recipe
from preread.training.loop import TrainingConfig

KINDS = {"longlora-grid": GridConfig}
RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


def test_there_are_recipes():
    assert RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_loads_and_comes_back_equal(path):
    kind = KINDS.get(path.stem, EvalRecipe if path.stem.startswith("eval-") else Recipe)
    recipe = load(kind, path)
    assert build(kind, yaml.safe_load(dump(recipe))) == recipe


def test_an_override_goes_deep_and_has_its_type():
    config = build(StudyConfig, {}, ["training.steps=7", "lora.rank=3", "training.betas=[0.9, 0.95]"])
    assert (config.training.steps, config.lora.rank, config.training.betas) == (7, 3, (0.9, 0.95))


@pytest.mark.parametrize(
    ("values", "overrides", "message"),
    [
        ({"trainig": {}}, [], "Did you mean training?"),
        ({"training": {"stps": 3}}, [], "Did you mean training.steps?"),
        ({}, ["training.stps=3"], "Did you mean training.steps?"),
        ({"training": {"steps": "many"}}, [], "training.steps"),
        ({}, ["training.steps"], "a.b=value"),
        ({"training": 3}, [], "training"),
    ],
)
def test_mistakes_are_named(values, overrides, message):
    with pytest.raises(UsageError) as caught:
        build(StudyConfig, values, overrides)
    assert message in str(caught.value)


def test_a_missing_or_broken_recipe_is_one_message(tmp_path):
    (tmp_path / "broken.yaml").write_text("a: [1")
    for path in (tmp_path / "none.yaml", tmp_path / "broken.yaml"):
        with pytest.raises(UsageError, match="YAML recipe"):
            load(TrainingConfig, path)


def test_a_path_is_a_value_like_any_other():
    assert build(Lloco, {"compressor": Path("some/folder")}).compressor == Path("some/folder")
