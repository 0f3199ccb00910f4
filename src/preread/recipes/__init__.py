"""Training runs as YAML: what decides one (`recipe`), and the run itself (`running`)."""

from preread.recipes.recipe import Phase, Recipe
from preread.recipes.running import TRAINED, estimate, expect_plain, install, run

__all__ = ["TRAINED", "Phase", "Recipe", "estimate", "expect_plain", "install", "run"]
