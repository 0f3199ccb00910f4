"""What a file is by its content, whatever its suffix says."""

from __future__ import annotations

import re
import zipfile
from io import BytesIO
from typing import NamedTuple

from preread.data.readers.archive import UNLOCK
from preread.data.readers.reading import NO_TEXT, Refused

CONVERT = "Convert it to PDF, HTML or plain text."
CHECK = "Check that this is the right file."
ENCRYPTED = "EncryptedPackage".encode("utf-16-le")
PAGE = re.compile(rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype html|html)\b", re.IGNORECASE | re.DOTALL)


class Kind(NamedTuple):
    """What a file is.

    Args:
        what: its name, with its article.
        suffix: the suffix under which it is read, or an empty string.
        remedy: how to add it where no suffix will do.
    """

    what: str
    suffix: str = ""
    remedy: str = CONVERT


PDF = Kind("a PDF", ".pdf")
OLD_OFFICE = Kind("an old Office file (DOC, PPT or XLS)", remedy="Save it as DOCX, PPTX or PDF.")
LOCKED = Kind("an Office document locked by a password", remedy=UNLOCK)
SIGNATURES = (
    (b"\xd0\xcf\x11\xe0", OLD_OFFICE),
    (b"{\\rtf", Kind("an RTF file")),
    (b"\x1f\x8b", Kind("a gzip archive", remedy="Unpack it and add the files inside.")),
    (b"7z\xbc\xaf\x27\x1c", Kind("a 7z archive", remedy="Unpack it and add the files inside.")),
    (b"Rar!", Kind("a RAR archive", remedy="Unpack it and add the files inside.")),
    (b"\x89PNG", Kind("a PNG image", remedy="Run optical character recognition (OCR) over it first.")),
    (b"\xff\xd8\xff", Kind("a JPEG image", remedy="Run optical character recognition (OCR) over it first.")),
)
ZIP = Kind("a zip archive", remedy="Unpack it and add the files inside.")
MEMBERS = {
    "word/document.xml": Kind("a Word document (DOCX)", ".docx"),
    "ppt/presentation.xml": Kind("a presentation (PPTX)", ".pptx"),
    "META-INF/container.xml": Kind("a book (EPUB)", ".epub"),
    "xl/workbook.xml": Kind("a spreadsheet (XLSX)", remedy="Save its sheets as CSV, with the suffix .txt."),
    "content.xml": Kind("an OpenDocument file", remedy="Save it as DOCX or PDF."),
}
ARCHIVES = (".docx", ".pptx", ".epub")
BINARY = {".pdf": PDF.what, **{kind.suffix: kind.what for kind in MEMBERS.values() if kind.suffix}}
"""Suffixes whose content is told by its first bytes; any text may stand under the others."""


def as_labelled(raw: bytes, suffix: str) -> None:
    """Refuse a file whose content is not what its suffix says, and say what it is.

    Raises:
        Refused: mislabelled, or of a kind that is not read.
    """
    kind = kind_of(raw, suffix)
    if kind is None or kind.suffix == suffix or (kind.suffix in (".txt", ".html") and suffix not in BINARY):
        return
    expected = f"{BINARY.get(suffix, 'text')} (as its suffix says)"
    remedy = f"Rename it to end in {kind.suffix} and add that." if kind.suffix else kind.remedy
    raise Refused(expected, kind.what, remedy)


def kind_of(raw: bytes, suffix: str = "") -> Kind | None:
    """What some bytes are, or None where nothing tells.

    Args:
        raw: the whole file.
        suffix: what it says it is: a damaged archive is taken at its word.
    """
    if raw.startswith(b"%PDF-") or (suffix == ".pdf" and b"%PDF-" in raw[:1024]):
        return PDF
    if raw.startswith(b"PK\x03\x04"):
        return _archive(raw, suffix)
    for signature, kind in SIGNATURES:
        if raw.startswith(signature):
            return LOCKED if kind is OLD_OFFICE and ENCRYPTED in raw else kind
    return _written(raw) or (Kind("something else", remedy=CHECK) if suffix in BINARY else None)


def _written(raw: bytes) -> Kind | None:
    """A page or plain text, where the beginning is clearly one."""
    if PAGE.match(raw[:1024]):
        return Kind("a web page (HTML)", ".html")
    head = raw[:1024].decode("utf-8", "ignore")
    whole = len(head.encode()) > min(len(raw), 1024) - 4  # a character cut off at the end is no damage
    return Kind("plain text", ".txt") if whole and not NO_TEXT.search(head.lstrip("\ufeff")) else None


def _archive(raw: bytes, suffix: str) -> Kind:
    try:
        names = set(zipfile.ZipFile(BytesIO(raw)).namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        return Kind(BINARY[suffix], suffix) if suffix in ARCHIVES else ZIP
    for name, kind in MEMBERS.items():
        if name in names:
            return kind
    return ZIP
