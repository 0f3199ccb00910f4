"""Folders of the cache: made whole or not at all, by one process at a time."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from preread.core.errors import ResourceError
from preread.core.paths import cache_home


def kept(folder: str, name: str, needed: int, make: Callable[[Path], None]) -> Path:
    """The cache's folder of a decoder, made if this is the first time.

    Args:
        folder: its name in the cache; it holds the hash of what the decoder is made from.
        name: how the user knows the decoder.
        needed: free bytes that making it takes.
        make: fills `model` in the folder it is given, beside whatever it needs meanwhile.

    Raises:
        ResourceError: the disk is full or not writable.
    """
    target = cache_home() / "models" / folder
    if target.is_dir():
        return target
    part = target.with_name(f"{folder}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f"{folder}.lock")):
            if not target.is_dir():  # another process may have made it meanwhile
                shutil.rmtree(part, ignore_errors=True)  # what a killed process left
                require_space(target.parent, needed, name)
                try:
                    part.mkdir()
                    make(part)
                    (part / "model").rename(target)
                finally:
                    shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise _no_disk(name, str(error), target.parent) from error
    return target


def require_space(where: Path, needed: int, name: str) -> None:
    """Refuse to begin what would fill the disk.

    Raises:
        ResourceError: fewer than `needed` bytes are free at `where`.
    """
    free = shutil.disk_usage(where).free
    if free < needed:
        raise _no_disk(name, f"{needed / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free", where)


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _no_disk(name: str, got: str, where: Path) -> ResourceError:
    return ResourceError(
        expected=f"room to write {name} in {where}",
        got=got,
        consequence="No model was loaded; nothing was kept.",
        remedy="Free some space, or set PREREAD_HOME (for hub models HF_HOME) to another disk.",
    )
