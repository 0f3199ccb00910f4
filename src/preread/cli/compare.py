"""One question by every method: `compare`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from preread.cli.app import CollectionOption, JsonOption, LibraryOption, app, emit, open_collection
from preread.cli.questions import mode_of


@app.command()
def compare(
    question: Annotated[str, typer.Argument(help="The question.")],
    out: Annotated[Path, typer.Option(help="HTML page to write.")],
    collection: CollectionOption = "default",
    mode: Annotated[
        str | None, typer.Option(help="document, passages or hybrid; by default what each memory allows.")
    ] = None,
    passages: Annotated[int, typer.Option(help="Passages to cite, and to read in mode passages.")] = 5,
    max_tokens: Annotated[int, typer.Option(help="Most tokens of an answer.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Smallest set of tokens with this probability.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Makes drawn answers repeatable.")] = None,
    library: LibraryOption = None,
    json_: JsonOption = False,
) -> None:
    """Answer one question by every method, side by side on one HTML page that needs nothing else.

    Example: preread compare "Who may end the contract?" --collection work --out contract.html
    """
    from preread import render
    from preread.compare import compare as ask_all
    from preread.core.types import Sampling
    from preread.page import page

    sampling = Sampling(max_tokens, temperature, top_p, seed=seed)
    compared = ask_all(open_collection(library, collection), question, mode_of(mode), passages, sampling)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page(compared), encoding="utf-8")
    emit({"page": str(out), **asdict(compared)}, json_, lambda _: render.comparison(compared, out))
