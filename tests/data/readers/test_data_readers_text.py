"""Plain text and Markdown: any encoding, and marks only where a heading is clear."""

from __future__ import annotations

import pytest

from preread.core.errors import UnreadableDocument
from preread.data.ingest import read

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


def test_markdown_is_kept_and_its_headings_are_marked(write, sections):
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


def test_markdown_front_matter_names_it_and_is_no_heading(write, sections):
    document = read(write("a.markdown", "---\ntitle: 'A name'\nx: 1\n---\n# Part\r\ntext\r\n"))
    assert document.title == "A name"
    assert sections(document) == [("Part", "# Part")]


def test_markdown_without_headings_is_named_by_its_file(write):
    document = read(write("notes.md", "Only text.\n"))
    assert (document.title, document.marks) == ("notes", ())


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


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("shift-jis", "古い灯台の話は、島の人々の間で長く語り継がれてきた。灯台守は毎日、通る船と天気を書いた。"),
        ("gb18030", "这座古老的灯塔的故事在岛上流传了很久。看守人每天记下经过的船只和天气。"),
        ("latin-1", "Les élèves étaient déjà arrivés à l'école où l'été s'achevait, très tôt et sans gêne. "),
        ("koi8-r", "Смотритель маяка записывал каждое судно и погоду того дня, а зимой шторм достиг острова. "),
    ],
)
def test_an_undeclared_encoding_is_guessed(write, encoding, text):
    assert read(write("a.txt", (text * 8).encode(encoding))).text == text * 8


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


def test_plain_text_marks_only_what_is_clearly_a_heading(write, sections):
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


def test_an_overlined_title_is_a_heading(write, sections):
    document = read(write("a.rst", "********\n The Way\n********\n\nOne\n---\ntext\n"))
    assert sections(document) == [("The Way", "The Way"), ("One", "One")]
    assert document.title == "The Way"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"%PDF-1.4\n1 0 obj", r"a PDF.*Rename it to end in \.pdf"),
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
