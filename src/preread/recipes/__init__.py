"""Training runs as YAML: what decides one (`recipe`), and the run itself (`running`)."""

from preread.recipes.recipe import Phase, Recipe
from preread.recipes.running import TRAINED, estimate, install, run

__all__ = ["TRAINED", "Phase", "Recipe", "estimate", "install", "run"]
