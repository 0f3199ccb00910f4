"""A PDF's pages are marked where they begin; what has no text layer, or no key, is refused."""

from __future__ import annotations

import pytest

from preread.core.errors import PartlyRead, UnreadableDocument
from preread.data.ingest import read

LOCKED = (
    f"/Encrypt << /Filter /Standard /V 1 /R 2 /O <{'00' * 32}> /U <{'11' * 32}> /P -4 >> "
    f"/ID [<{'22' * 16}> <{'22' * 16}>]"
)


def test_pdf_pages_are_marked_where_they_begin(write, pdf):
    path = write("a.pdf", pdf([["First page.", "Line two."], ["Second page."], [], ["Fourth."]]))
    with pytest.warns(PartlyRead, match="1 of 4 pages have no text"):
        document = read(path)
    assert [(mark.kind, mark.label) for mark in document.marks] == [("page", label) for label in "1234"]
    assert document.text == "First page.\nLine two.\nSecond page.\n\nFourth."
    for mark, begin in zip(document.marks, ["First page.", "Second page.", "\nFourth.", "Fourth."], strict=True):
        assert document.text[mark.start :].startswith(begin)
    assert document.place(document.text.index("two")) == "page 1"
    assert document.place(document.text.index("two"), document.text.index("Fourth") + 1) == "pages 1-4"
    assert document.place(document.text.index("Fourth")) == "page 4"


def test_pdf_takes_its_own_page_labels_and_title(write, pdf):
    labels = "/PageLabels << /Nums [0 << /S /r >> 1 << /S /D /St 7 >>] >>"
    document = read(write("a.pdf", pdf([["Preface"], ["One"], ["Two"]], title="The Book", labels=labels)))
    assert [mark.label for mark in document.marks] == ["i", "7", "8"]
    assert document.title == "The Book"


def test_pdf_hyphens_stay_as_printed(write, pdf):
    document = read(write("a.pdf", pdf([["An exam-", "ple of well-", "known words."]])))
    assert document.text == "An exam-\nple of well-\nknown words."


def test_pdf_without_title_is_named_by_its_file(write, pdf):
    assert read(write("report.PDF", pdf([["Text"]]))).title == "report"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda pdf: pdf([[], []]), "OCR"),
        (lambda pdf: pdf([["secret"]], trailer=LOCKED), "password"),
        (lambda _: b"%PDF-1.4\n broken", "corrupt"),
        (lambda pdf: pdf([["text"]])[:200], "corrupt"),
        (lambda _: b"plain text", r"plain text.*Rename it to end in \.txt"),
        (lambda _: b"", "empty"),
    ],
    ids=["scanned", "locked", "broken", "truncated", "mislabelled", "empty"],
)
def test_pdf_refusals(write, pdf, content, says):
    with pytest.raises(UnreadableDocument, match=says):
        read(write("a.pdf", content(pdf)))


def test_pages_without_text_are_named(tmp_path, pdf):
    path = tmp_path / "half.pdf"
    path.write_bytes(pdf([["First page."], [], ["Third page."]]))
    with pytest.warns(PartlyRead, match="1 of 3 pages have no text .*: 2"):
        document = read(path)
    assert document.place(document.text.index("Third")) == "page 3"
