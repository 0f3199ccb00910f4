"""The files of a folder that could be documents, and a count of those that could not."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from preread.core.errors import UnreadableDocument
from preread.data.ingest import SUFFIXES

HIDDEN = (".", "~$")
"""How the names of files begin that are not meant to be seen: Unix's, and Office's locks."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What a folder holds.

    Args:
        files: those with a suffix that can be read, in order.
        skipped: how many have another suffix, by suffix.
        closed: folders in it that could not be listed, each with the reason; what they hold is not known.
    """

    files: list[Path] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    closed: dict[str, str] = field(default_factory=dict)


def survey(folder: Path, but: Collection[Path] = ()) -> Survey:
    """Look through a folder and all below it, by absolute paths.

    Hidden files and folders are left out. Links are followed, and a folder that several paths lead to is looked through
    once, by a path without links if there is one; so no loop of links has no end.

    Args:
        folder: where to begin.
        but: folders that are left out, such as the library's own.

    Raises:
        UnreadableDocument: the folder itself cannot be listed.
    """
    found = Survey()
    top = Path(os.path.abspath(folder))  # noqa: PTH100  # takes `..` out and keeps links
    done = {_identity(path) for path in but if path.exists()}
    waiting, links = [top], list[Path]()
    while waiting or links:
        here = waiting.pop() if waiting else links.pop(0)
        try:
            if (identity := _identity(here)) in done:
                continue
            done.add(identity)
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            if here == top:
                raise _closed(top, error) from error
            found.closed[str(here)] = error.strerror or str(error)
            continue
        for entry in entries:
            if entry.name.startswith(HIDDEN):
                continue
            with suppress(OSError):  # a link in a circle, or to where we may not look, is no document, as a broken one
                if entry.is_dir():
                    (links if entry.is_symlink() else waiting).append(Path(entry.path))
                elif entry.is_file():
                    _sort(found, Path(entry.path))
    found.files.sort()
    return found


def _sort(found: Survey, file: Path) -> None:
    if file.suffix.lower() in SUFFIXES:
        found.files.append(file)
    else:
        found.skipped[file.suffix.lower() or "no suffix"] += 1


def _identity(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def _closed(folder: Path, error: OSError) -> UnreadableDocument:
    return UnreadableDocument(
        expected=f"a folder that can be listed at {folder}",
        got=error.strerror or str(error),
        consequence="Nothing was added from it, and nothing that came from it was forgotten.",
        remedy="Check the path, its permissions, and that its disk is there.",
    )
