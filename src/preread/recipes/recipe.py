"""A recipe: everything that decides a training run over text, in one YAML file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from preread.core.config import build
from preread.core.errors import UsageError
from preread.training.loop import TrainingConfig


@dataclass(frozen=True)
class Phase:
    """A part of a run; what it does not say is the recipe's.

    Args:
        stage: another stage of the method.
        objective: settings of the stage that differ; of another stage, all of them.
        training: settings of the loop that differ.
        window: tokens of each training window.
        rows: windows a micro-step.
    """

    stage: str | None = None
    objective: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    window: int | None = None
    rows: int | None = None


@dataclass(frozen=True)
class Recipe:
    """A run of one stage of one method over text.

    Args:
        model: decoder, as `preread.models.loading.load` takes it.
        method: name of the method.
        settings: the method's own settings.
        stage: its stage.
        objective: the stage's settings.
        data: files of JSON lines with a `text` each, or of instructions, relative to `--data`.
        max_characters: most characters read of each file; None reads all.
        batches: what a micro-step reads: `windows` inside single documents; `packed` stretches of documents that follow
            one another, none of which sees another; `instructions`, of which the answers are judged.
        window: tokens of each training window.
        rows: windows a micro-step.
        data_seed: decides which windows.
        training: the loop's settings.
        phases: a curriculum: parts that follow one another, each from the weights of the one before it; none means one
            that is as the recipe says.
        held_out: files like `data` that nothing is trained on; the loss over some windows of them goes into the
            manifest.
        held_out_batches: how many batches of them.
    """

    method: str
    stage: str
    data: list[Path]
    model: str = "default"
    settings: dict[str, Any] = field(default_factory=dict)
    objective: dict[str, Any] = field(default_factory=dict)
    max_characters: int | None = None
    batches: Literal["windows", "packed", "instructions"] = "windows"
    window: int = 720
    rows: int = 1
    data_seed: int = 0
    training: TrainingConfig = TrainingConfig()
    phases: list[Phase] = field(default_factory=list)
    held_out: list[Path] = field(default_factory=list)
    held_out_batches: int = 16

    def __post_init__(self) -> None:
        if not self.data or self.rows < 1 or self.window < 2:
            wanted = "a file in `data` at least, `rows` of at least 1 and a `window` of at least 2"
            given = f"{len(self.data)} files, rows: {self.rows}, window: {self.window}"
            raise UsageError(wanted, given, "Nothing was trained.", "Correct the recipe.")


def phases(recipe: Recipe) -> Iterator[Recipe]:
    """Each phase as a recipe of its own; windows of one are not those of another."""
    if not recipe.phases:
        yield recipe
    for number, phase in enumerate(recipe.phases):
        yield replace(
            recipe,
            stage=phase.stage or recipe.stage,
            objective=phase.objective if phase.stage else {**recipe.objective, **phase.objective},
            training=build(TrainingConfig, {**asdict(recipe.training), **phase.training}),
            window=phase.window or recipe.window,
            rows=phase.rows or recipe.rows,
            data_seed=recipe.data_seed + number,
            phases=[],
        )
