r"""Files become documents: one reader for each suffix, every refusal with its remedy.

All text is cleaned the same way before any offset is taken: `\n` for every line or page break, Unicode NFC, and no
other control characters (prompts use some as place holders). Offsets always count characters of `Document.text`.
"""

from __future__ import annotations

import codecs
import os
import re
import threading
import unicodedata
import warnings
from collections.abc import Callable
from contextlib import closing
from copy import deepcopy
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

from preread.core.errors import PartlyRead, PrereadWarning, UnreadableDocument
from preread.core.types import Document, Mark, sha256

BYTE_ORDER_MARKS = (  # UTF-32's first: its little-endian mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
SIGNATURES = (
    (b"%PDF-", "a PDF"),
    (b"PK\x03\x04", "a zip archive (as DOCX and EPUB are)"),
    (b"\xd0\xcf\x11\xe0", "an old Office file"),
    (b"{\\rtf", "an RTF file"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
)
META_CHARSET = re.compile(rb"<meta[^>]+charset\s*=\s*[\"']?([\w-]+)", re.IGNORECASE)
LINE_BREAK = re.compile("\r\n|[\r\v\f\x1c\x1d\x1e\x85\u2028\u2029]")
NO_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufdd0-\ufdef\ufeff\ufffe\uffff\ud800-\udfff]")

ROMAN = r"(?=[IVXLC])C{0,3}(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})"
NUMBERED = rf"(?:CHAPTER|Chapter|BOOK|Book|PART|Part|VOLUME|Volume)[ ]+(?:{ROMAN}|\d{{1,3}})"
CHAPTER = re.compile(rf"{NUMBERED}(?:[.:]?|[.:—–-]+[ ]*\S.{{0,80}})")
CHAPTER_ALONE = re.compile(rf"{NUMBERED}[.:]?")
NUMERAL = re.compile(rf"{ROMAN}\.?")
UNDERLINE = re.compile(r"([=\-~^\"*#])\1{2,}")
FRONT_MATTER = re.compile(r"\A---\n(.*?\n)---\n", re.DOTALL)
SHORT_PAGE, LEAST_OF_SHORT, LEAST_OF_LONG = 3000, 0.95, 0.4
"""Characters of a short page, and the share of what is visible that the text found as a page's own must be."""
HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")

_pdfium_lock = threading.Lock()  # PDFium is not made for threads


class Reading(NamedTuple):
    """What a reader found: clean text, its marks, and a title where the file names one."""

    text: str
    marks: tuple[Mark, ...] = ()
    title: str = ""


def read(path: Path) -> Document:
    """The document in a file: plain text, Markdown, HTML or PDF, told by its suffix.

    Marks are pages of a PDF, and headings of everything else. The title is the file's own, else its first heading
    (not for plain text, whose chapters do not name it), else the file's name.

    Raises:
        UnreadableDocument: missing, empty, scanned, encrypted, corrupt, of an unknown suffix or not what the suffix
            says.
    """
    if not str(path).isprintable() and any("\ud800" <= char <= "\udfff" for char in str(path)):
        remedy = "Rename the file in Unicode."
        raise _unreadable(Path(ascii(str(path))), "a file name in Unicode", "bytes that are not", remedy)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise _unreadable(
            path,
            f"a file ending in {', '.join(READERS)}",
            f"the suffix {path.suffix!r}",
            "Convert it to PDF, HTML or plain text.",
        )
    if not path.is_file():
        what = "a directory" if path.is_dir() else "no such file" if not path.exists() else "not a regular file"
        raise _unreadable(path, "a file", what, "Check the path; add the files of a directory one by one.")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, "a readable file", str(error), "Check its permissions.") from error
    try:
        reading = reader(raw, path) if raw.strip() else Reading("")
    except (UnreadableDocument, PrereadWarning, MemoryError):
        raise
    except Exception as error:  # a parser's own failure over what it was given
        reason = f"one that its parser fails over ({type(error).__name__}: {error})"
        raise _unreadable(path, "a whole file", reason, "Repair it, or convert it to plain text.") from error
    if not reading.text.strip():
        raise _unreadable(path, "text", "none: the file is empty", "Check that the file was saved.")
    # `..` goes, so that one file is one document; links stay as the user named them.
    source = os.path.abspath(path)  # noqa: PTH100
    return Document(source, reading.title or path.stem, reading.text, reading.marks)


def _plain(raw: bytes, path: Path) -> Reading:
    text = _clean(_decode(raw, path))
    lines = text.split("\n")
    starts = list(accumulate((len(line) + 1 for line in lines), initial=0))
    marks, title = [], ""
    for number, line in enumerate(lines):
        kind = _heading(lines, number)
        if kind:
            indent = len(line) - len(line.lstrip())
            marks.append(Mark(starts[number] + indent, "section", line.strip()))
            title = title or (line.strip() if kind == "underlined" else "")
    return Reading(text, tuple(marks), title)


def _heading(lines: list[str], number: int) -> str:
    """Whether a line is clearly a heading: `underlined`, `chapter`, or nothing. In doubt it is not."""
    line = lines[number].strip()
    if not line or len(line) > 120:
        return ""
    before = lines[number - 1].strip() if number else ""
    after = lines[number + 1].rstrip() if number + 1 < len(lines) else ""
    framed = not before or before == after  # an overline, as reStructuredText has for titles
    if framed and UNDERLINE.fullmatch(after) and len(after) >= len(line) and not UNDERLINE.fullmatch(line):
        return "underlined" if lines[number][0] != " " or before == after else ""
    if not before and (CHAPTER.fullmatch(line) or (not after and NUMERAL.fullmatch(line))):
        return "chapter"
    ended = before.endswith((".", "!", "?", '"', "”", "*"))  # so the line does not run on from the one before
    return "chapter" if ended and CHAPTER_ALONE.fullmatch(line) else ""


def _markdown(raw: bytes, path: Path) -> Reading:
    from markdown_it import MarkdownIt

    text = _clean(_decode(raw, path))
    front = FRONT_MATTER.match(text)
    body = front.end() if front else 0
    parser = MarkdownIt("commonmark")
    words = MarkdownIt("commonmark").parseInline
    starts = list(accumulate((len(line) + 1 for line in text[body:].split("\n")), initial=body))
    tokens = parser.disable("inline").parse(text[body:])  # only headings need their inline markup read
    marks = []
    for token, content in pairwise(tokens):
        if token.type == "heading_open" and token.level == 0 and token.map:
            shown = [part.content or " " for part in words(content.content)[0].children or [] if not part.nesting]
            marks.append(Mark(starts[token.map[0]], "section", " ".join("".join(shown).split())))
    title = re.search(r"^title:[ \t]*(.+)$", front[1], re.MULTILINE) if front else None
    named = title[1].strip().strip("\"'") if title else ""
    return Reading(text, tuple(marks), named or (marks[0].label if marks else ""))


def _html(raw: bytes, path: Path) -> Reading:
    from trafilatura import load_html

    page = _clean(_decode(raw, path, META_CHARSET.search(raw[:4096])))
    if not page.strip():
        return Reading("")
    tree = load_html(page)
    if tree is None:
        raise _unreadable(path, "HTML", "something else", "Save it with the suffix of what it is.")
    title = _clean(" ".join((tree.findtext(".//title") or "").split()))
    labels: list[str] = []
    # A tag at a block's start comes out at the same place in the extracted text, whatever is left out there.
    nonce = sha256(raw)[:8]  # so that no page can hold the tag
    for block in tree.iter(*HEADINGS, "p"):
        number = ""
        if block.tag in HEADINGS:
            number = str(len(labels))
            labels.append(_clean(" ".join(block.text_content().split())))
        if number or block.getparent() is None or block.getparent().tag not in ("li", "td", "th", "dd"):
            block.text = f"⟦{nonce}.{number}⟧{_clean(block.text or '')}"
    extracted = _main_text(tree)
    pieces = re.split(rf"\s*⟦{nonce}\.(\d*)⟧\s*", extracted)  # text, number, text, number, ..., text
    text, marks = pieces[0], []
    for number, piece in zip(pieces[1::2], pieces[2::2], strict=True):
        text += "\n\n" if text else ""
        if number and labels[int(number)]:
            marks.append(Mark(len(text), "section", labels[int(number)]))
        text += piece
    return Reading(text, tuple(marks), title or (marks[0].label if marks else ""))


def _main_text(tree: Any) -> str:
    """The page's own text without what surrounds it; all that is visible where that cannot be told apart.

    Short pages are where cleaners err: there nearly everything must have been kept, or nothing is cleaned but what is
    marked as navigation and the like.
    """
    from trafilatura import extract, html2txt

    page = deepcopy(tree)
    for part in list(page.iter("nav", "aside", "footer", "form", "script", "style", "noscript", "template")):
        part.drop_tree()
    visible = _clean(html2txt(page))
    own = _clean(extract(tree, include_comments=False, favor_recall=True) or "")
    least = LEAST_OF_SHORT if len(visible) < SHORT_PAGE else LEAST_OF_LONG
    return own if len(own) >= least * len(visible) else visible


def _pdf(raw: bytes, path: Path) -> Reading:
    import pypdfium2

    if b"%PDF-" not in raw[:1024]:
        raise _unreadable(path, "a PDF", "a file that is not one", "Save it with the suffix of what it is.")
    with _pdfium_lock:
        try:
            with closing(pypdfium2.PdfDocument(raw)) as pdf:
                title = _clean(pdf.get_metadata_value("Title")).strip()
                labels = [pdf.get_page_label(number) or str(number + 1) for number in range(len(pdf))]
                pages = [_page(pdf, number) for number in range(len(pdf))]
        except pypdfium2.PdfiumError as error:
            if error.err_code == pypdfium2.raw.FPDF_ERR_PASSWORD:
                remedy = "Save a copy without a password and add that."
                raise _unreadable(path, "a PDF that opens freely", "one locked by a password", remedy) from error
            remedy = "Fetch or print the file again, or repair it (for example with qpdf)."
            raise _unreadable(path, "a whole PDF", f"a corrupt one ({error})", remedy) from error
    if not any(page.strip() for page in pages):
        raise _unreadable(
            path,
            "a PDF with a text layer",
            f"{len(pages)} pages without one, as a scan has",
            "Run optical character recognition (OCR) over it first, for example with ocrmypdf.",
        )
    if blank := [label for label, page in zip(labels, pages, strict=True) if not page.strip()]:
        message = (
            f"{path.name}: {len(blank)} of {len(pages)} pages have no text (blank, or scanned): {', '.join(blank)}"
        )
        warnings.warn(message, PartlyRead, stacklevel=3)
    starts = accumulate((len(page) + 1 for page in pages), initial=0)
    marks = [Mark(start, "page", label) for start, label in zip(starts, labels, strict=False)]
    return Reading("\n".join(pages), tuple(marks), title)


def _page(pdf: object, number: int) -> str:
    """One page's text; freed at once, for a long PDF holds much."""
    with closing(pdf.get_page(number)) as page, closing(page.get_textpage()) as layer:  # type: ignore[attr-defined]
        # PDFium writes U+0002 for a hyphen at a line's end; the text keeps what is printed.
        return _clean(layer.get_text_bounded().replace("\x02", "-\n"))


def _decode(raw: bytes, path: Path, declared: re.Match[bytes] | None = None) -> str:
    """Text by byte order mark, else by what the file declares, else UTF-8, else the likeliest encoding."""
    for signature, what in SIGNATURES:
        if raw.startswith(signature):
            remedy = "Rename it to .pdf." if signature == b"%PDF-" else "Convert it to PDF, HTML or plain text."
            raise _unreadable(path, "text, as its suffix says", what, remedy)
    encodings = [name for mark, name in BYTE_ORDER_MARKS if raw.startswith(mark)][:1]
    if not encodings and b"\0" in raw:
        raise _unreadable(path, "text, as its suffix says", "binary data", "Check that this is the right file.")
    encodings = encodings or ([declared[1].decode()] if declared else []) + ["utf-8"]
    for encoding in encodings:
        try:
            return raw.decode(encoding)
        except (UnicodeError, LookupError):
            continue
    from charset_normalizer import from_bytes

    guess = from_bytes(raw).best()
    text = str(guess) if guess else ""
    if not text or sum(1 for _ in NO_TEXT.finditer(text)) > len(text) / 100:
        raise _unreadable(path, "text in a known encoding", "bytes in none", "Save it as UTF-8.")
    return text


def _clean(text: str) -> str:
    r"""Line breaks as `\n`, NFC, and none of the characters that no text holds."""
    return unicodedata.normalize("NFC", NO_TEXT.sub("", LINE_BREAK.sub("\n", text)))


def _unreadable(path: Path, expected: str, got: str, remedy: str) -> UnreadableDocument:
    return UnreadableDocument(f"{expected} at {path}", got, "It was not added.", remedy)


READERS: dict[str, Callable[[bytes, Path], Reading]] = {
    ".txt": _plain,
    ".text": _plain,
    ".rst": _plain,
    ".md": _markdown,
    ".markdown": _markdown,
    ".html": _html,
    ".htm": _html,
    ".xhtml": _html,
    ".pdf": _pdf,
}
