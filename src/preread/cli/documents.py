"""Documents in and out: `add`, `list`, `show`, `forget`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from preread.cli.app import CollectionOption, JsonOption, LibraryOption, app, complain, emit, open_collection, typed
from preread.core.errors import PrereadError


@app.command()
def add(
    context: typer.Context,
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
    opened = Library(library)
    if opened.store.documents(collection) and not any(typed(context, name) for name in ("model", "ratio", "segments")):
        settings = None  # what is configured is for new collections
    target = opened.collection(collection, settings)
    failed: PrereadError | None = None
    for file in files:
        try:
            emit(target.add(file), json_, render.added)
        except PrereadError as error:  # one bad file does not stop the others
            failed = error
            complain(error, json_, about=str(file))
    if failed is not None:
        raise typer.Exit(failed.exit_code)


@app.command(name="list")
def list_(
    only: Annotated[str | None, typer.Option("--collection", "-c", help="Only this one.")] = None,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """List collections and their documents.

    Example: preread list
    """
    from preread import render
    from preread.core.paths import data_home
    from preread.store.store import Store

    entries = Store(library or data_home() / "library").documents(only)
    emit([asdict(entry) for entry in entries], json_, render.entries)


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

    target = open_collection(library, collection)
    stored = [asdict(s.passage) for s in target.store.passages(target.name, target.entry(document).source)]
    emit(stored, json_, render.passages)


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

    emit(open_collection(library, collection).forget(document), json_, render.receipt)
