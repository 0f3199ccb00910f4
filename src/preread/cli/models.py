"""Models on this machine: `models`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from preread.cli.app import JsonOption, emit, models_app, say


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


@models_app.command(name="convert-longlora")
def convert_longlora(
    source: Annotated[Path, typer.Argument(help="Folder of a published LongLoRA checkpoint, pickles and all.")],
    out: Annotated[Path, typer.Option(help="New folder for the extension, in safetensors.")],
    length: Annotated[int, typer.Option(help="Positions it was trained for; 32k is 32768.")],
    model: Annotated[
        str | None, typer.Option(help="Its base model; by default the one that the checkpoint names.")
    ] = None,
    export: Annotated[Path | None, typer.Option(help="Folder for the decoder with all of it merged in.")] = None,
    json_: JsonOption = False,
) -> None:
    """Convert a published LongLoRA checkpoint (LoRA and trainable_params.bin), once; no code in it is run.

    Example: preread models convert-longlora Llama-2-7b-longlora-32k --length 32768 --out longlora-32k
    """
    from preread.methods.longlora import published
    from preread.methods.longlora.export import export_trained
    from preread.models.loading import load

    name = model or published.base_of(source)
    found = published.convert(source, out, load(name, device="cpu"), length)
    if export:
        say(f"exported to {export_trained(out, export, name)}")
    emit(found, json_, lambda made: f"{made.folder}: {made.base} to {made.length} positions")


@models_app.command(name="convert-cepe")
def convert_cepe(
    source: Annotated[Path, typer.Argument(help="Folder of a published CEPE or CEPED checkpoint, pickles and all.")],
    out: Annotated[Path, typer.Option(help="New folder for the reader, in safetensors.")],
    model: Annotated[str, typer.Option(help="The base model that it was trained with, which its files do not name.")],
    states: Annotated[
        int, typer.Option(min=1, help="States that a row attended to in training; CEPED's were 2048.")
    ] = 4096,
    json_: JsonOption = False,
) -> None:
    """Convert a published CEPE checkpoint (encoder and cross-attention), once; no code in it is run.

    Example: preread models convert-cepe CEPE-LLaMA-2-7B --model meta-llama/Llama-2-7b-hf --out cepe-llama-2
    """
    from preread.methods.cepe import published
    from preread.models.loading import load

    found = published.convert(source, out, load(model, device="cpu"), states)
    emit(found, json_, lambda made: f"{made.folder}: {made.parameters:,} parameters beside {made.base}")
