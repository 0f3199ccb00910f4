"""Models on this machine: `models`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from preread.cli.app import JsonOption, emit, models_app


@models_app.command(name="list")
def list_(json_: JsonOption = False) -> None:
    """List decoders that are packaged or cached, and compressors, with size and place.

    Example: preread models list
    """
    from preread import render
    from preread.inventory import inventory

    emit([asdict(held) for held in inventory()], json_, render.inventory)


@models_app.command()
def pull(
    name: Annotated[str, typer.Argument(help="default, or a hub id, owner/model or owner/model@commit.")],
    json_: JsonOption = False,
) -> None:
    """Fetch a decoder, so that later commands need no network; an interrupted one goes on from what came.

    Example: preread models pull HuggingFaceTB/SmolLM2-360M-Instruct
    """
    from preread import render
    from preread.models.loading import fetch

    emit(fetch(name), json_, render.fetched)
