"""What every command shares: the apps, the common options, output, and errors as one message and an exit code."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.exceptions import TyperException

from preread.core.errors import PrereadError, PrereadWarning

if TYPE_CHECKING:
    from preread.library import Collection

app = typer.Typer(
    help="Let a language model read long documents once, ahead of time; ask a thousand times, cheaply.",
    no_args_is_help=True,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
)
train_app = typer.Typer(help="Train what preread ships or you ship with it.", no_args_is_help=True)
app.add_typer(train_app, name="train")
bench_app = typer.Typer(help="Measure, on this machine.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")

INTERRUPTED = 130
LibraryOption = Annotated[
    Path | None, typer.Option("--library", envvar="PREREAD_LIBRARY", help="Folder of the library.")
]
CollectionOption = Annotated[str, typer.Option("--collection", "-c", help="Name of the collection.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, a line a result.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Change one key, as a.b=value; may be repeated.")]


@app.callback()
def version(
    shown: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Let a language model read long documents once, ahead of time; ask a thousand times, cheaply."""
    if shown:
        sys.stdout.write(f"preread {importlib.metadata.version('preread')}\n")
        raise typer.Exit


def open_collection(library: Path | None, name: str) -> Collection:
    """A collection of the library in a folder, or of the user's own."""
    from preread.library import Library

    return Library(library).collection(name)


def emit(result: Any, as_json: bool, human: Callable[[Any], str]) -> None:
    """A result on stdout: one JSON object, or text for people."""
    plain = asdict(result) if is_dataclass(result) and not isinstance(result, type) else result
    sys.stdout.write(json.dumps(plain, default=str, ensure_ascii=False) if as_json else human(result))
    sys.stdout.write("\n")


def _unforeseen(error: Exception) -> int:
    """Say what went wrong where no error of ours was raised; its exit code."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        what = "disk" if full else "memory"
        say(f"preread: out of {what} ({error}); what was stored is untouched. Free some, or take a smaller document.")
        return 4
    if os.environ.get("PREREAD_DEBUG"):
        traceback.print_exc()
    kind = "a file could not be used" if isinstance(error, OSError) else "something unforeseen happened"
    say(f"preread: {kind}: {type(error).__name__}: {error}. Set PREREAD_DEBUG=1 to see where, and report it.")
    return 1


def write(piece: str) -> None:
    """A piece of a result on stdout, at once."""
    sys.stdout.write(piece)
    sys.stdout.flush()


def say(line: str) -> None:
    """A line on stderr."""
    sys.stderr.write(line + "\n")


def main() -> None:
    """Run the command line; every error a user can meet is one message and an exit code."""
    warnings.filterwarnings("ignore")
    warnings.filterwarnings("always", category=PrereadWarning)
    warnings.showwarning = lambda message, *_args, **_kwargs: say(f"warning: {message}")
    try:
        code = app(standalone_mode=False) or 0
    except PrereadError as error:
        say(f"preread: {error}")
        code = error.exit_code
    except TyperException as error:  # a mistake on the command line itself
        error.show()  # type: ignore[attr-defined]  # its subclasses have it, all of them
        code = error.exit_code
    except Exception as error:  # a stack trace never meets a user
        code = _unforeseen(error)
    if code == INTERRUPTED:  # typer makes this of Ctrl-C
        say("preread: interrupted; what was finished is kept, and the same command goes on from there.")
    sys.exit(code)
