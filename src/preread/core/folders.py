"""Folders that are written whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from preread.core.errors import ResourceError, first_line


def replaced(folder: Path, write: Callable[[Path], None]) -> None:
    """Fill a folder beside, by a name that nobody gives a copy, and put it in the place of what was there.

    Raises:
        ResourceError: the disk is full or not writable; what was there is untouched.
    """
    folder = folder.resolve()
    part, old = (folder.with_name(f".{folder.name}.preread-{end}") for end in ("part", "old"))
    try:
        shutil.rmtree(part, ignore_errors=True)  # of a killed process
        part.mkdir(parents=True)
        write(part)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        part.rename(folder)
    except (OSError, SafetensorError) as error:
        raise ResourceError(
            expected=f"room to write {folder}",
            got=first_line(error),
            consequence="Nothing was written; what was there is untouched.",
            remedy="Free some space, or choose a folder on another disk.",
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if old.exists() and not folder.exists():  # stopped between the two names
            old.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
