r"""One reader for each kind of file: bytes become clean text with marks.

All text is cleaned the same way before any offset is taken: `\n` for every line or page break, Unicode NFC, and no
other control characters (prompts use some as place holders).
"""

from __future__ import annotations

from collections.abc import Callable

from preread.data.readers.epub import epub
from preread.data.readers.html import html, mhtml
from preread.data.readers.kinds import BINARY, as_labelled
from preread.data.readers.office import docx, pptx
from preread.data.readers.pdf import pdf
from preread.data.readers.reading import Reading, Refused, short_enough
from preread.data.readers.text import markdown, plain

READERS: dict[str, Callable[[bytes, str], Reading]] = {
    ".txt": plain,
    ".text": plain,
    ".rst": plain,
    ".md": markdown,
    ".markdown": markdown,
    ".html": html,
    ".htm": html,
    ".xhtml": html,
    ".mhtml": mhtml,
    ".mht": mhtml,
    ".pdf": pdf,
    ".docx": docx,
    ".pptx": pptx,
    ".epub": epub,
}
"""Who reads what: from the file's bytes and the encoding that was declared outside of it (or an empty string)."""


def parse(raw: bytes, suffix: str, charset: str = "") -> Reading:
    """Text, marks and title of a file's content.

    Args:
        raw: the whole file.
        suffix: one of `READERS`.
        charset: the encoding that a server declared, or an empty string.

    Raises:
        Refused: empty, scanned, encrypted, corrupt, too long, or not what the suffix says.
        MemoryError: there was not enough.
    """
    if not raw.strip():
        raise Refused("text", "none: the file is empty", "Check that the file was saved.")
    as_labelled(raw, suffix)
    try:
        reading = READERS[suffix](raw, charset)
    except (Refused, MemoryError):
        raise
    except Exception as error:  # a parser's own failure over what it was given
        reason = f"one that its parser fails over ({type(error).__name__}: {str(error)[:200]})"
        raise Refused("a whole file", reason, "Repair it, or convert it to plain text.") from error
    if not reading.text.strip():
        if suffix in BINARY:
            remedy = "Pictures of text need optical character recognition (OCR) first."
            raise Refused("text", "none: it holds pictures, or nothing", remedy)
        raise Refused("text", "none: the file is empty", "Check that the file was saved.")
    short_enough(len(reading.text))
    return reading
