"""What was measured, for people: `report`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from preread.cli.app import JsonOption, app, emit, say, write
from preread.core.errors import PrereadWarning, UsageError

STDOUT = Path("-")


@app.command()
def report(
    results: Annotated[Path, typer.Option(help="Folder of results.")] = Path("results"),
    out: Annotated[Path, typer.Option(help="HTML page to write.")] = Path("report.html"),
    markdown: Annotated[Path | None, typer.Option(help="Markdown file to write too; - is stdout.")] = None,
    json_: JsonOption = False,
) -> None:
    """Show all results on one HTML page that needs nothing else: the scoreboard, tables and plots.

    A result that cannot be read is named, and the rest is shown. With --json the scoreboard is printed.

    Example: preread report --results results --out report.html
    """
    from preread.report.markdown import markdown as as_markdown
    from preread.report.page import page
    from preread.report.reading import read
    from preread.report.scoreboard import plain
    from preread.report.sections import Report

    if json_ and markdown == STDOUT:
        raise UsageError(
            "one result on stdout", "--json and --markdown -", "Nothing was made.", "Name a file for the Markdown."
        )
    found = read(results)
    told = Report(found)
    for fault in told.faults:
        warnings.warn(fault, PrereadWarning, stacklevel=1)
    _keep(out, page(told))
    if markdown == STDOUT:
        write(as_markdown(told))
        say(f"written: {out}")
        return
    if markdown is not None:
        _keep(markdown, as_markdown(told))
    made = {"page": str(out), "markdown": str(markdown) if markdown else None}
    emit(
        {**made, "scoreboard": [plain(entry) for entry in told.entries]},
        json_,
        lambda _: "\n".join([*told.outcome, *([f"{told.score}."] if told.entries else []), f"written: {out}"]),
    )


def _keep(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
