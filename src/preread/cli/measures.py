"""Measuring: `bench`."""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from preread.cli.app import JsonOption, SetOption, bench_app, emit, say

if TYPE_CHECKING:
    from preread.bench.figures import Figure


@bench_app.command()
def cpu(
    out: Annotated[Path, typer.Option(help="JSON lines of figures.")] = Path("results/figures.jsonl"),
    repeats: Annotated[int, typer.Option(help="Runs of each kind.")] = 5,
    seed: Annotated[int, typer.Option(help="Of text and embeddings.")] = 0,
    json_: JsonOption = False,
) -> None:
    """Measure first token and decoding on this CPU: memory against text, the same engine, the same cache.

    Example: preread bench cpu --out results/figures.jsonl
    """
    from preread.bench.measure import cpu_figures

    _measure(cpu_figures, seed, repeats, out, json_)


@bench_app.command()
def engine(
    out: Annotated[Path, typer.Option(help="JSON lines of figures.")] = Path("results/figures.jsonl"),
    repeats: Annotated[int, typer.Option(help="Runs of each kind.")] = 5,
    seed: Annotated[int, typer.Option(help="Of prompts and adapters.")] = 0,
    json_: JsonOption = False,
) -> None:
    """Measure what a batch of mixed adapters costs on this CPU, and a switch to another adapter.

    Example: preread bench engine --out results/figures.jsonl
    """
    from preread.bench.engine import engine_figures

    _measure(engine_figures, seed, repeats, out, json_)


def _measure(figures_of: Callable[..., list[Figure]], seed: int, repeats: int, out: Path, as_json: bool) -> None:
    """Take figures of the default decoder on this CPU, publish and print them."""
    from preread import render
    from preread.bench.figures import publish
    from preread.core.progress import progress
    from preread.models.loading import load

    with progress("measuring", repeats) as advance:
        figures = figures_of(load("default", device="cpu"), seed, repeats, advance)
    publish(figures, out)
    emit([asdict(figure) for figure in figures], as_json, render.figures)


@bench_app.command()
def retrieval(
    data: Annotated[Path, typer.Option(help="Folder of the question sets.")],
    out: Annotated[Path, typer.Option(help="JSON lines of figures.")] = Path("results/figures.jsonl"),
    questions: Annotated[int, typer.Option(help="Most questions of a collection that are routed.")] = 60,
    seed: Annotated[int, typer.Option(help="Of the questions and documents drawn.")] = 0,
    json_: JsonOption = False,
) -> None:
    """Measure whether the right passage and collection are found, and questions without an answer known for such.

    Example: preread bench retrieval --data DATA --out results/figures.jsonl
    """
    from preread import render
    from preread.bench.figures import publish
    from preread.bench.holdings import default_tokenizer
    from preread.bench.retrieval import retrieval_figures
    from preread.retrieval.embedder import Embedder

    figures = retrieval_figures(data, default_tokenizer(), Embedder(), seed, questions)
    publish(figures, out)
    emit([asdict(figure) for figure in figures], json_, render.figures)


@bench_app.command()
def gate(
    data: Annotated[Path, typer.Option(help="Folder with qa/ and text/.")],
    out: Annotated[Path, typer.Option(help="JSON lines of figures.")] = Path("results/figures.jsonl"),
    method: Annotated[str, typer.Option(help="Whose memories the adapter learns to read (lloco, kv).")] = "lloco",
    documents: Annotated[int, typer.Option(min=1, help="Stories that are studied.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Of the study.")] = 60,
    split: Annotated[str, typer.Option(help="test, or valid to choose settings.")] = "test",
    stretches: Annotated[int, typer.Option(min=1, help="Of each document of running text.")] = 4,
    questions: Annotated[int, typer.Option(min=0, help="About the world.")] = 200,
    folder: Annotated[
        Path | None, typer.Option(help="Library that is studied in, kept so that a stopped run goes on.")
    ] = None,
    set_: SetOption = None,
    rates: Annotated[bool, typer.Option("--rates", help="Only how often gates accept and refuse; no decoder.")] = False,
    json_: JsonOption = False,
) -> None:
    """Measure what an adapter costs on text that it was not studied for, forced on and behind its gate.

    With --rates: how often the gates of eight question sets accept their own questions and refuse the others'.

    Example: preread bench gate --data DATA --steps 60 --folder runs/gate --out results/figures.jsonl
    """
    from preread import render
    from preread.bench.figures import publish
    from preread.bench.gate import GateConfig, gate_figures

    if rates:
        from preread.bench.gate_rates import gate_rates
        from preread.bench.holdings import default_tokenizer
        from preread.retrieval.embedder import Embedder

        found = gate_rates(data / "qa", default_tokenizer(), Embedder())
        emit([asdict(one) for one in found], json_, render.gate_rates)
        return
    config = GateConfig(method, documents, steps, split, stretches, questions, tuple(set_ or ()))
    with tempfile.TemporaryDirectory() as passing:
        figures = gate_figures(data, folder or Path(passing), config)
    publish(figures, out)
    emit([asdict(figure) for figure in figures], json_, render.figures)


@bench_app.command()
def metrics(
    out: Annotated[Path, typer.Option(help="JSON lines of figures.")] = Path("results/figures.jsonl"),
    pairs: Annotated[int, typer.Option(min=1, help="Pairs for each metric of each library.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the pairs.")] = 0,
    json_: JsonOption = False,
) -> None:
    """Check the metrics of an evaluation against the libraries that have them too, on random pairs.

    Example: preread bench metrics --pairs 200 --out results/figures.jsonl
    """
    from preread import render
    from preread.bench.figures import Figure, publish
    from preread.core.provenance import commit
    from preread.demo import BOOK
    from preread.eval.metric_check import check

    at = commit()  # before anything runs: the tree may change meanwhile
    found = check(BOOK.read_text(encoding="utf-8"), pairs, seed)
    for one in found.mismatches:
        say(f"{one.metric} is {one.ours} here, {one.theirs} in {one.library}: {one.answer!r} for {one.references}")
    figure = Figure(
        "eval.metric_mismatches",
        value=len(found.mismatches),
        low=len(found.mismatches),
        high=len(found.mismatches),
        unit="pairs",
        n=found.compared,
        recipe=f"{pairs} pairs for each metric of each library: spans of the demo's book, changed; seed {seed}",
        command=shlex.join(["preread", *sys.argv[1:]]),
        note=f"against {', '.join(found.libraries)}; a mismatch is more than 1e-9, in float32 (torchmetrics) 1e-4",
        commit=at,
    )
    publish([figure], out)
    emit([asdict(figure)], json_, render.figures)


@bench_app.command()
def s2(
    out: Annotated[Path, typer.Option(help="JSON lines of figures.")] = Path("results/figures.jsonl"),
    repeats: Annotated[int, typer.Option(min=1, help="Timings of each length.")] = 5,
    seed: Annotated[int, typer.Option(help="Of weights and inputs.")] = 0,
    json_: JsonOption = False,
) -> None:
    """Check shifted sparse attention against its definition on this CPU, and measure what it saves.

    Example: preread bench s2 --out results/figures.jsonl
    """
    from preread import render
    from preread.bench.figures import publish
    from preread.bench.s2 import STEPS, s2_figures
    from preread.core.progress import progress

    with progress("measuring", STEPS) as advance:
        figures = s2_figures(seed, repeats, advance)
    publish(figures, out)
    emit([asdict(figure) for figure in figures], json_, render.figures)


@bench_app.command("s2-step")
def s2_step(
    length: Annotated[list[int] | None, typer.Option(help="Tokens of the row; may be repeated.")] = None,
    shape: Annotated[str, typer.Option(help="Of the decoder: llama-2-7b, or tiny for a try on a CPU.")] = "llama-2-7b",
    backend: Annotated[str, typer.Option(help="Of both attentions: auto, sdpa, flex or varlen.")] = "auto",
    out: Annotated[Path, typer.Option(help="JSON lines of figures.")] = Path("results/figures.jsonl"),
    repeats: Annotated[int, typer.Option(min=1, help="Timed steps of each kind.")] = 3,
    seed: Annotated[int, typer.Option(help="Of weights and tokens.")] = 0,
    json_: JsonOption = False,
) -> None:
    """Measure what a training step gains by shifted sparse attention, beside the most that it could; on a GPU.

    Without --length: 16384 and 65536 tokens.

    Example: preread bench s2-step --length 16384 --out results/figures.jsonl
    """
    from preread import render
    from preread.bench.figures import publish
    from preread.bench.s2_step import step_figures
    from preread.core.progress import progress

    lengths = length or [16384, 65536]
    with progress("measuring", 2 * (repeats + 1) * len(lengths)) as advance:
        figures = step_figures(shape, lengths, backend, repeats, seed, advance)
    publish(figures, out)
    emit([asdict(figure) for figure in figures], json_, render.figures)


@bench_app.command("memory-ladder")
def memory_ladder(
    work: Annotated[Path, typer.Option(help="Folder for the results; a stopped ladder goes on there.")],
    shape: Annotated[str, typer.Option(help="Folder with a config.json; weights are made up.")] = (
        "recipes/shapes/llama-3-8b"
    ),
    memory: Annotated[float, typer.Option(help="GB of the device that may be taken.")] = 80,
    host: Annotated[float, typer.Option(help="GB of the host's memory that may be taken.")] = 110,
    grain: Annotated[int, typer.Option(min=2, help="Rows are multiples of this many tokens.")] = 4096,
    measure: Annotated[bool, typer.Option(help="Take real steps, or only estimate them.")] = True,
    out: Annotated[Path, typer.Option(help="JSON lines of figures.")] = Path("results/figures.jsonl"),
    json_: JsonOption = False,
) -> None:
    """Find the longest row of which one step fits, lever by lever of memory, beside what was estimated.

    Example: preread bench memory-ladder --work runs/ladder --out results/figures.jsonl
    """
    from preread.bench.figures import publish
    from preread.bench.memory_ladder import LadderConfig, climb, ladder_figures

    config = LadderConfig(shape, round(memory * 1e9), round(host * 1e9), grain)
    climbed = climb(config, work, measure)
    figures = ladder_figures(config, climbed, shlex.join(["preread", *sys.argv[1:]]))
    if figures:
        publish(figures, out)
    emit([asdict(one) for one in climbed], json_, lambda rows: "\n".join(map(_rung, rows)))


def _rung(row: dict[str, int]) -> str:
    """A line of the ladder."""
    line = f"{row['rung']:<28}{row['expected']:>10,} tokens estimated"
    if not row["peak"]:
        return line
    return f"{line}, {row['length']:>10,} taken with {row['peak'] / 1e9:.2f} GB, {row['estimated'] / 1e9:.2f} estimated"


@bench_app.command("window-grid")
def window_grid(
    data: Annotated[Path, typer.Option(help="Folder that the recipe's files are in.")],
    work: Annotated[Path, typer.Option(help="Folder of the decoder and of every arm; a stopped grid goes on there.")],
    recipe: Annotated[Path, typer.Option(help="YAML of the grid.")] = Path("recipes/longlora-grid.yaml"),
    out: Annotated[Path, typer.Option(help="JSON lines of figures.")] = Path("results/figures.jsonl"),
    table: Annotated[Path, typer.Option(help="JSON file for all arms.")] = Path("results/longlora-grid.json"),
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Extend a small decoder's window by every arm of a grid, and compare the arms on books that none has seen.

    Example: preread bench window-grid --data DATA --work runs/grid
    """
    from preread import render
    from preread.bench.figures import publish
    from preread.bench.window_grid import GridConfig, grid_figure, record, run_grid
    from preread.core.config import load

    command = shlex.join(["preread", *sys.argv[1:]])
    config = load(GridConfig, recipe, set_ or [])
    found = run_grid(config, data, work)
    if found is None:
        say("stopped at the given minutes; the same command goes on")
        return
    written = record(config, found, command)
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    publish([grid_figure(config, found, str(recipe), command)], out)
    emit(written, json_, render.window_grid)
