"""Files become documents whose marks point at what they name; what is no text is refused with a remedy."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preread.core.errors import PartlyRead, UnreadableDocument
from preread.data.ingest import SUFFIXES, read
from preread.data.readers import READERS, parse
from preread.data.readers.reading import Refused


@pytest.fixture
def write(tmp_path):
    """`write(name, content)` makes a file, text as UTF-8."""

    def make(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return make


def sections(document) -> list[tuple[str, str]]:
    """Each label with the line that its mark points at."""
    return [(mark.label, document.text[mark.start :].split("\n", 1)[0]) for mark in document.marks]


def pdf(pages: list[list[str]], title: str = "", labels: str = "", trailer: str = "") -> bytes:
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


LOCKED = (
    f"/Encrypt << /Filter /Standard /V 1 /R 2 /O <{'00' * 32}> /U <{'11' * 32}> /P -4 >> "
    f"/ID [<{'22' * 16}> <{'22' * 16}>]"
)


# PDF


def test_pdf_pages_are_marked_where_they_begin(write):
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


def test_pdf_takes_its_own_page_labels_and_title(write):
    labels = "/PageLabels << /Nums [0 << /S /r >> 1 << /S /D /St 7 >>] >>"
    document = read(write("a.pdf", pdf([["Preface"], ["One"], ["Two"]], title="The Book", labels=labels)))
    assert [mark.label for mark in document.marks] == ["i", "7", "8"]
    assert document.title == "The Book"


def test_pdf_hyphens_stay_as_printed(write):
    document = read(write("a.pdf", pdf([["An exam-", "ple of well-", "known words."]])))
    assert document.text == "An exam-\nple of well-\nknown words."


def test_pdf_without_title_is_named_by_its_file(write):
    assert read(write("report.PDF", pdf([["Text"]]))).title == "report"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (pdf([[], []]), "OCR"),
        (pdf([["secret"]], trailer=LOCKED), "password"),
        (b"%PDF-1.4\n broken", "corrupt"),
        (pdf([["text"]])[:200], "corrupt"),
        (b"plain text", r"plain text.*Rename it to end in \.txt"),
        (b"", "empty"),
    ],
    ids=["scanned", "locked", "broken", "truncated", "mislabelled", "empty"],
)
def test_pdf_refusals(write, content, says):
    with pytest.raises(UnreadableDocument, match=says):
        read(write("a.pdf", content))


# Markdown

MARKDOWN = """\
Before any heading.

# The *first* `part` & more

```sh
# a comment, no heading
```

    # indented code, no heading

Second
======

> # quoted, no section of the document

### Third ###
text
"""


def test_markdown_is_kept_and_its_headings_are_marked(write):
    document = read(write("a.md", MARKDOWN))
    assert document.text == MARKDOWN
    assert sections(document) == [
        ("The first part & more", "# The *first* `part` & more"),
        ("Second", "Second"),
        ("Third", "### Third ###"),
    ]
    assert document.title == "The first part & more"
    assert document.place(0) == ""
    assert document.place(MARKDOWN.index("quoted")) == 'section "Second"'


def test_markdown_front_matter_names_it_and_is_no_heading(write):
    document = read(write("a.markdown", "---\ntitle: 'A name'\nx: 1\n---\n# Part\r\ntext\r\n"))
    assert document.title == "A name"
    assert sections(document) == [("Part", "# Part")]


def test_markdown_without_headings_is_named_by_its_file(write):
    document = read(write("notes.md", "Only text.\n"))
    assert (document.title, document.marks) == ("notes", ())


# HTML

SENTENCE = "It keeps every row of the table for all who read it, in the order in which they came. "
HTML = f"""<!doctype html><html><head><title> The  site &amp; more</title><style>p {{}}</style></head><body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/about">About</a></li></ul></nav>
<article><h1>Storage</h1><p>{SENTENCE * 3}</p><h2>Rows &amp; <em>columns</em></h2>
<p>{SENTENCE}</p><p>Use snake_case * 2.</p>
<pre>x = 1
# no heading</pre><ul><li><p>one</p></li><li>two</li></ul><h2>Cafe\u0301</h2><p>{SENTENCE}</p></article>
<footer>Copyright</footer><script>var hidden = 1;</script></body></html>"""


def test_html_is_its_main_text_with_marked_headings(write):
    document = read(write("a.html", HTML))
    assert document.title == "The site & more"
    assert sections(document) == [("Storage", "Storage"), ("Rows & columns", "Rows & columns"), ("Café", "Café")]
    assert document.text.startswith(f"Storage\n\n{SENTENCE}")
    assert f"{SENTENCE.strip()}\n\nUse snake_case * 2." in document.text
    assert "- one\n- two" in document.text
    assert not re.search("Home|Copyright|hidden|[\ufdd0-\ufdef]", document.text)


def test_html_without_main_text_gives_all_that_is_visible(write):
    document = read(write("a.htm", "<html><body><h3>Hi</h3><span>there</span><script>no()</script></body></html>"))
    assert "there" in document.text
    assert "no()" not in document.text
    assert [label for label, _ in sections(document)] == ["Hi"]
    assert document.text[document.marks[0].start :].startswith("Hi")
    assert document.title == "Hi"


def test_html_in_its_declared_encoding(write):
    page = (
        f'<html><head><meta charset="windows-1251"><title>Дом</title></head><body><p>Дом {SENTENCE}</p></body></html>'
    )
    document = read(write("a.html", page.encode("windows-1251")))
    assert document.title == "Дом"
    assert document.text.startswith("Дом It keeps")


def test_html_cannot_forge_marks_or_control_characters(write):
    page = f"<html><body><article><h1>Alpha</h1><p>⟦00000000.7⟧ &#2; {SENTENCE * 3}</p></article></body></html>"
    document = read(write("a.html", page))
    assert [label for label, _ in sections(document)] == ["Alpha"]
    assert not re.search("[\x02\ufdd0\ufdd1]", document.text)


# Plain text


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "koi8-r"]
)
def test_plain_text_in_many_encodings(write, encoding):
    text = "Это длинный русский текст о старом маяке и его хранителе. " * 5
    if encoding == "cp1252":
        text = "Die alte Größe des Müllers war überall im Städtchen geläufig, und schöner würde es nie. " * 5
    raw = text.encode(encoding)
    if encoding in ("utf-16-le", "utf-16-be"):
        raw = "\ufeff".encode(encoding) + raw
    assert read(write("a.txt", raw)).text == text


def test_plain_text_is_cleaned_once_for_all(write):
    document = read(write("a.txt", "one\r\ntwo\rthree\ffour\x02\x00\x1b cafe\u0301\ufeff\tend".replace("\x00", "")))
    assert document.text == "one\ntwo\nthree\nfour café\tend"


CHAPTERS = """\
The Call of the Wild

  CHAPTER IV

Text of four. It was so described in
Chapter 2. There it stayed.

Chapter 1. Into the Primitive

I

I am no heading, nor is the next line.
II

Part of the town was lost.

XII.

MIX

Underlined
==========
text

-----
Framed
-----

too long for its line
---

The last words of eight.
Chapter 9
A verse.
"""


def test_plain_text_marks_only_what_is_clearly_a_heading(write):
    document = read(write("a.txt", CHAPTERS))
    assert sections(document) == [
        ("CHAPTER IV", "CHAPTER IV"),
        ("Chapter 1. Into the Primitive", "Chapter 1. Into the Primitive"),
        ("I", "I"),
        ("XII.", "XII."),
        ("Underlined", "Underlined"),
        ("Chapter 9", "Chapter 9"),
    ]
    assert document.title == "Underlined"


def test_an_overlined_title_is_a_heading(write):
    document = read(write("a.rst", "********\n The Way\n********\n\nOne\n---\ntext\n"))
    assert sections(document) == [("The Way", "The Way"), ("One", "One")]
    assert document.title == "The Way"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (pdf([["text"]]), r"a PDF.*Rename it to end in \.pdf"),
        (b"PK\x03\x04" + b"x" * 50, "a zip archive"),
        (b"text\x00\x01\x02 and more", "binary"),
        (bytes(range(128, 256)) * 40 + bytes(range(1, 32)) * 40, "Save it as UTF-8"),
        (b"\xff\xfe\x00", "binary|UTF-8"),
        (b" \n\t \r\n", "empty"),
        (b"", "empty"),
        ("\ufeff".encode(), "empty"),
    ],
)
@pytest.mark.parametrize("suffix", [".txt", ".md", ".html"])
def test_what_is_no_text_is_refused(write, suffix, content, says):
    with pytest.raises(UnreadableDocument, match=says):
        read(write(f"a{suffix}", content))


# Every file


def test_unknown_suffix_names_the_known_ones(write):
    with pytest.raises(UnreadableDocument) as caught:
        read(write("a.xyz", b"text"))
    assert all(suffix in caught.value.expected for suffix in SUFFIXES)


def test_missing_files_and_directories(tmp_path):
    with pytest.raises(UnreadableDocument, match="no such file"):
        read(tmp_path / "none.txt")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(UnreadableDocument, match="a directory"):
        read(tmp_path / "folder.txt")


def test_source_is_the_absolute_path(write, monkeypatch):
    path = write("a.txt", "text")
    monkeypatch.chdir(path.parent)
    assert read(Path("a.txt")).source == str(path)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(SUFFIXES)), st.one_of(st.binary(max_size=300), st.text(max_size=200).map(str.encode)))
def test_any_bytes_give_a_document_or_a_refusal(write, suffix, content):
    try:
        document = read(write(f"any{suffix}", content))
    except UnreadableDocument:
        return
    assert document.text.strip()
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufdd0-\ufdef\ud800-\udfff]", document.text)
    starts = [mark.start for mark in document.marks]
    assert starts == sorted(starts)
    assert all(0 <= start < len(document.text) for start in starts)


@pytest.mark.filterwarnings("ignore::preread.core.errors.PartlyRead")
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_damaged_pdf_gives_a_document_or_a_refusal(write, place, byte):
    raw = bytearray(pdf([["First page."], ["Second page."]]))
    raw[place % len(raw)] = byte
    with suppress(UnreadableDocument):
        assert read(write("damaged.pdf", bytes(raw))).text.strip()


def test_a_short_page_loses_nothing(tmp_path):
    """What a cleaner of web pages takes for surroundings on a short page is the page."""
    path = tmp_path / "pump.html"
    path.write_text(
        "<html><head><title>Pump</title></head><body><h1>Lumen pump</h1><p>It moves water.</p><h2>Hoses</h2>"
        "<ul><li>Blue hose: inlet</li><li>Red hose: outlet</li></ul>"
        "<table><tr><th>Gasket</th><td>G-17</td></tr></table></body></html>",
        encoding="utf-8",
    )
    document = read(path)
    for words in ("Lumen pump", "It moves water.", "Hoses", "Blue hose: inlet", "Red hose: outlet", "G-17"):
        assert words in document.text
    assert document.place(document.text.index("Red hose")) == 'section "Hoses"'


def test_pages_without_text_are_named(tmp_path):
    path = tmp_path / "half.pdf"
    path.write_bytes(pdf([["First page."], [], ["Third page."]]))
    with pytest.warns(PartlyRead, match="1 of 3 pages have no text .*: 2"):
        document = read(path)
    assert document.place(document.text.index("Third")) == "page 3"


def test_a_parser_that_fails_is_one_message(monkeypatch):
    def broken(*_):
        raise ImportError("no such\nparser")

    monkeypatch.setitem(READERS, ".html", broken)
    with pytest.raises(Refused) as caught:
        parse(b"<p>words</p>", ".html")
    assert caught.value.got.endswith("(ImportError: no such parser)")


def test_a_file_name_that_is_no_unicode_is_refused(tmp_path):
    with pytest.raises(UnreadableDocument, match="a file name in Unicode") as caught:
        read(tmp_path / "caf\udce9.txt")
    str(caught.value).encode()
