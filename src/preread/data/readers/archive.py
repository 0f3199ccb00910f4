"""Archives of XML (DOCX, PPTX, EPUB): opened within bounds, and XML that fetches and expands nothing."""

from __future__ import annotations

import zipfile
from io import BytesIO
from typing import Any

from preread.data.readers.reading import UNPACKED_MOST, Refused, clean, megabytes

LOCKED = 0x1
"""The bit of a member's flags that says it is encrypted."""
DAMAGED = "Fetch or save the file again, or convert it to PDF."
UNLOCK = "Save a copy without a password and add that."


def open_archive(raw: bytes, what: str) -> zipfile.ZipFile:
    """The archive in some bytes. No member gives more than it says, so that what all say bounds what is unpacked.

    Args:
        raw: the file.
        what: what users call it, with its article.

    Raises:
        Refused: damaged, locked, or unpacking to too much.
    """
    try:
        archive = zipfile.ZipFile(BytesIO(raw))
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise Refused(f"{what} in one piece", f"a corrupt one ({error})", DAMAGED) from error
    size = sum(member.file_size for member in archive.infolist())
    if size > UNPACKED_MOST:
        most = f"{what} that unpacks to {megabytes(UNPACKED_MOST)} at most"
        raise Refused(most, f"one that unpacks to {megabytes(size)}", "Split it, or convert it to plain text.")
    if any(member.flag_bits & LOCKED for member in archive.infolist()):
        raise Refused(f"{what} that opens freely", "one locked by a password", UNLOCK)
    return archive


def member(archive: zipfile.ZipFile, name: str, what: str) -> bytes:
    """The bytes of one member.

    Raises:
        Refused: it is not there.
    """
    try:
        return archive.read(name)
    except KeyError as error:
        raise Refused(f"{what} in one piece", f"one without its {name}", DAMAGED) from error


def xml(raw: bytes) -> Any:
    """The root of an XML text, with no entity expanded and nothing fetched."""
    from lxml import etree

    return etree.fromstring(raw, etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False))


def dublin_core_title(root: Any) -> str:
    """The title in metadata of Dublin Core, as DOCX, PPTX and EPUB have it, or an empty string."""
    return clean(" ".join((root.findtext(".//{http://purl.org/dc/elements/1.1/}title") or "").split()))
