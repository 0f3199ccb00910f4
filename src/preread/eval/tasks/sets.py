"""Where the file of a set stands, and how a part of it is drawn: the same part on every machine."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Literal

from preread.core.errors import UnreadableDocument, UsageError
from preread.core.paths import cache_home
from preread.data.corpora import records
from preread.data.hub_sets import HUB_SETS, fetch

SUFFIXES = (".jsonl.gz", ".jsonl.xz", ".jsonl")


def set_file(data: Path, folder: Literal["qa", "text"], name: str, split: str) -> Path:
    """The file of a set's split: in its folder of the data, in the data itself, the path that is named, or from a hub.

    Args:
        data: folder of all sets.
        folder: `qa` for question sets, `text` for running text.
        name: of the set, one of `HUB_SETS`, or a path of a file in its format.
        split: such as `test`.

    Raises:
        UsageError: there is none.
        UnreadableDocument: the hub has it, and cannot be reached or read.
    """
    places = [Path(name), *(place / f"{name}.{split}{end}" for place in (data / folder, data) for end in SUFFIXES)]
    for place in places:
        if place.is_file():
            return place
    if name in HUB_SETS:
        return fetch(name, split, cache_home() / "sets")
    raise UsageError(
        expected=f"a set {name!r} with a split {split!r} in {data / folder}",
        got="no such file",
        consequence="Nothing was judged.",
        remedy=f"Point --data at the folder that holds {folder}/, or name a file.",
    )


def rows(path: Path, *keys: str) -> list[dict[str, Any]]:
    """The documents of a set, in the order of a shuffle that depends on their ids alone.

    Args:
        path: the set's file.
        keys: what each must have besides its id.

    Raises:
        UnreadableDocument: the file is no JSON lines, or a document lacks something.
    """
    found = list(records(path))
    for number, row in enumerate(found, 1):
        if lacking := [key for key in ("doc_id", *keys) if key not in row]:
            raise UnreadableDocument(
                expected=f"{', '.join(('doc_id', *keys))} in every line of {path}",
                got=f"no {' and no '.join(lacking)} in line {number}",
                consequence="Nothing was judged.",
                remedy="Name a file in the format of docs/evaluation.md.",
            )
    return sorted(found, key=lambda row: draw(row["doc_id"]))


def draw(name: str) -> float:
    """A number in [0, 1) that depends on a name alone."""
    return random.Random(name).random()  # noqa: S311 no secret depends on it


def drawn(name: str, places: int, most: int) -> list[int]:
    """At most so many of the numbers below `places`, in drawn order; fewer are the beginning of more."""
    return sorted(range(places), key=lambda place: draw(f"{name} {place}"))[:most]


def expect(least: int, **settings: int | None) -> None:
    """See that settings are at least so large, where they are given.

    Raises:
        UsageError: one is not.
    """
    for name, value in settings.items():
        if value is not None and value < least:
            raise UsageError(
                expected=f"{name} of at least {least}",
                got=str(value),
                consequence="Nothing was judged.",
                remedy="Correct it in the recipe.",
            )
