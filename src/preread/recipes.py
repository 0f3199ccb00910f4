"""A recipe: everything that decides a training run over running text, in one YAML file, and the run itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch

from preread.core.config import build, dump
from preread.core.errors import UsageError
from preread.core.method import Handle, Objective
from preread.core.paths import compressors_home
from preread.core.provenance import commit, device
from preread.core.types import TextBatch
from preread.data.corpora import Corpus
from preread.methods import METHODS
from preread.models.loading import load
from preread.training.estimate import Estimate
from preread.training.estimate import estimate as cost
from preread.training.loop import Batches, Outcome, TrainingConfig, train

TRAINED = "trained"
"""The folder of the result, in the run's."""


@dataclass(frozen=True)
class Recipe:
    """A run of one stage of one method over text.

    Args:
        model: decoder, as `preread.models.loading.load` takes it.
        method: name of the method.
        settings: the method's own settings.
        stage: its stage.
        objective: the stage's settings.
        data: files of JSON lines with a `text` each, relative to `--data`.
        max_characters: most characters read of each file; None reads all.
        window: tokens of each training window.
        rows: windows a micro-step.
        data_seed: decides which windows.
        training: the loop's settings.
    """

    method: str
    stage: str
    data: list[Path]
    model: str = "default"
    settings: dict[str, Any] = field(default_factory=dict)
    objective: dict[str, Any] = field(default_factory=dict)
    max_characters: int | None = None
    window: int = 720
    rows: int = 1
    data_seed: int = 0
    training: TrainingConfig = TrainingConfig()


def run(recipe: Recipe, data: Path, folder: Path) -> Outcome:
    """Run a recipe, or go on with it where it stopped; the result is in `folder` when it is finished.

    Args:
        recipe: what to do.
        data: folder that the recipe's files are relative to.
        folder: checkpoints and log while it runs; the trained weights and their manifest at the end.

    Raises:
        UsageError: an unknown method, as the method's own settings say, or the folder is another recipe's.
    """
    with _prepared(recipe, data) as (objective, batches, corpus):
        rest = dump(replace(recipe, training=TrainingConfig()))
        outcome = train(objective, batches, recipe.training, folder, f"{recipe.method} {recipe.stage}", rest)
        if outcome.finished:
            objective.save(folder / TRAINED, provenance(recipe, corpus, outcome))
    return outcome


def estimate(recipe: Recipe, data: Path) -> Estimate:
    """What a recipe's run would cost on this machine, from a few of its steps; nothing is kept.

    Raises:
        UsageError: as `run`.
    """
    with _prepared(recipe, data) as (objective, batches, _):
        tokens = recipe.training.accumulation * recipe.rows * recipe.window
        return cost(objective, batches, recipe.training, tokens)


def install(folder: Path, name: str) -> Path:
    """Put what a finished run trained where its decoder finds it without being told.

    Args:
        folder: the run's.
        name: of the compressor; one that had it is replaced.

    Returns:
        The compressor's folder in the user's data directory.

    Raises:
        UsageError: the run is not finished, or the name is not one of a folder.
    """
    trained = folder / TRAINED
    if not (trained / "manifest.json").is_file() or Path(name).name != name or name[:1] in ("", "."):
        raise UsageError(
            expected="a finished run and a plain name for what it trained",
            got=f"{folder} and {name!r}",
            consequence="Nothing was installed.",
            remedy="Run the recipe to its end, and choose a name of letters, digits and dashes.",
        )
    target = compressors_home() / name
    target.parent.mkdir(parents=True, exist_ok=True)
    part = compressors_home().with_suffix(".part")  # beside, where nobody looks for compressors
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(trained, part)
    shutil.rmtree(target, ignore_errors=True)
    return part.rename(target)


@contextmanager
def _prepared(recipe: Recipe, data: Path) -> Iterator[tuple[Objective, Batches, Corpus]]:
    """What a recipe trains and on what, while its method is attached."""
    if recipe.method not in METHODS:
        raise UsageError(
            expected=f"a method ({', '.join(METHODS)})",
            got=recipe.method,
            consequence="Nothing was trained.",
            remedy="Correct `method` in the recipe.",
        )
    decoder = load(recipe.model)
    corpus = Corpus.read([data / path for path in recipe.data], decoder.tokenizer, recipe.max_characters)
    torch.manual_seed(recipe.training.seed)

    def batches(step: int) -> TextBatch:
        seed = (recipe.data_seed << 32) + step
        return TextBatch(corpus.windows(recipe.rows, recipe.window, seed), seed)

    handle: Handle
    with build(METHODS[recipe.method], recipe.settings).attach(decoder) as handle:
        yield _objective(handle, recipe), batches, corpus


def _objective(handle: Handle, recipe: Recipe) -> Objective:
    try:
        return handle.objective(recipe.stage, **recipe.objective)
    except TypeError as error:  # a keyword that the stage does not have
        raise UsageError(
            expected=f"settings of {recipe.method}'s stage {recipe.stage}",
            got=str(error),
            consequence="Nothing was trained.",
            remedy="Correct `objective` in the recipe.",
        ) from error


def provenance(recipe: Recipe, corpus: Corpus, outcome: Outcome) -> Mapping[str, Any]:
    """What a manifest says of a run: recipe, data, losses, device, commit and day.

    All documents that the run could read are named, so that nothing it trained is judged on them.
    """
    seen = outcome.step * recipe.training.accumulation * recipe.rows * recipe.window
    return {
        "recipe": json.loads(json.dumps(asdict(recipe), default=str)),
        "window": recipe.window,
        "tokens": seen,
        "documents": sorted(set(corpus.documents)),
        "corpus_tokens": len(corpus.tokens),
        "epochs": seen / len(corpus.tokens),
        "losses": outcome.losses,
        "device": device(),
        "commit": commit(),
        "date": date.today().isoformat(),
    }
