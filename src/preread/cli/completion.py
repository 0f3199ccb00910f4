"""What the shell offers behind an option. Asked at every press of a key, so nothing heavy is imported."""

from __future__ import annotations

import json
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules

import typer

from preread.core.errors import PrereadError
from preread.core.paths import data_home


def collections(context: typer.Context, incomplete: str) -> list[str]:
    """Names of the library's collections that begin so."""
    from preread.core.defaults import resolve

    folder = context.params.get("library")
    with suppress(PrereadError):  # a wrong configuration is no matter of a key press
        folder = folder or resolve()["library"].value
    names = []
    for file in Path(folder or data_home() / "library").glob("collections/*.json"):
        with suppress(OSError, ValueError, KeyError):
            names.append(json.loads(file.read_text(encoding="utf-8"))["collection"])
    return sorted(name for name in names if name.startswith(incomplete))


def methods(incomplete: str) -> list[str]:
    """Names of the methods that begin so: a method is a module of its own, named as users type it."""
    room = find_spec("preread.methods")  # found, not imported: torch comes with it
    names = [module.name for module in iter_modules(room.submodule_search_locations if room else None)]
    return sorted(name for name in names if name.startswith(incomplete))


def keys(incomplete: str) -> list[str]:
    """What may be configured and begins so."""
    from preread.core.defaults import KEYS

    return [key for key in KEYS if key.startswith(incomplete)]
