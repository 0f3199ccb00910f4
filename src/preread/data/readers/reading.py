"""What a reader gives: clean text with its marks, or a refusal; and how much any of them may give."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from preread.core.errors import PartlyRead
from preread.core.types import Mark

FILE_MOST = 200_000_000
"""Bytes of the largest file that is read."""
UNPACKED_MOST = 500_000_000
"""Bytes that all members of an archive (DOCX, PPTX, EPUB) may say they unpack to."""
TEXT_MOST = 20_000_000
"""Characters of the longest text that is taken from one file: about thirty novels."""
NAMED_MOST = 20
"""Pages without text that a warning names one by one."""

LINE_BREAK = re.compile("\r\n|[\r\v\f\x1c\x1d\x1e\x85\u2028\u2029]")
NO_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufdd0-\ufdef\ufeff\ufffe\uffff\ud800-\udfff]")


class Reading(NamedTuple):
    """What a reader found: clean text, its marks, and a title where the file names one."""

    text: str
    marks: tuple[Mark, ...] = ()
    title: str = ""


class Refused(Exception):
    """Why a file is no document: `UnreadableDocument` before anybody knows the file's name.

    Args:
        expected: what the reader needed.
        got: what it found instead.
        remedy: what the user can do.
    """

    def __init__(self, expected: str, got: str, remedy: str) -> None:
        self.expected, self.got, self.remedy = expected, " ".join(got.split()), remedy
        super().__init__(expected, got, remedy)


def megabytes(size: int) -> str:
    """A number of bytes as users read it."""
    return f"{size / 1e6:,.0f} MB"


def clean(text: str) -> str:
    r"""Line breaks as `\n`, NFC, and none of the characters that no text holds."""
    if text.isascii() and text.isprintable():
        return text
    return unicodedata.normalize("NFC", NO_TEXT.sub("", LINE_BREAK.sub("\n", text)))


def short_enough(length: int) -> None:
    """Refuse a text as soon as its length is known to be too much.

    Raises:
        Refused: over `TEXT_MOST` characters.
    """
    if length > TEXT_MOST:
        raise Refused(f"at most {TEXT_MOST:,} characters of text", "more", "Split the file and add the parts.")


def paged(pages: Sequence[str], labels: Sequence[str], title: str, what: str) -> Reading:
    """Pages in a row, each marked; those without text are named in a warning.

    Args:
        pages: clean text of each.
        labels: what each is called.
        title: the document's own, or an empty string.
        what: `pages` or `slides`.
    """
    if blank := [label for label, page in zip(labels, pages, strict=True) if not page.strip()]:
        named = ", ".join(blank[:NAMED_MOST]) + (", ..." if len(blank) > NAMED_MOST else "")
        message = f"{len(blank)} of {len(pages)} {what} have no text (blank, or pictures): {named}"
        warnings.warn(message, PartlyRead, stacklevel=2)
    starts = accumulate((len(page) + 1 for page in pages), initial=0)
    marks = [Mark(start, "page", label) for start, label in zip(starts, labels, strict=False)]
    return Reading("\n".join(pages), tuple(marks), title)
