"""Evaluation: `eval`."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from preread.cli.app import JsonOption, SetOption, app, emit, say

if TYPE_CHECKING:
    from preread.eval.runner import Judged


@app.command(name="eval")
def evaluate(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe of tasks and answerers.")],
    data: Annotated[Path, typer.Option(help="Folder that holds the question sets (qa/) and texts (text/).")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of results; by default results, and nowhere for a part of a recipe.")
    ] = None,
    work: Annotated[
        Path | None, typer.Option(help="Folder for what was judged and trained already; by default in the cache.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Decoder, instead of the recipe's.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most documents (or stretches of text) of a task.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only the task of this name; may be repeated.")] = None,
    figures: Annotated[Path | None, typer.Option(help="JSON lines of figures to publish into.")] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop after about so long; the same command goes on from there.")
    ] = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Hold answerers against one another on tasks with known answers; the same command goes on where it stopped.

    What was judged once, by content, is not judged again. `preread report` makes a page of all results.

    Example: preread eval recipes/eval-first.yaml --data DATA --limit 2
    """
    from preread import render
    from preread.core.config import load as load_config
    from preread.core.paths import cache_home
    from preread.core.provenance import commit
    from preread.eval import results
    from preread.eval.cache import Cache
    from preread.eval.kit import Kit
    from preread.eval.recipe import EvalRecipe
    from preread.eval.runner import run
    from preread.models.loading import load

    at = commit()  # before anything runs: the tree may change meanwhile
    changes = [*(set_ or []), *([f"model={json.dumps(model)}"] if model else [])]
    chosen = load_config(EvalRecipe, recipe, changes)
    tasks, answerers = chosen.chosen_tasks(only), chosen.chosen_answerers()
    folder = work or cache_home() / "eval"
    kit = Kit(load(chosen.model), data, folder / "trained")
    judged = run(kit, tasks, answerers, Cache(folder / "judged"), limit, minutes)
    command = shlex.join(["preread", *sys.argv[1:]])
    found = results.result(recipe.stem, chosen, judged, kit, command, at, limit)
    part = limit is not None or bool(only)
    if out is not None or not part:
        say(f"written: {results.write(found, judged, out or Path('results'))}")
    if figures is not None:
        _publish(judged, recipe, command, at, figures)
    emit(found, json_, render.evaluation)


def _publish(judged: list[Judged], recipe: Path, command: str, at: str, path: Path) -> None:
    """The figure of how many question sets have a whole table."""
    from preread.bench.figures import Figure, publish
    from preread.eval.answerers import ANSWERERS
    from preread.eval.results import sets_reported, widest
    from preread.eval.summary import table

    tables = [table(one, on_gpu=False) for one in judged]
    sets = sets_reported(tables, list(ANSWERERS))
    asked = [one for one in tables if one.kind == "qa"]
    short = [f"{one.label} ({len(one.rows)} rows, half widths up to {widest(one):.1f})" for one in asked]
    reasons = [told for one, told in zip(asked, short, strict=True) if one.label not in sets]
    count = float(len(sets))
    figure = Figure(
        "eval.sets_reported",
        count,
        count,
        count,
        "sets",
        len(asked),
        recipe=str(recipe),
        command=command,
        note=f"counted: {', '.join(sets) or 'none'}; too few documents yet for: {', '.join(reasons) or 'none'}",
        commit=at,
    )
    publish([figure], path)
