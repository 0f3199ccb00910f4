"""What the disk can do to a library, in the project's errors."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from preread.core.errors import ResourceError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space, over quota, over the file size limit: in each case the bytes do not fit."""


@contextmanager
def room(what: str) -> Iterator[None]:
    """Turn a full disk while `what` is written into a `ResourceError`; every other error passes unchanged.

    Lance reports the system's error only in its message, so the message is read too.
    """
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        known = isinstance(error, OSError) and error.errno in _FULL
        if not known and not any(f"os error {code})" in str(error) for code in _FULL):
            raise
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise ResourceError(
            expected=f"room on the disk to write {what}",
            got=reason.splitlines()[0][:200],
            consequence="It was not written; all that was stored before is still there and can be read.",
            remedy="Free some space and repeat the command: it goes on from there.",
        ) from error
