"""The recipes that ship: each can be built, and together they run every task and judge every known set."""

from __future__ import annotations

from pathlib import Path

import pytest

from preread.core.config import load
from preread.eval.recipe import EvalRecipe
from preread.eval.tasks import TASKS
from preread.eval.tasks.qa import STYLES, Qa

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("eval-*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_can_be_built_and_says_what_it_decides(path):
    recipe = load(EvalRecipe, path)
    assert recipe.what
    assert recipe.chosen_answerers()
    for task in recipe.chosen_tasks():
        assert task.label
        assert task.group
        assert "train" not in task.label
        assert getattr(task, "split", "test") in ("test", "validation"), "what is reported is judged on test data"


def test_every_task_and_every_known_set_is_in_a_recipe():
    tasks = [task for path in RECIPES for task in load(EvalRecipe, path).chosen_tasks()]
    assert {task.kind for task in tasks} == set(TASKS) - {"longbench"}, "whose files are the user's own"
    assert {task.set for task in tasks if isinstance(task, Qa)} == set(STYLES)
