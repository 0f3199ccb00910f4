"""What a memory kept of each page: `quiz`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from preread.cli.app import CollectionOption, JsonOption, LibraryOption, app, emit, open_collection

BELOW = 3
"""Exit code where memory keeps less than it should: a bar of quality was not reached."""


@app.command(name="quiz")
def quiz_(
    document: Annotated[str | None, typer.Argument(help="One document, as `preread list` shows it.")] = None,
    collection: CollectionOption = "default",
    questions: Annotated[Path | None, typer.Option(help="Labelled questions beside others, JSON lines.")] = None,
    per_page: Annotated[int, typer.Option(help="Questions from each page; every passage of it has one at least.")] = 4,
    minutes: Annotated[float | None, typer.Option(help="Stop after this long; the next call goes on.")] = None,
    min_kept: Annotated[float, typer.Option(help="The share that memory should keep; below it exit code 3.")] = 0.8,
    keep_text: Annotated[float, typer.Option(help="Most of the tokens, in %, that stay text from now on.")] = 10.0,
    adapter: Annotated[bool, typer.Option("--adapter", help="Read memory with the collection's adapter.")] = False,
    clear: Annotated[bool, typer.Option("--clear", help="Ask nothing, and have no passage stay text.")] = False,
    html: Annotated[Path | None, typer.Option(help="HTML page of the map to write.")] = None,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """Ask about every page, and map what its memory kept of what the text tells; the weakest passages stay text.

    Questions are drawn from the text, and the right answer's likelihood is taken behind the text, behind its memory
    and behind nothing. Passages below the bar are read as text by `ask` from then on, where a search finds them.
    Answers are kept: a quiz that was interrupted goes on, and only a memory that changed is asked again.

    Example: preread quiz report.pdf --collection work --min-kept 0.8 --html map.html
    """
    from preread import kept_map, render
    from preread.collection.as_text import AsText
    from preread.collection.quiz import QuizConfig, quiz
    from preread.data.questions import read

    target = open_collection(library, collection)
    if clear:
        source = None if document is None else [target.entry(document).source]
        cleared = AsText(target.store, target.name).clear(source)
        emit({"cleared": cleared}, json_, lambda _: f"{render.count(cleared, 'passage')} no longer stay text")
        return
    labelled = read(questions) if questions else []
    config = QuizConfig(per_page, minutes, min_kept, keep_text / 100, adapter)
    found = quiz(target, document, labelled, config)
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(kept_map.page(found), encoding="utf-8")
    emit(found, json_, lambda it: kept_map.lines(it) + (f"\nThe page is at {html}" if html else ""))
    if found.passed is False:
        raise typer.Exit(BELOW)
