"""PDF: the text layer of every page, with the page's own label."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from preread.data.readers.reading import Reading, Refused, clean, paged, short_enough


def pdf(raw: bytes, _charset: str) -> Reading:
    """A PDF's pages.

    Raises:
        Refused: locked, corrupt, or without a text layer.
    """
    import pypdfium2

    try:
        with closing(pypdfium2.PdfDocument(raw)) as file:
            title = clean(file.get_metadata_value("Title")).strip()
            labels = [clean(file.get_page_label(number)) or str(number + 1) for number in range(len(file))]
            pages, length = [], 0
            for number in range(len(file)):
                pages.append(_page(file, number))
                length += len(pages[-1])
                short_enough(length)
    except pypdfium2.PdfiumError as error:
        if error.err_code == pypdfium2.raw.FPDF_ERR_PASSWORD:
            remedy = "Save a copy without a password and add that."
            raise Refused("a PDF that opens freely", "one locked by a password", remedy) from error
        remedy = "Fetch or print the file again, or repair it (for example with qpdf)."
        raise Refused("a whole PDF", f"a corrupt one ({error})", remedy) from error
    if not any(page.strip() for page in pages):
        remedy = "Run optical character recognition (OCR) over it first, for example with ocrmypdf."
        raise Refused("a PDF with a text layer", f"none on any of its pages ({len(pages)}), as in a scan", remedy)
    return paged(pages, labels, title, "pages")


def _page(file: Any, number: int) -> str:
    """One page's text; freed at once, for a long PDF holds much."""
    with closing(file.get_page(number)) as page, closing(page.get_textpage()) as layer:
        # PDFium writes U+0002 for a hyphen at a line's end; the text keeps what is printed.
        return clean(layer.get_text_bounded().replace("\x02", "-\n"))
