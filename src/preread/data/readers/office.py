"""Word documents and presentations: DOCX by its headings, PPTX by its slides."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Any
from zipfile import ZipFile

from preread.data.readers.archive import dublin_core_title, open_archive, xml
from preread.data.readers.markup import Writer, tree_of
from preread.data.readers.reading import Reading, clean, paged, short_enough

WORD, SLIDES = "a Word document (DOCX)", "a presentation (PPTX)"
STYLES = "p[style-name='Title'] => h1:fresh"
NO_TITLE = "PowerPoint Presentation"
"""The title that every presentation has whose author gave it none."""


def docx(raw: bytes, _charset: str) -> Reading:
    """A Word document with its tables, lists and notes; its headings are its sections."""
    import mammoth

    with open_archive(raw, WORD) as archive:
        title = _title(archive)
    page = mammoth.convert_to_html(BytesIO(raw), convert_image=lambda _: [], style_map=STYLES).value
    writer = Writer()
    writer.tree(tree_of(page))
    return writer.reading(title)


def _title(archive: ZipFile) -> str:
    core = "docProps/core.xml"
    return dublin_core_title(xml(archive.read(core))) if core in archive.namelist() else ""


def pptx(raw: bytes, _charset: str) -> Reading:
    """A presentation: every slide is a page, numbered from 1, with its tables and its speaker's notes."""
    from pptx import Presentation

    with open_archive(raw, SLIDES) as archive:
        title = _title(archive)
    slides, length, first = [], 0, ""
    for slide in Presentation(BytesIO(raw)).slides:
        lines = [line for shape in slide.shapes for line in _lines(shape)]
        if slide.has_notes_slide and (frame := slide.notes_slide.notes_text_frame) is not None and frame.text.strip():
            lines.append(f"Notes: {frame.text}")
        slides.append(clean("\n".join(line for line in lines if line.strip())))
        length += len(slides[-1])
        short_enough(length)
        heading = slide.shapes.title
        first = first or (" ".join(clean(heading.text_frame.text).split()) if heading is not None else "")
    if not any(slides):
        return Reading("")
    labels = [str(number) for number in range(1, len(slides) + 1)]
    return paged(slides, labels, title if title and title != NO_TITLE else first, "slides")


def _lines(shape: Any) -> Iterator[str]:
    """The text of a shape and, where it is a group, of all in it; cells of a table stand in one line a row."""
    for part in getattr(shape, "shapes", ()):
        yield from _lines(part)
    if shape.has_text_frame:
        yield shape.text_frame.text
    if getattr(shape, "has_table", False):
        for row in shape.table.rows:
            yield " | ".join(" ".join(cell.text.split()) for cell in row.cells)
