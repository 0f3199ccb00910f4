"""Damaged, disguised and malicious files: a document or one line, within time and memory, never anything else."""

from __future__ import annotations

import os
import random
import resource
import struct
import sys
import time
import zipfile
import zlib
from contextlib import suppress
from io import BytesIO

import pytest

from preread.core.errors import UnreadableDocument
from preread.data import bounded
from preread.data.ingest import SUFFIXES, fingerprint, read
from preread.data.readers.reading import FILE_MOST, TEXT_MOST, UNPACKED_MOST, Refused

pytestmark = pytest.mark.filterwarnings("ignore::preread.core.errors.PartlyRead")
ENTITIES = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a0 "ha">%s]>' % "".join(
    f'<!ENTITY a{level} "{f"&a{level - 1};" * 10}">' for level in range(1, 11)
)


def words(document):
    document.add_heading("Heading", 1)
    document.add_paragraph("Some words.")
    document.add_table(1, 2).cell(0, 0).text = "cell"


def slides(deck):
    slide = deck.slides.add_slide(deck.slide_layouts[1])
    slide.shapes.title.text, slide.placeholders[1].text = "Title", "Body"


@pytest.fixture(scope="module")
def whole(pdf, docx, pptx, epub):
    """A good file of each kind."""
    return {
        ".pdf": pdf([["First page."], ["Second page."]], title="Title"),
        ".docx": docx(words),
        ".pptx": pptx(slides),
        ".epub": epub(["<h1>One</h1><p>Words.</p>", "<p>More.</p>"]),
        ".html": b"<html><head><title>T</title></head><body><h1>One</h1><p>Words.</p></body></html>",
        ".mhtml": b"Content-Type: text/html; charset=utf-8\r\n\r\n<h1>One</h1><p>Words.</p>",
        ".md": b"---\ntitle: T\n---\n# One\n\nWords.\n",
        ".txt": b"CHAPTER I\n\nWords.\n",
    }


def refusal(path) -> str:
    """The one line that refuses a file."""
    with pytest.raises(UnreadableDocument) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 800
    return message


# Disguised


NAMES = {".pdf": "a PDF", ".docx": r"DOCX", ".pptx": "PPTX", ".epub": "EPUB", ".html": "HTML", ".txt": "plain text"}


@pytest.mark.parametrize("claimed", [".pdf", ".docx", ".pptx", ".epub", ".txt"])
@pytest.mark.parametrize("true", list(NAMES))
def test_a_mislabelled_file_is_told_what_it_is_and_how_to_add_it(write, whole, claimed, true):
    path = write(f"a{claimed}", whole[true])
    if claimed == true or (claimed == ".txt" and true == ".html"):  # any text may be shown as it is
        assert read(path).text
        return
    message = refusal(path)
    assert f"got {NAMES[true]}" in message or NAMES[true] in message.split("got ")[1]
    assert f"Rename it to end in {true}" in message
    assert read(write(f"b{true}", path.read_bytes())).text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            b"\xd0\xcf\x11\xe0" + b"\0" * 600 + "EncryptedPackage".encode("utf-16-le"),
            "locked by a password.*Save a copy",
        ),
        (b"\xd0\xcf\x11\xe0" + b"\0" * 600, "old Office file.*Save it as DOCX"),
        (b"{\\rtf1 words}", "RTF.*Convert"),
        (b"\x1f\x8b\x08" + b"\0" * 20, "gzip.*Unpack"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 20, "PNG.*OCR"),
        (bytes(range(256)) * 4, "something else|corrupt|binary"),
        (b"\0" * 4096, "something else|binary"),
        (b"", "empty"),
        (b"\n\n ", "empty"),
    ],
    ids=["locked office", "old office", "rtf", "gzip", "png", "noise", "zeros", "nothing", "blank"],
)
@pytest.mark.parametrize("suffix", [".docx", ".pptx", ".epub", ".pdf", ".txt"])
def test_what_is_no_document_is_named(write, suffix, content, says):
    import re

    assert re.search(says, refusal(write(f"a{suffix}", content)))


def test_a_locked_archive_is_refused(write, whole):
    raw = bytearray(whole[".docx"])
    for at in (at for at in range(len(raw)) if raw[at : at + 4] == b"PK\x01\x02"):
        raw[at + 8] |= 1  # "encrypted" in every entry of the directory
    assert "locked by a password" in refusal(write("a.docx", bytes(raw)))


def test_other_archives_are_named(write, zipped):
    assert "XLSX" in refusal(write("a.docx", zipped({"xl/workbook.xml": "<x/>"})))
    assert "OpenDocument" in refusal(write("a.docx", zipped({"content.xml": "<x/>"})))
    assert "Unpack it" in refusal(write("a.epub", zipped({"a.txt": "words"})))
    assert "Unpack it" in refusal(write("a.txt", zipped({"a.txt": "words"})))


# Not files


def test_what_is_no_regular_file_is_refused_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    (tmp_path / "folder.txt").mkdir()
    for name in ("pipe", "zero", "loop", "folder", "none"):
        path = tmp_path / f"{name}.txt"
        refusal(path)
        with pytest.raises(UnreadableDocument):
            fingerprint(path)
    for name in ("a" * 300 + ".txt", "nul\0.txt", "two\nlines.txt", "two\nlines.xyz"):
        refusal(tmp_path / name)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that opens and cannot be read")
def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "memory.txt").symlink_to("/proc/self/mem")
    assert "a readable file" in refusal(tmp_path / "memory.txt")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_without_permission_is_one_line(write):
    path = write("a.txt", "text")
    path.chmod(0)
    assert "permission" in refusal(path).lower()


def test_a_fingerprint_is_of_the_bytes_alone(write):
    first, second, third = write("a.txt", "text"), write("b.md", "text"), write("c.txt", "text ")
    assert fingerprint(first) == fingerprint(str(second)) != fingerprint(third)
    assert len(fingerprint(first)) == 64


# Damaged


def damaged(raw: bytes, dice: random.Random) -> bytes:
    """One to eight wounds: bytes changed, a piece cut out, doubled or overwritten, or the end lost."""
    out = bytearray(raw)
    for _ in range(dice.randint(1, 8)):
        at, length = dice.randrange(len(out) + 1), dice.randint(1, 64)
        wound = dice.randrange(5)
        if wound == 0:
            out[at : at + length] = dice.randbytes(length)
        elif wound == 1:
            del out[at : at + length]
        elif wound == 2:
            out[at:at] = out[at : at + length]
        elif wound == 3:
            out[at : at + 1] = bytes([dice.randrange(256)])
        elif len(out) > 64:
            del out[dice.randrange(64, len(out)) :]
    return bytes(out)


def damaged_inside(raw: bytes, dice: random.Random) -> bytes:
    """A sound archive, one of whose members is damaged or gone: the damage reaches the parser of its markup."""
    out = BytesIO()
    with zipfile.ZipFile(BytesIO(raw)) as before, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as after:
        victim = dice.choice([name for name in before.namelist() if name.endswith((".xml", ".rels", ".opf", ".xhtml"))])
        for name in before.namelist():
            content = before.read(name)
            if name != victim:
                after.writestr(name, content)
            elif dice.random() < 0.9:
                after.writestr(name, damaged(content, dice))
    return out.getvalue()


@pytest.mark.parametrize("suffix", [".pdf", ".docx", ".pptx", ".epub", ".html", ".mhtml", ".md", ".txt"])
def test_damaged_files_give_a_document_or_a_refusal(write, whole, suffix):
    """400 files, the same ones each time; whatever comes is a document, or a refusal in one line."""
    dice = random.Random(suffix)
    archive = suffix in (".docx", ".pptx", ".epub")
    read(write(f"whole{suffix}", whole[suffix]))
    for number in range(50):
        inside = archive and number % 2
        raw = (damaged_inside if inside else damaged)(whole[suffix], dice)
        start = time.monotonic()
        try:
            document = read(write(f"a{suffix}", raw))
        except UnreadableDocument as error:
            assert "\n" not in str(error)
        else:
            assert document.text.strip()
            assert all(0 <= mark.start <= len(document.text) for mark in document.marks)
        assert time.monotonic() - start < 20


# Bombs


def deflated(size: int, byte: bytes = b"a") -> bytes:
    return zlib.compress(byte * size, 9)


def pdf_of(stream: bytes, count: int = 1) -> bytes:
    """A PDF whose page says `count` times the same compressed stream."""
    contents = " ".join(["4 0 R"] * count)
    objects = (
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents [{contents}] /Resources << /Font << /F1 "
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>".encode(),
        b"<< /Filter /FlateDecode /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
    )
    body = b"".join(b"%d 0 obj\n%s\nendobj\n" % (number, content) for number, content in enumerate(objects, 1))
    return b"%PDF-1.4\n" + body + b"trailer << /Size 5 /Root 1 0 R >>\n%%EOF\n"


def with_member(raw: bytes, name: str, content: bytes) -> bytes:
    out = BytesIO()
    with zipfile.ZipFile(BytesIO(raw)) as before, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as after:
        for other in before.namelist():
            if other != name:
                after.writestr(other, before.read(other))
        after.writestr(name, content)
    return out.getvalue()


def lying(raw: bytes, name: str, size: int) -> bytes:
    """The archive, saying of one member in both of its headers that it unpacks to `size` bytes."""
    out = bytearray(raw)
    for signature, at_size, at_name in ((b"PK\x03\x04", 22, 30), (b"PK\x01\x02", 24, 46)):
        at = 0
        while (at := out.find(signature, at)) >= 0:
            if out[at + at_name :].startswith(name.encode()):
                out[at + at_size : at + at_size + 4] = struct.pack("<I", size)
            at += 4
    return bytes(out)


def bombs(whole, epub, zipped):
    large = b"<w:p/>" * 20_000_000
    nested = zipped({f"{number}.zip": zipped({"a": b"\0" * 10_000_000}) for number in range(5)})
    page = "<html><body>%s</body></html>"
    swollen = with_member(whole[".docx"], "word/media/image.png", b"\0" * (UNPACKED_MOST + 1))
    yield "unpacks to too much", ".docx", swollen
    yield "says it unpacks to too much", ".epub", lying(whole[".epub"], "OEBPS/text/ch 0.xhtml", 4_000_000_000)
    yield (
        "says it unpacks to little",
        ".docx",
        lying(with_member(whole[".docx"], "word/document.xml", large), "word/document.xml", 99),
    )
    yield "markup without end", ".docx", with_member(whole[".docx"], "word/document.xml", large)
    yield "nested archives", ".docx", with_member(nested, "word/document.xml", b"<w:document/>")
    yield "nested archives as a book", ".epub", with_member(nested, "META-INF/container.xml", b"<container/>")
    for suffix, name in (
        (".docx", "word/document.xml"),
        (".docx", "docProps/core.xml"),
        (".docx", "[Content_Types].xml"),
        (".pptx", "ppt/presentation.xml"),
        (".pptx", "ppt/slides/slide1.xml"),
        (".epub", "META-INF/container.xml"),
        (".epub", "OEBPS/package.opf"),
    ):
        yield f"entities in {name}", suffix, with_member(whole[suffix], name, f"{ENTITIES}<x>&a10;</x>".encode())
    yield "entities in a page", ".xhtml", f"{ENTITIES}<html><body><p>&a10;</p></body></html>".encode()
    outside = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><x>&e;</x>'
    yield "entities of files", ".docx", with_member(whole[".docx"], "word/document.xml", outside.encode())
    yield "entities of files in a book", ".epub", with_member(whole[".epub"], "OEBPS/package.opf", outside.encode())
    yield "deep tags", ".html", b"<div>" * 1_000_000 + b"x"
    yield "deep markup", ".docx", with_member(whole[".docx"], "word/document.xml", b"<x>" * 3_000_000)
    yield "many cells", ".html", (page % ("<table><tr>" + "<td>x" * 1_000_000)).encode()
    yield "wide rows", ".epub", epub(["<table><tr>" + "<td>x</td>" * 200_000 + "</tr></table>"])
    yield "deep quotes", ".md", b">" * 1_000_000 + b" x"
    yield "deep lists", ".md", b"- " * 500_000 + b"x"
    yield "open brackets", ".md", b"# " + b"![" * 300_000
    yield "a long line", ".txt", b"x" * 19_000_000
    yield "many lines", ".txt", b"\n" * 19_000_000 + b"x"
    yield "too much text", ".txt", b"x" * (TEXT_MOST + 1)
    yield "a stream without end", ".pdf", pdf_of(deflated(1_500_000_000))
    yield "streams over streams", ".pdf", pdf_of(zlib.compress(deflated(1_000_000_000), 9).join([b"", b""]))
    yield "one stream many times", ".pdf", pdf_of(deflated(3_000_000, b"BT /F1 9 Tf (words) Tj ET "), 2000)
    yield "a count that lies", ".pdf", whole[".pdf"].replace(b"/Count 2", b"/Count 2000000000")
    yield (
        "parts without end",
        ".mhtml",
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\n" * 1_000_000,
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_bombs_stay_within_time_and_memory(write, whole, epub, zipped):
    bounded._close_all()
    for name, suffix, raw in bombs(whole, epub, zipped):
        path = write(f"bomb{suffix}", raw)
        start = time.monotonic()
        said = "read"
        try:
            document = read(path)
            assert len(document.text) <= TEXT_MOST
            assert "root:" not in document.text
        except UnreadableDocument as error:
            said = str(error)
            assert "\n" not in said
            assert "root:" not in said
        seconds = time.monotonic() - start
        sys.stdout.write(f"{seconds:6.2f} s  {name}: {said[:200]}\n")
        assert seconds < bounded.time_for(path.stat().st_size) + 2, name
    bounded._close_all()
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    assert most < bounded.MEMORY_MOST
