"""Word documents keep their words in order with marked headings; a slide is a page."""

from __future__ import annotations

import zipfile
from io import BytesIO

import pytest
from lxml import etree
from pptx.util import Inches

from preread.core.errors import PartlyRead, UnreadableDocument
from preread.data.ingest import read

WORDS = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"


def report(document):
    document.add_heading("The report", 0)
    document.add_paragraph("Before the first part, with ").add_run("bold words").bold = True
    document.add_heading("Costs & gains", 1)
    table = document.add_table(2, 3)
    for cell, text in zip(
        (*table.rows[0].cells, *table.rows[1].cells), ("name", "", "sum", "a\nb", "2", "3"), strict=True
    ):
        cell.text = text
    document.add_paragraph("first", style="List Bullet")
    document.add_paragraph("second", style="List Bullet")
    document.add_heading("Cafe\u0301", 3)
    document.add_paragraph("Line one\nline two")


def test_docx_headings_are_marked_and_tables_keep_their_cells(write, docx, sections):
    document = read(write("a.docx", docx(report, title=" Year  report ")))
    assert document.title == "Year report"
    assert document.text == (
        "The report\n\nBefore the first part, with bold words\n\nCosts & gains\n\nname | | sum\na b | 2 | 3\n\n"
        "- first\n- second\n\nCafé\n\nLine one\nline two"
    )
    assert sections(document) == [(label, label) for label in ("The report", "Costs & gains", "Café")]
    assert document.place(document.text.index("| 2 |")) == 'section "Costs & gains"'


def test_docx_without_a_title_is_named_by_its_first_heading(write, docx):
    assert read(write("a.docx", docx(report))).title == "The report"
    assert read(write("b.docx", docx(lambda document: document.add_paragraph("Only text.")))).title == "b"


def test_docx_reads_controls_and_accepted_changes_but_not_what_was_deleted(write, docx):
    """Two places where a reader of runs alone loses words: content controls, and tracked insertions."""

    def fill(document):
        inserted, deleted, controlled = (document.add_paragraph(word) for word in ("inserted", "deleted", "controlled"))
        for paragraph, kind in ((inserted, "ins"), (deleted, "del")):
            change = etree.SubElement(paragraph._p, f"{WORDS}{kind}")
            change.append(paragraph.runs[0]._r)
        for text in deleted._p.iter(f"{WORDS}t"):
            text.tag = f"{WORDS}delText"
        control = etree.Element(f"{WORDS}sdt")
        controlled._p.addprevious(control)
        etree.SubElement(control, f"{WORDS}sdtContent").append(controlled._p)

    assert read(write("a.docx", docx(fill))).text == "inserted\n\ncontrolled"


def test_pptx_slides_are_pages(write, pptx):
    def fill(deck):
        first = deck.slides.add_slide(deck.slide_layouts[1])
        first.shapes.title.text, first.placeholders[1].text = "Plans", "one\ntwo"
        first.notes_slide.notes_text_frame.text = "Say this."
        second = deck.slides.add_slide(deck.slide_layouts[6])
        table = second.shapes.add_table(2, 2, 0, 0, Inches(4), Inches(2)).table
        for place, text in {(0, 0): "key", (0, 1): "value", (1, 0): "a", (1, 1): "7"}.items():
            table.cell(*place).text = text
        group = second.shapes.add_group_shape().shapes.add_group_shape()
        group.shapes.add_textbox(0, 0, 1, 1).text_frame.text = "In a group"
        deck.slides.add_slide(deck.slide_layouts[6])

    with pytest.warns(PartlyRead, match=r"a.pptx: 1 of 3 slides have no text .*: 3$"):
        document = read(write("a.pptx", pptx(fill, title="PowerPoint Presentation")))
    assert document.title == "Plans"
    assert document.text == "Plans\none\ntwo\nNotes: Say this.\nkey | value\na | 7\nIn a group\n"
    assert [(mark.kind, mark.label) for mark in document.marks] == [("page", "1"), ("page", "2"), ("page", "3")]
    assert document.place(document.text.index("two")) == "page 1"
    assert document.place(document.text.index("In a group")) == "page 2"


@pytest.mark.parametrize("suffix", [".docx", ".pptx"])
def test_office_files_without_words_need_recognition(write, docx, pptx, suffix):
    raw = docx(lambda _: None) if suffix == ".docx" else pptx(lambda deck: deck.slides.add_slide(deck.slide_layouts[6]))
    with pytest.raises(UnreadableDocument, match=r"holds pictures, or nothing.*OCR"):
        read(write(f"a{suffix}", raw))


def test_a_linked_picture_opens_no_file(write, docx, tmp_path):
    """A document may name files of its reader's machine; their content must not come into the text."""
    secret = tmp_path / "secret.png"
    secret.write_text("the secret")
    raw = docx(report)
    out = BytesIO()
    drawing = (
        '<w:p><w:r><w:drawing><wp:inline xmlns:wp="http://schemas.openxmlformats.org/drawingml/2006/'
        'wordprocessingDrawing"><a:graphic xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"><a:blip '
        'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships" r:link="rId99"/></a:graphic>'
        "</wp:inline></w:drawing></w:r></w:p></w:body>"
    )
    link = (
        '<Relationship Id="rId99" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/image" '
        f'Target="file://{secret}" TargetMode="External"/></Relationships>'
    )
    with zipfile.ZipFile(BytesIO(raw)) as before, zipfile.ZipFile(out, "w") as after:
        for name in before.namelist():
            content = before.read(name)
            if name == "word/document.xml":
                content = content.replace(b"</w:body>", drawing.encode())
            if name == "word/_rels/document.xml.rels":
                content = content.replace(b"</Relationships>", link.encode())
            after.writestr(name, content)
    text = read(write("a.docx", out.getvalue())).text
    assert text == read(write("b.docx", raw)).text
