"""Documents in and out: `add`, `cancel`, `list`, `show`, `forget`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from preread.cli.app import (
    CollectionOption,
    JsonOption,
    LibraryOption,
    MethodOption,
    app,
    complain,
    emit,
    open_collection,
    typed,
)
from preread.core.errors import UsageError

if TYPE_CHECKING:
    from preread.collection.settings import Settings

DECIDED = ("model", "method", "ratio", "segments", "set_", "window")
"""What is decided once for a collection."""


@app.command()
def add(
    context: typer.Context,
    paths: Annotated[list[str], typer.Argument(help="Files, folders (with all below them) and web addresses.")],
    collection: CollectionOption = "default",
    library: LibraryOption = None,
    model: Annotated[str | None, typer.Option(help="Decoder: default, a folder or a hub id. New collections.")] = None,
    method: MethodOption = None,
    ratio: Annotated[float | None, typer.Option(help="Tokens a summary embedding stands for. New collections.")] = None,
    segments: Annotated[str | None, typer.Option(help="independent or recursive. New collections.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="One of the method's settings, as moved=0; may be repeated. New collections."),
    ] = None,
    window: Annotated[
        int | None, typer.Option(min=1, help="Positions that the decoder reads, fewer than its own. New collections.")
    ] = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Forget what is gone from a folder, even if that is most of it.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    json_: JsonOption = False,
) -> None:
    """Read documents and keep their memories; take over what folders hold now: new, changed and removed files.

    Ctrl-C ends it after the batch in hand, and the same command goes on from there.

    Example: preread add report.pdf notes/ --collection work --ratio 16
    """
    from preread import render
    from preread.library import Library

    options = {"ratio": ratio, "segments": segments}
    settings: Settings | None = _settings(context, model, method, options, set_ or [], window)
    opened = Library(library)
    if opened.store.documents(collection) and not any(typed(context, name) for name in DECIDED):
        settings = None  # what is configured is for new collections
    target = opened.collection(collection, settings)
    result = target.sync(
        paths,
        remove,
        dry_run,
        on_added=lambda added: emit(added, json_, render.added),
        on_failed=lambda source, error: complain(error, json_, source),
    )
    if dry_run or len(paths) > 1 or Path(paths[0]).is_dir() or result.forgotten:
        emit(result, json_, lambda synced: render.synced(synced, dry_run))
    if result.kept:
        complain(_too_many_gone(result.kept), json_)
    if result.failed or result.kept:
        raise typer.Exit(1)


@app.command()
def cancel(library: LibraryOption = None, json_: JsonOption = False) -> None:
    """Ask every running `add` of the library to end after the batch it has in hand.

    Example: preread cancel
    """
    from preread import render
    from preread.store.store import Store

    jobs = Store(_library(library)).jobs.cancel()
    emit({"cancelled": jobs}, json_, lambda _: render.cancelled(jobs))


@app.command(name="list")
def list_(
    only: Annotated[str | None, typer.Option("--collection", "-c", help="Only this one.")] = None,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """List collections and their documents: learned, queued, being read, stale or failed, and why.

    Example: preread list
    """
    from preread import render
    from preread.collection.states import statuses
    from preread.store.store import Store

    found = statuses(Store(_library(library)), only)
    emit([asdict(status) for status in found] if json_ else found, json_, render.statuses)


@app.command()
def show(
    document: Annotated[str, typer.Argument(help="The document's path, as `preread list` shows it.")],
    collection: CollectionOption = "default",
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """Show a document's passages, where they stand, which of them stay text, and how they begin.

    Example: preread show report.pdf --collection work
    """
    from preread import render
    from preread.collection.as_text import AsText, place

    target = open_collection(library, collection)
    stay = AsText(target.store, target.name).places()
    found = [one.passage for one in target.store.passages(target.name, target.entry(document).source)]
    emit([asdict(one) | {"as_text": place(one) in stay} for one in found], json_, render.passages)


@app.command()
def forget(
    documents: Annotated[list[str] | None, typer.Argument(help="Paths, as `preread list` shows them.")] = None,
    collection: CollectionOption = "default",
    all_: Annotated[bool, typer.Option("--all", help="All of the collection, and the collection itself.")] = False,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """Remove documents, their memories and the adapters taught from them, and search the disk for what may be left.

    Example: preread forget report.pdf --collection work
    """
    from preread import render

    if bool(documents) == all_:
        raise UsageError(
            expected="documents to forget, or --all for the whole collection",
            got="both" if all_ else "neither",
            consequence="Nothing was forgotten.",
            remedy="`preread list` shows what the library holds.",
        )
    target = open_collection(library, collection)
    emit(target.forget(*documents) if documents else target.forget_all(), json_, render.receipt)


def _settings(
    context: typer.Context,
    model: str | None,
    method: str | None,
    options: dict[str, Any],
    overrides: list[str],
    window: int | None,
) -> Settings:
    """Settings of a new collection; a configured option that the method does not have is for other methods."""
    from preread.collection.settings import Settings, known
    from preread.core.config import overridden

    bare = Settings()
    has = known(method or bare.method).__dataclass_fields__
    own = {key: value for key, value in options.items() if value is not None and (key in has or typed(context, key))}
    return Settings(model or bare.model, method or bare.method, overridden(own, overrides), window=window)


def _library(library: Path | None) -> Path:
    from preread.core.paths import data_home

    return library or data_home() / "library"


def _too_many_gone(kept: list[str]) -> UsageError:
    return UsageError(
        expected="at least half of the folder's documents to be there still",
        got=f"{len(kept)} whose files are gone, such as {kept[0]}",
        consequence="They were kept, in case a disk is not mounted or a folder was moved.",
        remedy="Add the folder again with --remove to forget them.",
    )
