"""The command line: one call a command, results on stdout, progress and errors on stderr."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.exceptions import TyperException

from preread.core.errors import PrereadError, PrereadWarning

if TYPE_CHECKING:
    from preread.library import Collection

app = typer.Typer(
    help="Let a language model read long documents once, ahead of time; ask a thousand times, cheaply.",
    no_args_is_help=True,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
)
train_app = typer.Typer(help="Train what preread ships or you ship with it.", no_args_is_help=True)
app.add_typer(train_app, name="train")
bench_app = typer.Typer(help="Measure, on this machine.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")

INTERRUPTED = 130
LibraryOption = Annotated[
    Path | None, typer.Option("--library", envvar="PREREAD_LIBRARY", help="Folder of the library.")
]
CollectionOption = Annotated[str, typer.Option("--collection", "-c", help="Name of the collection.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, a line a result.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Change one key, as a.b=value; may be repeated.")]


@app.callback()
def version(
    shown: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Let a language model read long documents once, ahead of time; ask a thousand times, cheaply."""
    if shown:
        sys.stdout.write(f"preread {importlib.metadata.version('preread')}\n")
        raise typer.Exit


def _collection(library: Path | None, name: str) -> Collection:
    from preread.library import Library

    return Library(library).collection(name)


def _print(result: Any, as_json: bool, human: Callable[[Any], str]) -> None:
    """A result on stdout: one JSON object, or text for people."""
    plain = asdict(result) if is_dataclass(result) and not isinstance(result, type) else result
    sys.stdout.write(json.dumps(plain, default=str, ensure_ascii=False) if as_json else human(result))
    sys.stdout.write("\n")


@app.command()
def add(
    files: Annotated[list[Path], typer.Argument(help="Files: .txt, .md, .html, .pdf.")],
    collection: CollectionOption = "default",
    library: LibraryOption = None,
    model: Annotated[str | None, typer.Option(help="Decoder: default, a folder or a hub id. New collections.")] = None,
    ratio: Annotated[float | None, typer.Option(help="Tokens a summary embedding stands for. New collections.")] = None,
    segments: Annotated[str | None, typer.Option(help="independent or recursive. New collections.")] = None,
    json_: JsonOption = False,
) -> None:
    """Read documents and keep their memories.

    Example: preread add report.pdf notes.md --collection work --ratio 16
    """
    from preread import render
    from preread.library import Library
    from preread.settings import Settings

    options = {k: v for k, v in {"ratio": ratio, "segments": segments}.items() if v is not None}
    settings = Settings(model=model or "default", options=options) if options or model else None
    target = Library(library).collection(collection, settings)
    failed: PrereadError | None = None
    for file in files:
        try:
            _print(target.add(file), json_, render.added)
        except PrereadError as error:  # one bad file does not stop the others
            failed = error
            _say(f"{file}: {error}")
    if failed is not None:
        raise typer.Exit(failed.exit_code)


@app.command(name="study")
def study_(
    collection: CollectionOption = "default",
    questions: Annotated[Path | None, typer.Option(help="Labelled questions, JSON lines.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Stop after this long; the next call goes on.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    set_: SetOption = None,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """Teach the collection's adapter to answer from its memories.

    Example: preread study --collection work --steps 200
    """
    from preread import render
    from preread.core.config import build
    from preread.data.questions import read
    from preread.lessons import StudyConfig

    short = {"training.minutes": minutes, "training.steps": steps}
    overrides = [f"{key}={value}" for key, value in short.items() if value is not None] + (set_ or [])
    target = _collection(library, collection)
    labelled = read(questions) if questions else []
    _print(target.study(labelled, build(StudyConfig, {}, overrides)), json_, render.studied)


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="The question.")],
    collection: CollectionOption = "default",
    method: Annotated[str | None, typer.Option(help="text or lloco; by default the collection's own.")] = None,
    mode: Annotated[str | None, typer.Option(help="document or passages; by default what the memory allows.")] = None,
    passages: Annotated[int, typer.Option(help="Passages to cite, and to read in mode passages.")] = 5,
    stream: Annotated[bool, typer.Option("--stream", help="Print the answer as it is written.")] = False,
    max_tokens: Annotated[int, typer.Option(help="Most tokens of the answer.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Smallest set of tokens with this probability.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Makes a drawn answer repeatable.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="A string that ends the answer; may be repeated.")] = None,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """Answer a question from a collection, with citations and what it cost.

    Example: preread ask "Who may end the contract?" --collection work --stream
    """
    from preread import render
    from preread.core.types import Sampling

    sampling = Sampling(max_tokens, temperature, top_p, seed=seed, stop=tuple(stop or ()))
    live = stream and not json_
    answer = _collection(library, collection).ask(
        question, method, _mode(mode), passages, sampling, _write if live else lambda _: None
    )
    _print(answer, json_, lambda a: ("\n" if live else f"{a.text}\n") + render.sources(a))


@app.command(name="list")
def list_(
    collection: Annotated[str | None, typer.Option("--collection", "-c", help="Only this one.")] = None,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """List collections and their documents.

    Example: preread list
    """
    from preread import render
    from preread.core.paths import data_home
    from preread.store.store import Store

    entries = Store(library or data_home() / "library").documents(collection)
    _print([asdict(entry) for entry in entries], json_, render.entries)


@app.command()
def show(
    document: Annotated[str, typer.Argument(help="The document's path, as `preread list` shows it.")],
    collection: CollectionOption = "default",
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """Show a document's passages, where they stand and how they begin.

    Example: preread show report.pdf --collection work
    """
    from preread import render

    target = _collection(library, collection)
    stored = [asdict(s.passage) for s in target.store.passages(target.name, target.entry(document).source)]
    _print(stored, json_, render.passages)


@app.command()
def forget(
    document: Annotated[str, typer.Argument(help="The document's path, as `preread list` shows it.")],
    collection: CollectionOption = "default",
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """Remove a document, its memories and the adapters taught from it.

    Example: preread forget report.pdf --collection work
    """
    from preread import render

    _print(_collection(library, collection).forget(document), json_, render.receipt)


@train_app.command()
def compressor(
    recipe: Annotated[Path, typer.Option(help="YAML recipe.")],
    data: Annotated[Path, typer.Option(help="Folder that the recipe's files are in.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, log and the result.")],
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Train a compressor by a recipe; the same command goes on where it stopped.

    Example: preread train compressor --recipe recipes/lloco-compressor-first.yaml --data texts --out runs/first
    """
    from preread.core.config import load
    from preread.recipes import Recipe, run

    outcome = run(load(Recipe, recipe, set_ or []), data, out)
    _print(outcome, json_, lambda o: f"step {o.step}, {'finished' if o.finished else 'stopped'}: {o.losses}")


@app.command(name="demo")
def demo_(
    steps: Annotated[int, typer.Option(help="Steps of study.")] = 30,
    folder: Annotated[Path | None, typer.Option(help="Library of the demo.")] = None,
    json_: JsonOption = False,
) -> None:
    """Learn a shipped book, study it, and ask it three questions by two methods, side by side.

    Example: preread demo
    """
    from preread import render
    from preread.core.config import build
    from preread.demo import demo
    from preread.lessons import StudyConfig

    config = build(StudyConfig, {}, [f"training.steps={steps}"])
    _print(demo(config, _say, folder), json_, render.demo)


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
    from preread import render
    from preread.bench.figures import publish
    from preread.bench.measure import cpu_figures
    from preread.core.progress import progress
    from preread.models.loading import load

    with progress("measuring", repeats) as advance:
        figures = cpu_figures(load("default", device="cpu"), seed, repeats, advance)
    publish(figures, out)
    _print([asdict(figure) for figure in figures], json_, render.figures)


@bench_app.command()
def memory(
    data: Annotated[Path, typer.Option(help="Question set, JSON lines (.gz, .xz).")],
    ratio: Annotated[list[float], typer.Option(help="May be repeated.")],
    method: Annotated[str, typer.Option(help="A method that makes memories.")] = "lloco",
    compressor: Annotated[Path | None, typer.Option(help="A compressor's folder; by default the shipped one.")] = None,
    documents: Annotated[int, typer.Option(help="Documents.")] = 20,
    questions: Annotated[int, typer.Option(help="Questions a document.")] = 4,
    characters: Annotated[int, typer.Option(help="Longest document.")] = 8000,
    model: Annotated[str, typer.Option(help="Decoder: default, a folder or a hub id.")] = "default",
    out: Annotated[
        Path | None, typer.Option(help="JSON file for the result, with what is needed to repeat it.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Measure how much of what a text tells the decoder its memory tells it, by the likelihood of reference answers.

    Example: preread bench memory --data qa/fairytaleqa.val.jsonl.gz --ratio 4 --ratio 30
    """
    from preread import render
    from preread.bench.recovery import exams, recovery, write
    from preread.core.config import build
    from preread.core.provenance import commit
    from preread.models.loading import load
    from preread.settings import known

    at = commit()  # before anything runs: the tree may change meanwhile
    decoder, chosen = load(model), exams(data, documents, questions, characters)
    options = {"compressor": str(compressor)} if compressor else {}
    rows = [recovery(decoder, build(known(method), {"ratio": tokens, **options}), chosen) for tokens in ratio]
    table = [{**asdict(r), "share": r.share, "other_share": r.other_share} for r in rows]
    if out is not None:
        command = shlex.join(["preread", *sys.argv[1:]])
        write(out, table, f"{method} on {decoder.name}, {decoder.note}", str(compressor or "as shipped"), command, at)
    _print(table, json_, render.recoveries)


def _unforeseen(error: Exception) -> int:
    """Say what went wrong where no error of ours was raised; its exit code."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        what = "disk" if full else "memory"
        _say(f"preread: out of {what} ({error}); what was stored is untouched. Free some, or take a smaller document.")
        return 4
    if os.environ.get("PREREAD_DEBUG"):
        traceback.print_exc()
    kind = "a file could not be used" if isinstance(error, OSError) else "something unforeseen happened"
    _say(f"preread: {kind}: {type(error).__name__}: {error}. Set PREREAD_DEBUG=1 to see where, and report it.")
    return 1


def _mode(mode: str | None) -> Any:
    from preread.core.errors import UsageError

    if mode not in (None, "document", "passages"):
        raise UsageError("a mode (document, passages)", mode, "Nothing was asked.", "Choose one of the two.")
    return mode


def _write(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


def main() -> None:
    """Run the command line; every error a user can meet is one message and an exit code."""
    warnings.filterwarnings("ignore")
    warnings.filterwarnings("always", category=PrereadWarning)
    warnings.showwarning = lambda message, *_args, **_kwargs: _say(f"warning: {message}")
    try:
        code = app(standalone_mode=False) or 0
    except PrereadError as error:
        _say(f"preread: {error}")
        code = error.exit_code
    except TyperException as error:  # a mistake on the command line itself
        error.show()  # type: ignore[attr-defined]  # its subclasses have it, all of them
        code = error.exit_code
    except Exception as error:  # a stack trace never meets a user
        code = _unforeseen(error)
    if code == INTERRUPTED:  # typer makes this of Ctrl-C
        _say("preread: interrupted; what was finished is kept, and the same command goes on from there.")
    sys.exit(code)
