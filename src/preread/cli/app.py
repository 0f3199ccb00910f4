"""What every command shares: the apps, the common options, their defaults, and output."""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from preread.cli import completion
from preread.core.errors import PrereadError

if TYPE_CHECKING:
    from preread.library import Collection

ORDER = ("add", "list", "show", "forget", "cancel", "study", "quiz", "ask", "chat", "compare", "demo")
"""What users do most comes first in the help; the rest follows."""


class InOrder(TyperGroup):
    """The commands in that order, whichever file of ours was imported first."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        last = len(ORDER)
        names = sorted(self.commands, key=lambda name: (ORDER.index(name) if name in ORDER else last, name))
        self.commands = {name: self.commands[name] for name in names}


app = typer.Typer(
    cls=InOrder,
    help="Let a language model read long documents once, ahead of time; ask a thousand times, cheaply.",
    no_args_is_help=True,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
)
train_app = typer.Typer(help="Train what preread ships or you ship with it.", no_args_is_help=True)
app.add_typer(train_app, name="train")
bench_app = typer.Typer(help="Measure, on this machine.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")
models_app = typer.Typer(help="Models on this machine, and fetching them.", no_args_is_help=True)
app.add_typer(models_app, name="models")
config_app = typer.Typer(help="What commands take where no flag says otherwise.", no_args_is_help=True)
app.add_typer(config_app, name="config")

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What documents, and answers drawn from them, could command a terminal with."""
WITHOUT_DEFAULTS = {"config", "doctor"}
"""They speak of the configuration, so a wrong one must not stop them."""

LibraryOption = Annotated[Path | None, typer.Option("--library", help="Folder of the library.")]
CollectionOption = Annotated[
    str,
    typer.Option("--collection", "-c", help="Name of the collection.", autocompletion=completion.collections),
]
AnyCollectionOption = Annotated[
    str | None,
    typer.Option(
        "--collection",
        "-c",
        help="Name of the collection; by default the one whose documents most likely hold the answer.",
        autocompletion=completion.collections,
    ),
]
ModeOption = Annotated[
    str | None, typer.Option(help="document, passages or hybrid (memory and text); by default what suits the method.")
]
PassagesOption = Annotated[int, typer.Option(help="Passages to cite, and to read in mode passages.")]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="No answer where the documents do not seem to hold one; exit code 3.")
]
AdapterOption = Annotated[
    str,
    typer.Option(help="auto (where the question is like those that the collection was studied with), always or never."),
]
MaxTokensOption = Annotated[int, typer.Option(help="Most tokens of the answer.")]
MethodOption = Annotated[
    str | None,
    typer.Option(
        "--method",
        help=f"Who reads the documents ({', '.join(completion.methods(''))}); by default as the collection.",
        autocompletion=completion.methods,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, a line a result.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Change one key, as a.b=value; may be repeated.")]


@app.callback()
def common(
    context: typer.Context,
    shown: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Let a language model read long documents once, ahead of time; ask a thousand times, cheaply."""
    if shown:
        sys.stdout.write(f"preread {importlib.metadata.version('preread')}\n")
        raise typer.Exit
    if context.invoked_subcommand not in WITHOUT_DEFAULTS:
        context.default_map = configured(context)


def configured(context: typer.Context) -> dict[str, Any]:
    """What was configured, as the defaults of each command's options of that name.

    Measuring and training (`bench`, `train`) say everything on their own command line, so that a line repeats them.
    """
    from preread.core.defaults import resolve

    said = {key: chosen.value for key, chosen in resolve().items() if chosen.origin != "default"}
    commands: dict[str, Any] = getattr(context.command, "commands", {})
    return {name: said for name, command in commands.items() if not hasattr(command, "commands")}


def typed(context: typer.Context, name: str) -> bool:
    """Whether an option stands on the command line, rather than in the configuration or nowhere."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def open_collection(library: Path | None, name: str) -> Collection:
    """A collection of the library in a folder, or of the user's own."""
    from preread.library import Library

    return Library(library).collection(name)


def emit(result: Any, as_json: bool, human: Callable[[Any], str]) -> None:
    """A result on stdout: one JSON object, or text for people."""
    plain = asdict(result) if is_dataclass(result) and not isinstance(result, type) else result
    write((dumps(plain) if as_json else human(result)) + "\n")


def dumps(plain: Any) -> str:
    """One line of JSON, in letters where the terminal has them."""
    return json.dumps(plain, default=str, ensure_ascii=not (sys.stdout.encoding or "").lower().startswith("utf"))


def write(piece: str) -> None:
    """A piece of a result on stdout, at once."""
    sys.stdout.write(CONTROL.sub("\N{REPLACEMENT CHARACTER}", piece))
    sys.stdout.flush()


def say(line: str) -> None:
    """A line on stderr."""
    sys.stderr.write(CONTROL.sub("\N{REPLACEMENT CHARACTER}", line) + "\n")


def complain(error: PrereadError, as_json: bool, about: str = "preread") -> None:
    """An error on stderr: one line for people, or one JSON object with its four parts and what it is about."""
    parts = {"expected": error.expected, "got": error.got, "consequence": error.consequence, "remedy": error.remedy}
    report(type(error).__name__, f"preread: {error}", error.exit_code, as_json, about=about, **parts)


def report(kind: str, message: str, exit_code: int, as_json: bool, **parts: str) -> None:
    """What went wrong, on stderr."""
    say(dumps({"error": kind, "message": message, "exit_code": exit_code, **parts}) if as_json else message)
