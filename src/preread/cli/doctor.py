"""Whether this machine will do: `doctor`."""

from __future__ import annotations

from dataclasses import asdict

import typer

from preread.cli.app import JsonOption, LibraryOption, app, dumps, write


@app.command()
def doctor(library: LibraryOption = None, json_: JsonOption = False) -> None:
    """Look at Python, packages, devices, disk, network, models, configuration and the library; a remedy for each fault.

    Exit code 1 where something will not work.

    Example: preread doctor
    """
    from preread import render
    from preread.doctor import examine

    failed = False
    for finding in examine(library):
        failed = failed or finding.state == "fail"
        write((dumps(asdict(finding)) if json_ else render.finding(finding)) + "\n")
    if failed:
        raise typer.Exit(1)
