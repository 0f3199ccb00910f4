"""Evaluation: `eval`."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from preread.cli.app import JsonOption, SetOption, app, emit, say


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
    figures: Annotated[
        Path | None, typer.Option(help="JSON lines to publish those figures into that the run is whole for.")
    ] = None,
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
    from preread.bench import quality
    from preread.bench.figures import publish
    from preread.core.config import load as load_config
    from preread.core.paths import cache_home
    from preread.core.provenance import commit
    from preread.eval import results
    from preread.eval.cache import Cache
    from preread.eval.kit import Kit
    from preread.eval.recipe import EvalRecipe
    from preread.eval.runner import run
    from preread.models.loading import load
    from preread.nn.views import within

    at = commit()  # before anything runs: the tree may change meanwhile
    changes = [*(set_ or []), *([f"model={json.dumps(model)}"] if model else [])]
    chosen = load_config(EvalRecipe, recipe, changes)
    tasks, answerers = chosen.chosen_tasks(only), chosen.chosen_answerers()
    folder = work or cache_home() / "eval"
    decoder = load(chosen.model)
    decoder = decoder if chosen.window is None else within(decoder, chosen.window)
    kit = Kit(decoder, data, folder / "trained")
    judged = run(kit, tasks, answerers, Cache(folder / "judged"), limit, minutes)
    command = shlex.join(["preread", *sys.argv[1:]])
    name = recipe.stem if chosen.window is None else f"{recipe.stem}-{chosen.window}"
    found = results.result(name, chosen, judged, kit, command, at, limit)
    part = limit is not None or bool(only)
    if out is not None or not part:
        say(f"written: {results.write(found, judged, out or Path('results'))}")
    if figures is not None:
        made = [] if limit is not None else quality.figures(judged, decoder.window, str(recipe), command, at)
        publish(made, figures)
        say(f"published: {', '.join(figure.id for figure in made) or 'nothing, for which more must be judged'}")
    emit(found, json_, render.evaluation)
