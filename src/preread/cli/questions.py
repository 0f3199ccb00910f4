"""Questions: `ask`, `study`, `demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from preread.cli.app import (
    AdapterOption,
    AnyCollectionOption,
    CollectionOption,
    JsonOption,
    LibraryOption,
    MaxTokensOption,
    MethodOption,
    ModeOption,
    PassagesOption,
    SetOption,
    StrictOption,
    app,
    emit,
    open_collection,
    say,
    write,
)

WITHHELD = 3
"""Exit code where a bar of quality was not reached: `--strict` let no answer be written, or an adapter did not help."""
UNFINISHED = 130
"""Exit code where the minutes were over first; the same command goes on."""


@app.command(name="study")
def study_(
    collection: CollectionOption = "default",
    questions: Annotated[Path | None, typer.Option(help="Labelled questions, JSON lines.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Stop after this long; the same command goes on.")] = None,
    tokens: Annotated[int | None, typer.Option(help="About how many tokens to read in all; decides the steps.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    set_: SetOption = None,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """Teach the collection's adapter to answer from its memories, and use it if it helps on others than it was taught.

    Nothing has to be labelled: questions are made by templates and by the model, which answers them from the text.
    Ctrl-C or the end of the minutes (exit code 130) loses nothing: the same command goes on. Where the adapter does
    not help, it is not used, and the exit code is 3.

    Example: preread study --collection work --minutes 30
    """
    from preread import render_study
    from preread.collection.lessons import StudyConfig
    from preread.core.config import build
    from preread.data.questions import read

    short = {"training.minutes": minutes, "training.steps": steps, "tokens": tokens}
    overrides = [f"{key}={value}" for key, value in short.items() if value is not None] + (set_ or [])
    target = open_collection(library, collection)
    labelled = read(questions) if questions else []
    studied = target.study(labelled, build(StudyConfig, {}, overrides))
    emit(studied, json_, render_study.studied)
    if not studied.published:
        raise typer.Exit(UNFINISHED if studied.verdict is None else WITHHELD if studied.lost else 1)


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="The question.")],
    collection: AnyCollectionOption = None,
    method: MethodOption = None,
    mode: ModeOption = None,
    passages: PassagesOption = 5,
    stream: Annotated[bool, typer.Option("--stream", help="Print the answer as it is written.")] = False,
    strict: StrictOption = False,
    adapter: AdapterOption = "auto",
    max_tokens: MaxTokensOption = 128,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Smallest set of tokens with this probability.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Makes a drawn answer repeatable.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="A string that ends the answer; may be repeated.")] = None,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """Answer a question from a collection, with citations, what was read and what it cost.

    Without --collection the question goes to the collection whose documents most likely hold the answer. Where none
    seems to, the answer begins by saying so; with --strict there is none, and the exit code is 3.

    Example: preread ask "Who may end the contract?" --collection work --stream
    """
    from preread import render
    from preread.collection.adapters import choice_of
    from preread.core.types import Sampling
    from preread.library import Library

    sampling = Sampling(max_tokens, temperature, top_p, seed=seed, stop=tuple(stop or ()))
    live = stream and not json_
    asked = open_collection(library, collection) if collection is not None else Library(library)
    answer = asked.ask(
        question,
        method,
        mode_of(mode),
        passages,
        sampling,
        write if live else lambda _: None,
        strict=strict,
        on_doubt=(lambda doubt: write(doubt + "\n")) if live else lambda _: None,
        adapter=choice_of(adapter),
    )
    emit(answer, json_, lambda a: "\n" + render.sources(a) if live else render.answer(a))
    if answer.finish == "withheld":
        raise typer.Exit(WITHHELD)


@app.command(name="demo")
def demo_(
    steps: Annotated[int, typer.Option(help="Steps of study.")] = 30,
    folder: Annotated[Path | None, typer.Option(help="Library of the demo.")] = None,
    json_: JsonOption = False,
) -> None:
    """Learn a shipped book, study it, and ask it three questions by every method, side by side.

    Example: preread demo
    """
    from preread import render
    from preread.collection.lessons import StudyConfig
    from preread.core.config import build
    from preread.demo import demo

    config = build(StudyConfig, {}, [f"training.steps={steps}", "written=0", "general=0"])  # it must not take long
    emit(demo(config, say, folder), json_, render.demo)


def mode_of(mode: str | None) -> Any:
    """A mode by name.

    Raises:
        UsageError: there is no such mode.
    """
    from preread.core.errors import UsageError

    if mode not in (None, "document", "passages", "hybrid"):
        raise UsageError("a mode (document, passages, hybrid)", mode, "Nothing was asked.", "Choose one of them.")
    return mode
