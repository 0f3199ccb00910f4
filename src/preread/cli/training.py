"""Training: `train`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from preread.cli.app import JsonOption, SetOption, emit, say, train_app
from preread.core.errors import UsageError

if TYPE_CHECKING:
    from preread.recipes import Recipe
    from preread.training.loop import Outcome

DataOption = Annotated[Path, typer.Option(help="Folder that the recipe's files are in.")]
OutOption = Annotated[
    Path | None, typer.Option(help="Folder for checkpoints, log and the result; --estimate needs none.")
]
ModelOption = Annotated[str | None, typer.Option(help="Decoder, instead of the recipe's; `:int8` behind it quantises.")]
EstimateOption = Annotated[bool, typer.Option("--estimate", help="Only say what it will cost.")]


def _plain(name: str | None) -> str | None:
    """A name to install by, looked at before anything is trained."""
    if name is not None:
        from preread import recipes

        recipes.expect_plain(name)
    return name


InstallOption = Annotated[
    str | None,
    typer.Option(help="Name under which `add --model` then finds what was trained by itself.", callback=_plain),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Neither estimate nor ask.")]


@train_app.command()
def compressor(
    recipe: Annotated[Path, typer.Option(help="YAML recipe.")],
    data: DataOption,
    out: OutOption = None,
    model: ModelOption = None,
    estimate: EstimateOption = False,
    yes: YesOption = False,
    install: InstallOption = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Train a compressor by a recipe; the same command goes on where it stopped.

    A new run is estimated first, by a few of its own steps. At a terminal you are asked whether to go on.

    Example: preread train compressor --recipe recipes/lloco-compressor-cpu.yaml --data texts --out runs/first
    """
    _installing(_train(recipe, data, out, model, estimate, yes, set_, json_), out, install, json_)


@train_app.command()
def cepe(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe.")],
    data: DataOption,
    out: OutOption = None,
    model: ModelOption = None,
    estimate: EstimateOption = False,
    yes: YesOption = False,
    install: InstallOption = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Train an encoder and cross-attention by a recipe; the same command goes on where it stopped.

    A new run is estimated first, by a few of its own steps. At a terminal you are asked whether to go on.

    Example: preread train cepe recipes/cepe-reader-cpu.yaml --data DATA --out runs/reader --install mine
    """
    _installing(_train(recipe, data, out, model, estimate, yes, set_, json_), out, install, json_)


@train_app.command()
def longlora(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe.")],
    data: DataOption,
    out: OutOption = None,
    model: ModelOption = None,
    estimate: EstimateOption = False,
    yes: YesOption = False,
    export: Annotated[
        Path | None, typer.Option(help="Folder for the decoder with its longer window, when the run is finished.")
    ] = None,
    fit: Annotated[
        bool, typer.Option("--fit", help="Choose levers, optimizer and the base's bits by this machine's memory.")
    ] = False,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Extend a decoder's window by a recipe; the same command goes on where it stopped.

    A new run is estimated first, by a few of its own steps. At a terminal you are asked whether to go on. With --export
    the result is an ordinary model folder, which any program loads and `--model` takes. With --fit the
    quickest settings are taken that have room here; say it again when the run goes on.

    Example: preread train longlora recipes/longlora-32k.yaml --data DATA --out runs/long --export models/long
    """
    if export:
        from preread.methods.longlora.export import expect_free, export_trained

        expect_free(export)  # before hours of training, not behind them
    outcome = _train(recipe, data, out, model, estimate, yes, set_, json_, fit)
    if out and export and outcome and outcome.finished:
        from preread.recipes import TRAINED

        say(f"exported to {export_trained(out / TRAINED, export)}")
    _report(outcome, json_)


@train_app.command()
def footprint(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe of longlora.")],
    model: ModelOption = None,
    devices: Annotated[int, typer.Option(min=1, help="Devices that share out weights and moments (FSDP).")] = 1,
    memory: Annotated[float | None, typer.Option(help="GB of each device: choose settings that fit it.")] = None,
    host: Annotated[float, typer.Option(help="GB of the host's memory for each device, to offload to.")] = 0.0,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Say how much memory a step of a recipe takes on a GPU, by kind; nothing is loaded but the decoder's config.

    Example: preread train footprint recipes/longlora-7b-100k.yaml --memory 80 --host 100
    """
    from preread import sizing

    chosen = _recipe(recipe, model, set_)
    if memory is None:
        emit(sizing.size(chosen, devices=devices), json_, lambda found: found.table)
        return
    room = sizing.Machine(round(memory * (1 - sizing.SPARE) * 1e9), round(host * 1e9), devices=devices)
    fitting, found = sizing.fitted(chosen, room)
    say(_levers(fitting))
    emit(found, json_, lambda found: found.table)


def _levers(recipe: Recipe) -> str:
    """What `--fit` chose, as what could be typed instead."""
    levers = json.dumps(recipe.settings["levers"])
    return (
        f"fitting: --model {recipe.model} --set training.optimizer={recipe.training.optimizer} "
        f"--set 'settings.levers={levers}'"
    )


def _installing(outcome: Outcome | None, out: Path | None, name: str | None, as_json: bool) -> None:
    """Report a run, whose result is put under a name where there is one."""
    from preread import recipes

    if out and name and outcome and outcome.finished:
        say(f"installed at {recipes.install(out, name)}")
    _report(outcome, as_json)


def _recipe(recipe: Path, model: str | None, changes: list[str] | None) -> Recipe:
    from preread.core.config import load
    from preread.recipes import Recipe

    return load(Recipe, recipe, [*(changes or []), *([f"model={json.dumps(model)}"] if model else [])])


def _train(
    recipe: Path,
    data: Path,
    out: Path | None,
    model: str | None,
    estimate: bool,
    yes: bool,
    changes: list[str] | None,
    as_json: bool,
    fit: bool = False,
) -> Outcome | None:
    """Run a recipe, or only say what that would cost; None where nothing was run, or another process tells of it."""
    from accelerate import PartialState

    from preread import recipes
    from preread.training.checkpoint import NAME

    chosen = _recipe(recipe, model, changes)
    if fit:
        from preread import sizing

        chosen, found = sizing.fitted(chosen, sizing.here())
        say(f"{_levers(chosen)}\n{found.table}")
    if estimate:
        emit(recipes.estimate(chosen, data), as_json, lambda found: found.line)
        return None
    if out is None:
        raise UsageError(
            expected="--out FOLDER, for what is trained and what it goes on from",
            got="none",
            consequence="Nothing was trained.",
            remedy="Add it, or --estimate to learn only what it costs.",
        )
    if not (yes or any(out.rglob(NAME))):  # of any phase
        say(recipes.estimate(chosen, data).line)
        if sys.stdin.isatty():
            typer.confirm("Train it?", abort=True, err=True)
    outcome = recipes.run(chosen, data, out)
    return outcome if PartialState().is_main_process else None  # of several processes one exports and tells


def _report(outcome: Outcome | None, as_json: bool) -> None:
    if outcome:
        emit(outcome, as_json, lambda o: f"step {o.step}, {'finished' if o.finished else 'stopped'}: {o.losses}")


@train_app.command()
def relevance(
    data: Annotated[Path, typer.Option(help="Folder of the question sets.")],
    out: Annotated[Path, typer.Option(help="JSON file for the fit; the shipped one is retrieval/relevance.json.")],
    seed: Annotated[int, typer.Option(help="Of the questions and documents drawn.")] = 0,
    json_: JsonOption = False,
) -> None:
    """Fit how likely documents hold an answer by what a search finds, on questions with and without their documents.

    Example: preread train relevance --data DATA --out relevance.json
    """
    from preread.bench.holdings import default_tokenizer
    from preread.bench.relevance import fit
    from preread.retrieval.embedder import Embedder

    fitted = fit(data, default_tokenizer(), Embedder(), seed)
    out.write_text(json.dumps(fitted, indent=2) + "\n", encoding="utf-8")
    emit(fitted, json_, lambda found: f"fitted on {found['how']['questions']} questions: {out}")
