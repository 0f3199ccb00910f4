"""Measuring cross-attention: `bench cepe`."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer

from preread.cli.app import JsonOption, bench_app, emit

_COUNTED = {"decode": "bytes"}
"""What a row's limit is counted in, where not in FLOPs."""


@bench_app.command()
def cepe(
    work: Annotated[Path, typer.Option(help="Folder for the table; a stopped one goes on there.")],
    shape: Annotated[
        str, typer.Option(help="default, on this CPU; or with random weights llama-2-7b, or tiny for a try.")
    ] = "default",
    setting: Annotated[
        list[str] | None, typer.Option(help="8k, 8k stored, 32k, 128k, training, or trial; may be repeated.")
    ] = None,
    row: Annotated[
        list[str] | None, typer.Option(help="forward, stored, question, decode or train; may be repeated.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="YAML recipe whose reader stands on the default decoder, instead of its own.")
    ] = None,
    out: Annotated[Path, typer.Option(help="JSON lines of figures.")] = Path("results/figures.jsonl"),
    repeats: Annotated[int, typer.Option(min=1, help="Timings of each kind.")] = 5,
    seed: Annotated[int, typer.Option(help="Of weights and tokens.")] = 0,
    json_: JsonOption = False,
) -> None:
    """Measure cross-attention over stored states beside full attention: reading, asking, writing, a training step.

    Without --row: all but train. Each beside the most that it could gain.

    Example: preread bench cepe --work runs/cepe --setting "8k stored" --row decode
    """
    from preread.bench.cepe import ROWS, bench
    from preread.bench.cepe_figures import error_figure, speed_figures, subject
    from preread.bench.figures import publish
    from preread.core.config import build, load
    from preread.methods.cepe.method import Cepe
    from preread.recipes import Recipe

    command = shlex.join(["preread", *sys.argv[1:]])
    method = build(Cepe, load(Recipe, recipe, []).settings) if recipe else Cepe()
    decoder, method = subject(shape, method, seed)
    taken = bench(decoder, method, shape, setting or ["8k"], row or list(ROWS[:-1]), work, repeats, seed)
    publish([error_figure(seed, command), *speed_figures(shape, decoder, method, taken, command)], out)
    emit([{"of": key, **asdict(one)} for key, one in taken.items()], json_, lambda rows: "\n".join(map(_crossed, rows)))


def _crossed(row: dict[str, Any]) -> str:
    """A line of the table."""
    ours, full = (median(row[kind]) if row[kind] else None for kind in ("ours", "full"))
    line, most = f"{row['of']:<24}{ours:>10.4g} s", f"{row['limit']:>6.2f}x by {_COUNTED.get(row['row'], 'FLOPs')}"
    if full is not None:
        line += f"{full:>10.4g} s in full,{full / ours:>7.2f}x,{most}"
    elif row["limit"]:
        line += f"   no room in full,{most}"
    return line + (f"; {row['peak'] / 1e9:.2f} GB" if row["peak"] else "")
