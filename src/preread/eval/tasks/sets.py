"""Where the file of a set stands, and how a part of it is drawn: the same part on every machine."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Literal

from preread.core.errors import UsageError

SUFFIXES = (".jsonl.gz", ".jsonl.xz", ".jsonl")


def set_file(data: Path, folder: Literal["qa", "text"], name: str, split: str) -> Path:
    """The file of a set's split: in its folder of the data, in the data itself, or the path that is named.

    Args:
        data: folder of all sets.
        folder: `qa` for question sets, `text` for running text.
        name: of the set, or a path of a file in its format.
        split: such as `test`.

    Raises:
        UsageError: there is none.
    """
    places = [Path(name), *(place / f"{name}.{split}{end}" for place in (data / folder, data) for end in SUFFIXES)]
    for place in places:
        if place.is_file():
            return place
    raise UsageError(
        expected=f"a set {name!r} with a split {split!r} in {data / folder}",
        got="no such file",
        consequence="Nothing was judged.",
        remedy=f"Point --data at the folder that holds {folder}/, or name a file.",
    )


def draw(name: str) -> float:
    """A number in [0, 1) that depends on a name alone."""
    return random.Random(name).random()  # noqa: S311 no secret depends on it
