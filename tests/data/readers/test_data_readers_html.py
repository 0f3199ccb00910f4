"""Web pages: their own text with marked headings, and nothing lost where a page is short."""

from __future__ import annotations

import re

import pytest

from preread.core.errors import UnreadableDocument
from preread.data.ingest import read

SENTENCE = "It keeps every row of the table for all who read it, in the order in which they came. "
HTML = f"""<!doctype html><html><head><title> The  site &amp; more</title><style>p {{}}</style></head><body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/about">About</a></li></ul></nav>
<article><h1>Storage</h1><p>{SENTENCE * 3}</p><h2>Rows &amp; <em>columns</em></h2>
<p>{SENTENCE}</p><p>Use snake_case * 2.</p>
<pre>x = 1
# no heading</pre><ul><li><p>one</p></li><li>two</li></ul><h2>Cafe\u0301</h2><p>{SENTENCE}</p></article>
<footer>Copyright</footer><script>var hidden = 1;</script></body></html>"""


def test_html_is_its_main_text_with_marked_headings(write, sections):
    document = read(write("a.html", HTML))
    assert document.title == "The site & more"
    assert sections(document) == [("Storage", "Storage"), ("Rows & columns", "Rows & columns"), ("Café", "Café")]
    assert document.text.startswith(f"Storage\n\n{SENTENCE}")
    assert f"{SENTENCE.strip()}\n\nUse snake_case * 2." in document.text
    assert "- one\n- two" in document.text
    assert not re.search("Home|Copyright|hidden|[\ufdd0-\ufdef]", document.text)


def test_html_without_main_text_gives_all_that_is_visible(write, sections):
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


def test_html_cannot_forge_marks_or_control_characters(write, sections):
    page = f"<html><body><article><h1>Alpha</h1><p>⟦00000000.7⟧ &#2; {SENTENCE * 3}</p></article></body></html>"
    document = read(write("a.html", page))
    assert [label for label, _ in sections(document)] == ["Alpha"]
    assert not re.search("[\x02\ufdd0\ufdd1]", document.text)


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


def test_a_long_page_keeps_its_heading_and_its_cells_in_rows(write, sections):
    rows = "".join(f"<tr><td>key {number}</td><td>the value of it is {number * 7}</td></tr>" for number in range(300))
    page = f"<html><body><nav>Home</nav><h2>All values</h2><table>{rows}</table></body></html>"
    document = read(write("a.html", page))
    assert sections(document) == [("All values", "All values")]
    assert "key 299 | the value of it is 2093" in document.text
    assert "Home" not in document.text


def test_a_declared_encoding_is_what_browsers_take_for_it(write):
    """Pages that say Shift-JIS or ISO-8859-1 hold the characters of their wider kin."""
    body = (
        "<html><head><meta http-equiv=content-type content='text/html; charset={}'></head><body><p>{}</p></body></html>"
    )
    page = body.format("Shift_JIS", "髙さは①番です")
    assert read(write("a.html", page.encode("cp932"))).text == "髙さは①番です"
    page = body.format("iso-8859-1", "“Quoted” – 5 €")
    assert read(write("b.html", page.encode("cp1252"))).text == "“Quoted” – 5 €"


ARCHIVE = """From: <Saved by a browser>
MIME-Version: 1.0
Content-Type: multipart/related; type="text/html"; boundary="BORDER"

--BORDER
Content-Type: text/css

p { color: red }
--BORDER
Content-Type: text/html; charset=windows-1252
Content-Transfer-Encoding: quoted-printable

<html><head><title>Caf=E9</title></head><body><h1>Saved</h1><p>One l=
ine =3D one.</p></body></html>
--BORDER--
"""


def test_a_web_archive_is_its_page(write, sections):
    document = read(write("a.mhtml", ARCHIVE.replace("\n", "\r\n")))
    assert (document.title, document.text) == ("Café", "Saved\n\nOne line = one.")
    assert sections(document) == [("Saved", "Saved")]


def test_nothing_is_left_out_without_a_word(write):
    """What stops a parser of HTML half-way by default: much text in one place, and deep nesting."""
    document = read(write("a.html", f"<pre>{'word ' * 2_200_000}</pre><p>the end"))
    assert document.text.endswith("\n\nthe end")
    assert document.text.count("word") == 2_200_000
    assert read(write("b.html", "<div>" * 300 + "deep" + "</div>" * 300 + "<p>the end")).text == "deep\n\nthe end"
    with pytest.raises(UnreadableDocument, match="nested 2,000 deep at most"):
        read(write("c.html", "<p><font>x" * 3000 + "<p>the end"))


def test_a_fragment_is_a_page(write):
    assert read(write("a.html", "one <b>two</b> &amp; three")).text == "one two & three"
