"""Certificates: `certify`."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from preread.cli.app import JsonOption, app, emit, say
from preread.core.errors import UsageError

FAILED = 3
"""Exit code where a check with a threshold does not hold."""
UNFINISHED = 130
"""Exit code where the minutes were over before the end."""


@app.command()
def certify(
    model: Annotated[str, typer.Argument(help="Decoder: a folder, a packaged name or a hub id.")],
    data: Annotated[Path, typer.Option(help="Folder that holds the texts (text/) and question sets (qa/).")],
    out: Annotated[Path, typer.Option(help="Folder for the model card, its pictures and the numbers.")],
    base: Annotated[str | None, typer.Option(help="The decoder it was made of, for what that costs elsewhere.")] = None,
    length: Annotated[int | None, typer.Option(help="Positions to certify; by default the whole window.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few documents of each kind: a look, no result.")] = False,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop after about so long; the same command goes on from there.")
    ] = None,
    min_passkey: Annotated[
        float | None, typer.Option(min=0, max=1, help="Lowest share of passkeys found in any window, else exit code 3.")
    ] = None,
    max_regression: Annotated[
        float | None, typer.Option(min=0, help="Highest share by which a short task may be worse, else exit code 3.")
    ] = None,
    into_model: Annotated[
        bool, typer.Option("--into-model", help="Also write it into the card in the model's own folder.")
    ] = False,
    figures: Annotated[
        Path | None, typer.Option(help="JSON lines to publish those figures into that the run is whole for.")
    ] = None,
    work: Annotated[Path | None, typer.Option(help="Folder for what was judged; by default in the cache.")] = None,
    json_: JsonOption = False,
) -> None:
    """Say whether a decoder's window is real: loss by length and position, retrieval, causality, short tasks.

    Writes a model card with verdicts and pictures. Exit code 3 where later text reaches earlier positions, or a
    threshold that was given does not hold. What was judged once is not judged again.

    Example: preread certify models/long --base default --data DATA --out certificate
    """
    from preread.bench.figures import publish
    from preread.certify import card
    from preread.certify.certificate import Limits
    from preread.certify.certifying import certify as certified
    from preread.certify.figures import figures as published
    from preread.certify.plan import QUICK, WHOLE
    from preread.core.paths import cache_home
    from preread.models.loading import fetch, load

    folder = fetch(model).folder
    if into_model and not Path(model).expanduser().is_dir():
        raise UsageError(
            "a folder of a model, with --into-model", model, "Nothing was certified.", "Leave --into-model out."
        )
    if out.exists() and not out.is_dir():
        raise UsageError(f"a folder at {out}", "a file", "Nothing was measured.", "Choose another --out.")
    found = certified(
        load(model),
        data,
        (work or cache_home() / "eval") / "judged",
        base=None if base is None else load(base),
        length=length,
        size=QUICK if quick else WHOLE,
        limits=Limits(min_passkey, max_regression),
        minutes=minutes,
        trained_on=_trained_on(folder),
        command=shlex.join(["preread", *sys.argv[1:]]),
    )
    licence = card.licence_of(folder) or (None if base is None else card.licence_of(fetch(base).folder))
    for place in [out, *([folder] if into_model else [])]:
        say(f"written: {card.write(found, place, licence)}")
    if figures is not None:
        made = published(found)
        publish(made, figures)
        say(f"published: {', '.join(figure.id for figure in made) or 'nothing, for which more must be judged'}")
    emit(found.as_json(), json_, lambda _: "\n".join(card.summary(found)))
    if found.cut:
        raise typer.Exit(UNFINISHED)
    if not found.passed:
        raise typer.Exit(FAILED)


def _trained_on(folder: Path) -> frozenset[str]:
    """Hashes of the documents that a model was trained on, where the manifest in its folder names them."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        return frozenset(
            map(str, (*manifest.get("trained_on", ()), *manifest.get("training", {}).get("documents", ())))
        )
    except (OSError, ValueError, AttributeError, TypeError):
        return frozenset()
