"""The reference of all commands, as Markdown, from the commands themselves.

`python -m preread.cli.reference > docs/commands.md` writes the document; a test holds the two together.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import typer

from preread.cli import app

HEAD = """# Commands

Results go to stdout, progress, warnings and errors to stderr. With `--json` a result is a line of JSON, and so is each
error (`error`, `message`, `exit_code`, and where it is one of ours `expected`, `got`, `consequence`, `remedy`) and each
warning (`warning`, `message`). Exit codes: 0 ok, 1 failure, 2 usage, 3 a bar of quality was missed, 4 out of memory
or disk, 5 integrity, 130 interrupted (the same command goes on). Nothing is asked where stdin is no terminal, and
`NO_COLOR` is honoured. `preread --install-completion` teaches your shell commands, collections and methods.

This page is written by `python -m preread.cli.reference`.
"""


def reference() -> str:
    """The document."""
    return "\n".join([HEAD, *(_section(name, command) for name, command in _leaves(typer.main.get_command(app)))])


def _leaves(group: Any, prefix: str = "preread") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _leaves(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def _section(name: str, command: Any) -> str:
    told, _, example = (command.help or "").partition("Example: ")
    lines = [f"## {name}", "", *_paragraphs(told), f"```\n{' '.join(example.split())}\n```", ""]
    rows = [_row(parameter) for parameter in command.params if parameter.name != "help"]
    return "\n".join([*lines, "| | |", "|---|---|", *rows, ""])


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in text.strip().split("\n\n"):
        yield from (" ".join(paragraph.split()), "")


def _row(parameter: Any) -> str:
    shown = ", ".join(f"`{name}`" for name in parameter.opts) if parameter.opts[0].startswith("-") else ""
    words = (parameter.help or "").replace("|", "\\|")
    default = (
        "" if parameter.default in (None, False, ()) or parameter.required else f" Default: `{parameter.default}`."
    )
    return f"| {shown or f'{parameter.name}'} | {words}{default} |"


if __name__ == "__main__":
    sys.stdout.write(reference())
