"""What was configured, and where: `config`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from preread.cli import completion
from preread.cli.app import JsonOption, config_app, emit
from preread.core.defaults import PROJECT_FILE, assign, project_file, resolve, user_file

KeyArgument = Annotated[str, typer.Argument(help="As `preread config show` names it.", autocompletion=completion.keys)]
ProjectOption = Annotated[
    bool, typer.Option("--project", help=f"In the project's {PROJECT_FILE}, made here if there is none.")
]


@config_app.command()
def show(
    origin: Annotated[bool, typer.Option("--origin", help="Say where each value comes from.")] = False,
    json_: JsonOption = False,
) -> None:
    """Show every value: a flag wins over PREREAD_* variables, preread.toml, the user's config.toml and the default.

    Example: preread config show --origin
    """
    from preread import render

    chosen = resolve()
    plain = {key: asdict(c) if origin else c.value for key, c in chosen.items()}
    emit(plain, json_, lambda _: render.configuration(chosen, origin))


@config_app.command()
def path(json_: JsonOption = False) -> None:
    """Show where the configuration files are, or would be.

    Example: preread config path
    """
    project = project_file()
    files = {"user": str(user_file()), "project": str(project) if project else None}
    emit(
        files, json_, lambda _: f"user     {user_file()}\nproject  {project or f'none: no {PROJECT_FILE} from here up'}"
    )


@config_app.command(name="set")
def set_(
    key: KeyArgument,
    value: Annotated[str, typer.Argument(help="Its value.")],
    project: ProjectOption = False,
) -> None:
    """Set a value for all commands to come, in the user's file or the project's.

    Example: preread config set max_tokens 64
    """
    assign(_file(project), key, value)


@config_app.command()
def unset(key: KeyArgument, project: ProjectOption = False) -> None:
    """Take a value out again.

    Example: preread config unset max_tokens
    """
    assign(_file(project), key, None)


def _file(project: bool) -> Path:
    return (project_file() or Path.cwd() / PROJECT_FILE) if project else user_file()
