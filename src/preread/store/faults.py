"""What the disk can do to a library, in the project's errors, and how a file is written so that it stays."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from preread.core.errors import ResourceError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space, over quota, over the file size limit: in each case the bytes do not fit."""
_DATABASE_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_FSYNC)


@contextmanager
def room(what: str) -> Iterator[None]:
    """Turn a full disk while `what` is written into a `ResourceError`; every other error passes unchanged.

    Lance reports the system's error only in its message, so the message is read too.
    """
    try:
        yield
    except (OSError, RuntimeError, ValueError, sqlite3.OperationalError) as error:
        told = next((code for code in _FULL if f"os error {code})" in str(error)), None)
        code = error.errno if isinstance(error, OSError) and error.errno else told
        if code not in _FULL and getattr(error, "sqlite_errorcode", None) not in _DATABASE_FULL:
            raise
        reason = os.strerror(code) if code else str(error)
        raise ResourceError(
            expected=f"room on the disk to write {what}",
            got=reason,
            consequence="It was not written; all that was stored before is still there and can be read.",
            remedy="Free some space and repeat the command: it goes on from there.",
        ) from error


def replace(file: Path, content: bytes) -> None:
    """Write a file in whole or not at all: aside, to the disk, then renamed. The name lasts once `settle` ran.

    Raises:
        OSError: as the system has it; what was there is untouched.
    """
    aside = file.with_name(f"{file.name}.part")
    try:
        with aside.open("wb") as half:
            half.write(content)
            half.flush()
            os.fsync(half.fileno())
        aside.replace(file)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def settle(paths: Iterable[Path]) -> None:
    """Wait until these files, or the names in these folders, would outlast a power cut."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
