"""Files for tests of readers: small ones, built as they are needed."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path

import pytest
from docx import Document as WordDocument
from pptx import Presentation

from preread.core.errors import UnreadableDocument
from preread.core.types import Document
from preread.data.ingest import read
from preread.data.readers.reading import TEXT_MOST


@pytest.fixture
def write(tmp_path) -> Callable[[str, str | bytes], Path]:
    """`write(name, content)` makes a file, text as UTF-8."""

    def make(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return make


def _sections(document: Document) -> list[tuple[str, str]]:
    """Each label with the line that its mark points at."""
    return [(mark.label, document.text[mark.start :].split("\n", 1)[0]) for mark in document.marks]


def _pdf(pages: list[list[str]], title: str = "", labels: str = "", trailer: str = "") -> bytes:
    """A small PDF: each page a list of lines in Helvetica."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        f"<< /Type /Catalog /Pages 2 0 R {labels} >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for number, lines in enumerate(pages):
        shown = "BT /F1 12 Tf 72 720 Td 14 TL " + " ".join(f"({line}) Tj T*" for line in lines) + " ET"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * number} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        objects.append(f"<< /Length {len(shown)} >>\nstream\n{shown}\nendstream")
    objects.append(f"<< /Title ({title}) >>")
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode("latin-1")
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    end = f"<< /Size {len(objects) + 1} /Root 1 0 R /Info {len(objects)} 0 R {trailer} >>"
    tail = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer\n{end}\nstartxref\n{len(out)}\n%%EOF\n"
    return out + tail.encode()


def _zipped(members: Mapping[str, str | bytes]) -> bytes:
    """A zip archive of the members, in their order."""
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def _docx(fill: Callable[..., object], title: str = "") -> bytes:
    """A Word document; `fill(document)` writes into it."""
    document, out = WordDocument(), BytesIO()
    document.core_properties.title = title
    fill(document)
    document.save(out)
    return out.getvalue()


def _pptx(fill: Callable[..., object], title: str = "") -> bytes:
    """A presentation; `fill(presentation)` writes into it."""
    presentation, out = Presentation(), BytesIO()
    presentation.core_properties.title = title
    fill(presentation)
    presentation.save(out)
    return out.getvalue()


CONTAINER = """<?xml version="1.0"?>
<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>
<rootfile full-path="OEBPS/package.opf" media-type="application/oebps-package+xml"/></rootfiles></container>"""
PAGE = """<?xml version="1.0" encoding="utf-8"?><!DOCTYPE html>
<html xmlns="http://www.w3.org/1999/xhtml"><head><title/></head><body>%s</body></html>"""


def _epub(
    chapters: list[str], title: str = "The Book", items: str = "", more: Mapping[str, str | bytes] | None = None
) -> bytes:
    """A book of chapters, each the content of a page's body.

    Args:
        chapters: they become OEBPS/text/ch 0.xhtml and so on.
        title: in the book's metadata.
        items: more lines of the manifest.
        more: more members of the archive.
    """
    page = '<item id="c{0}" href="text/ch%20{0}.xhtml" media-type="application/xhtml+xml"/>'
    manifest = "".join(page.format(number) for number in range(len(chapters)))
    spine = "".join(f'<itemref idref="c{number}"/>' for number in range(len(chapters)))
    package = (
        '<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" version="3.0"><metadata '
        f'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>{title}</dc:title></metadata>'
        f"<manifest>{manifest}{items}</manifest><spine>{spine}</spine></package>"
    )
    pages = {f"OEBPS/text/ch {number}.xhtml": PAGE % body for number, body in enumerate(chapters)}
    first = {"mimetype": "application/epub+zip", "META-INF/container.xml": CONTAINER, "OEBPS/package.opf": package}
    return _zipped({**first, **pages, **(more or {})})


@pytest.fixture(scope="session")
def sections() -> Callable[[Document], list[tuple[str, str]]]:
    return _sections


@pytest.fixture(scope="session")
def pdf() -> Callable[..., bytes]:
    return _pdf


@pytest.fixture(scope="session")
def zipped() -> Callable[[Mapping[str, str | bytes]], bytes]:
    return _zipped


@pytest.fixture(scope="session")
def docx() -> Callable[..., bytes]:
    return _docx


@pytest.fixture(scope="session")
def pptx() -> Callable[..., bytes]:
    return _pptx


@pytest.fixture(scope="session")
def epub() -> Callable[..., bytes]:
    return _epub


def _words(document):
    document.add_heading("Heading", 1)
    document.add_paragraph("Some words.")
    document.add_table(1, 2).cell(0, 0).text = "cell"


def _slides(deck):
    slide = deck.slides.add_slide(deck.slide_layouts[1])
    slide.shapes.title.text, slide.placeholders[1].text = "Title", "Body"


@pytest.fixture(scope="session")
def whole() -> dict[str, bytes]:
    """A good file of each kind."""
    return {
        ".pdf": _pdf([["First page."], ["Second page."]], title="Title"),
        ".docx": _docx(_words),
        ".pptx": _pptx(_slides),
        ".epub": _epub(["<h1>One</h1><p>Words.</p>", "<p>More.</p>"]),
        ".html": b"<html><head><title>T</title></head><body><h1>One</h1><p>Words.</p></body></html>",
        ".mhtml": b"Content-Type: text/html; charset=utf-8\r\n\r\n<h1>One</h1><p>Words.</p>",
        ".md": b"---\ntitle: T\n---\n# One\n\nWords.\n",
        ".txt": b"CHAPTER I\n\nWords.\n",
    }


def _told(path) -> Document | str:
    """The document in a file, or the line that refuses it; neither may hold what is in files of this machine."""
    try:
        document = read(path)
    except UnreadableDocument as error:
        message = str(error)
    else:
        assert document.text.strip()
        assert len(document.text) <= TEXT_MOST
        assert "root:" not in document.text
        return document
    assert "\n" not in message
    assert "root:" not in message
    return message


@pytest.fixture(scope="session")
def told() -> Callable[[Path], Document | str]:
    return _told
