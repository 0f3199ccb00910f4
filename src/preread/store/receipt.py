"""What `forget` did, and the search that proves it."""

from __future__ import annotations

import mmap
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from preread.core.errors import IntegrityError


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was forgotten.

    Args:
        documents: how many documents.
        passages: how many passages they had.
        payloads: how many payloads went, orphans of earlier interruptions included.
        bytes_freed: by how much the library's folder shrank, adapters included.
        searched: files that are left and were searched to the last byte for what was forgotten: it stands in none.
    """

    documents: int
    passages: int
    payloads: int
    bytes_freed: int
    searched: int


def search(files: Iterable[Path], marks: Collection[str]) -> int:
    """Search files, by name and to the last byte, for marks that only what was forgotten bore; how many files.

    Raises:
        IntegrityError: one bears a mark.
    """
    searched, contents = 0, [mark.encode() for mark in marks]
    for file in files:
        try:
            found = any(mark in file.name for mark in marks) or _stands_in(file, contents)
        except FileNotFoundError:  # another process's lock or journal, which went meanwhile
            continue
        searched += 1
        if found:
            raise IntegrityError(
                expected="nothing of what was forgotten to be left on disk",
                got=f"a trace of it in {file}",
                consequence="It is out of every reader's sight, but not off the disk.",
                remedy="Repeat the command, which clears the folder again, and report this.",
            )
    return searched


def _stands_in(file: Path, marks: Collection[bytes]) -> bool:
    if file.stat().st_size == 0:  # nothing to map
        return False
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return any(content.find(mark) >= 0 for mark in marks)
