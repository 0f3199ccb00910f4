"""Files made to exhaust whoever reads them stay within time and memory."""

from __future__ import annotations

import struct
import sys
import threading
import time
import zipfile
import zlib
from contextlib import suppress
from io import BytesIO

import psutil
import pytest

from preread.data import bounded
from preread.data.readers.reading import TEXT_MOST, UNPACKED_MOST

LEVELS = "".join(f'<!ENTITY a{level} "{f"&a{level - 1};" * 10}">' for level in range(1, 11))
ENTITIES = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a0 "ha">{LEVELS}]>'


def deflated(size: int, words: bytes = b"a") -> bytes:
    """The words again and again, `size` bytes of them, compressed."""
    piece, packer = words * (1_000_000 // len(words)), zlib.compressobj(9)
    return b"".join([*(packer.compress(piece) for _ in range(size // len(piece))), packer.flush()])


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
    space = b"http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    large = b'<w:document xmlns:w="%s"><w:body>%s' % (space, b"<w:p/>" * 10_000_000)
    nested = zipped({f"{number}.zip": zipped({"a": b"\0" * 10_000_000}) for number in range(5)})
    page = "<html><body>%s</body></html>"
    swollen = with_member(whole[".docx"], "word/media/image.png", b"\0" * (UNPACKED_MOST + 1))
    endless = deflated(1_100_000_000)
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
    yield "many cells", ".html", (page % ("<table><tr>" + "<td>x" * 400_000)).encode()
    yield "wide rows", ".epub", epub(["<table><tr>" + "<td>x</td>" * 200_000 + "</tr></table>"])
    yield "deep quotes", ".md", b">" * 1_000_000 + b" x"
    yield "deep lists", ".md", b"- " * 500_000 + b"x"
    yield "open brackets", ".md", b"# " + b"![" * 300_000
    yield "a long line", ".txt", b"x" * 19_000_000
    yield "many lines", ".txt", b"\n" * 19_000_000 + b"x"
    yield "too much text", ".txt", b"x" * (TEXT_MOST + 1)
    yield "a stream without end", ".pdf", pdf_of(endless)
    yield "streams over streams", ".pdf", pdf_of(endless, 2000)
    yield "one stream many times", ".pdf", pdf_of(deflated(30_000_000, b"BT /F1 9 Tf (words) Tj ET "), 2000)
    yield "a count that lies", ".pdf", whole[".pdf"].replace(b"/Count 2", b"/Count 2000000000")
    yield (
        "parts without end",
        ".mhtml",
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\n" * 400_000,
    )


@pytest.fixture
def most_held():
    """`most_held()` ends the watch over our child processes and gives the most bytes that one of them held."""
    over, most = threading.Event(), [0]

    def watch():
        while not over.wait(0.01):
            for process in psutil.Process().children():
                with suppress(psutil.Error):
                    most[0] = max(most[0], process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()

    def end():
        over.set()
        thread.join()
        return most[0]

    yield end
    end()


@pytest.mark.slow
def test_bombs_stay_within_time_and_memory(write, whole, told, epub, zipped, monkeypatch, most_held):
    monkeypatch.setattr(bounded, "SECONDS", 2.0)  # not 15: what is endless need not take so long here
    monkeypatch.setattr(bounded, "SECONDS_A_MEGABYTE", 0.5)
    for name, suffix, raw in bombs(whole, epub, zipped):
        path = write(f"bomb{suffix}", raw)
        start = time.monotonic()
        outcome = told(path)
        seconds = time.monotonic() - start
        said = outcome if isinstance(outcome, str) else f"{len(outcome.text):,} characters"
        sys.stdout.write(f"{seconds:6.2f} s  {name}: {said}\n")
        assert seconds < bounded.time_for(path.stat().st_size) + 5, name  # and five for the start of a process
    assert most_held() < bounded.MEMORY_MOST
