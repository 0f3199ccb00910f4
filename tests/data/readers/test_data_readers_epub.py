"""Books are read in the order of their spine; a chapter is a section."""

from __future__ import annotations

import zipfile
from io import BytesIO

import pytest

from preread.core.errors import PartlyRead, UnreadableDocument
from preread.data.ingest import read

NAV = '<item id="nav" properties="nav" href="nav.xhtml" media-type="application/xhtml+xml"/>'
NCX = '<item id="ncx" href="toc.ncx" media-type="application/x-dtbncx+xml"/>'
CONTENTS = {
    "OEBPS/nav.xhtml": '<html><body><nav><ol><li><a href="text/ch%201.xhtml#top">The <b>Second</b></a></li>'
    '<li><a href="text/ch%200.xhtml">Not its heading</a></li></ol></nav></body></html>',
    "OEBPS/toc.ncx": '<ncx xmlns="http://www.daisy.org/z3986/2005/ncx/"><navMap><navPoint><navLabel><text>The Second'
    '</text></navLabel><content src="text/ch 1.xhtml#top"/></navPoint></navMap></ncx>',
}


@pytest.mark.parametrize("items", [NAV, NCX, NCX + NAV], ids=["epub3", "epub2", "both"])
def test_chapters_are_sections_by_their_headings_else_by_the_contents(write, epub, sections, items):
    chapters = [
        "<h1>One<br/>by one</h1><p>First&nbsp;word<!-- unseen --> stays.</p><script>unseen()</script>",
        "<p>No <i>head</i>ing here.</p>",
        "<p>It goes on.</p><h2>Three</h2><p><ruby>漢<rt>kan</rt></ruby>字</p>",
        "",
    ]
    document = read(write("a.epub", epub(chapters, items=items, more=CONTENTS)))
    assert document.title == "The Book"
    assert document.text == "One\nby one\n\nFirst word stays.\n\nNo heading here.\n\nIt goes on.\n\nThree\n\n漢字"
    assert sections(document) == [("One by one", "One"), ("The Second", "No heading here."), ("Three", "Three")]
    assert document.place(document.text.index("goes on")) == 'section "The Second"'


def test_structure_of_a_page_is_kept(write, epub):
    body = (
        "<table><tr><th>k</th><th/><th>v</th></tr><tr><td><p>a</p><p>b</p></td>"
        "<td>2<b>2</b></td><td> <i>3</i>.</td></tr></table>"
        "<ul><li><p>one</p></li><li>two<ol><li>deep</li></ol></li><li/></ul><div><div>x<p>y</p></div>z</div>"
        "<pre>if a:\n    <b>b</b>\n\n  c</pre>"
    )
    text = read(write("a.epub", epub([body]))).text
    assert text == "k | | v\na b | 22 | 3.\n\n- one\n- two\n- deep\n-\n\nx\n\ny\n\nz\n\nif a:\n    b\n\n  c"


def test_locked_chapters_are_refused_and_scrambled_fonts_are_not(write, epub):
    def encryption(name: str) -> dict[str, str]:
        part = f'<e:EncryptedData><e:CipherData><e:CipherReference URI="{name}"/></e:CipherData></e:EncryptedData>'
        return {
            "META-INF/encryption.xml": '<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container" '
            f'xmlns:e="http://www.w3.org/2001/04/xmlenc#">{part}</encryption>'
        }

    with pytest.raises(UnreadableDocument, match=r"chapters are encrypted.*\(DRM\)"):
        read(write("a.epub", epub(["<p>Words.</p>"], more=encryption("OEBPS/text/ch%200.xhtml"))))
    assert read(write("b.epub", epub(["<p>Words.</p>"], more=encryption("OEBPS/font.otf")))).text == "Words."


def test_missing_chapters_are_told(write, epub, zipped):
    with zipfile.ZipFile(BytesIO(epub(["<p>One.</p>", "<p>Two.</p>"]))) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    del members["OEBPS/text/ch 1.xhtml"]
    with pytest.warns(PartlyRead, match=r"a\.epub: 1 of 2 chapters are missing from the file: ch 1\.xhtml"):
        assert read(write("a.epub", zipped(members))).text == "One."
    del members["OEBPS/text/ch 0.xhtml"]
    with pytest.raises(UnreadableDocument, match="without any of its chapters"):
        read(write("a.epub", zipped(members)))
