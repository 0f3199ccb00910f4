"""Files and web pages become documents, whatever is wrong with them: a document, or one line that says why not.

The parsing happens in a child process within limits (`bounded`); which reader takes which file, and what each makes of
it, stands in `readers`. Offsets always count characters of `Document.text`.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from preread.core.errors import PartlyRead, UnreadableDocument
from preread.core.paths import in_one_line
from preread.core.types import Document, Mark
from preread.data.bounded import run, time_for
from preread.data.readers import READERS
from preread.data.readers.reading import FILE_MOST, Refused, megabytes

SUFFIXES: frozenset[str] = frozenset(READERS)
"""Endings of the files that can be read, in lower case, each with its dot."""
FETCHING_S = 60.0
"""Seconds that a web page may take, from the first word to the server to the last of the text."""
ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


def read(path: Path | str, cancelled: Callable[[], bool] = lambda: False) -> Document:
    """The document in a file, told by its suffix, or at a web address (a string beginning `https://` or `http://`).

    Marks are pages of a PDF, slides of a presentation, and headings of everything else. The title is the file's own,
    else its first heading (not for plain text, whose chapters do not name it), else the file's name. The source is
    the absolute path, or the address as it was given. Parts without text are named by a `PartlyRead` warning.

    Args:
        path: the file or address.
        cancelled: asked many times a second, so that another thread can stop the call.

    Raises:
        UnreadableDocument: missing, empty, scanned, encrypted, corrupt, too large, too slow, of an unknown suffix or
            not what the suffix says.
        Interrupted: `cancelled` became true.
        ResourceError: the system starts no process to parse in.
    """
    expect_unicode(path)
    name = in_one_line(path)
    try:
        request = _address(path) if isinstance(path, str) and ADDRESS.match(path) else _file(Path(path))
        found = run(request, name, cancelled)
    except Refused as refusal:
        expected = f"{refusal.expected} at {name}"
        raise UnreadableDocument(expected, refusal.got, "It was not added.", refusal.remedy) from refusal
    for message in found["warnings"]:
        warnings.warn(f"{PurePosixPath(name).name}: {message}", PartlyRead, stacklevel=2)
    marks = tuple(Mark(*mark) for mark in found["marks"])
    return Document(request["source"], found["title"] or request["name"], found["text"], marks)


def fingerprint(path: Path | str) -> str:
    """Hex SHA-256 of a file's bytes: equal exactly where a file need not be read again.

    Raises:
        UnreadableDocument: missing, no regular file, or not to be opened.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123  # a pipe is not waited for
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError("not a regular file")
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        shown = f"a readable file at {in_one_line(path)}"
        raise UnreadableDocument(shown, reason, "It was not read.", "Check the path and its permissions.") from error


def expect_unicode(path: Path | str) -> None:
    """Refuse a name that no record of it could hold.

    Raises:
        UnreadableDocument: it has bytes that are not Unicode.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UnreadableDocument(
            expected=f"a file name in Unicode at {in_one_line(path)}",
            got="bytes that are not",
            consequence="It was not added.",
            remedy="Rename the file in Unicode.",
        ) from error


def _file(path: Path) -> Mapping[str, Any]:
    """What the child is asked of a file, after what needs no parser."""
    try:
        state = path.stat()
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        got = "no such file" if missing else getattr(error, "strerror", None) or str(error)
        raise Refused("a file", got, "Check the path and its permissions.") from error
    if not stat.S_ISREG(state.st_mode):
        what = "a directory" if stat.S_ISDIR(state.st_mode) else "not a regular file"
        raise Refused("a file", what, "Check the path; add the files of a directory one by one.")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        expected = f"a file ending in {', '.join(sorted(SUFFIXES))}"
        raise Refused(expected, f"the suffix {path.suffix!r}", "Convert it to PDF, HTML or plain text.")
    if state.st_size > FILE_MOST:
        remedy = "Split it, or convert it to plain text."
        raise Refused(f"a file of at most {megabytes(FILE_MOST)}", megabytes(state.st_size), remedy)
    # `..` goes, so that one file is one document; links stay as the user named them.
    source = os.path.abspath(path)  # noqa: PTH100
    seconds = time_for(state.st_size)
    return {"path": source, "suffix": suffix, "seconds": seconds, "source": source, "name": path.stem}


def _address(address: str) -> Mapping[str, Any]:
    """What the child is asked of an address."""
    try:
        parts = urlsplit(address)
        host = parts.hostname
    except ValueError as error:
        raise Refused("a web address", str(error), "Check how it is written.") from error
    if parts.scheme not in ("http", "https") or not host:
        raise Refused("an address beginning https:// or http://", repr(parts.scheme), "Download it and add the file.")
    name = PurePosixPath(unquote(parts.path)).stem or host
    return {"address": address, "seconds": FETCHING_S, "source": address, "name": name}
