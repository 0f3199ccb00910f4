"""Damaged, disguised and malicious files: a document or one line, within time and memory, never anything else."""

from __future__ import annotations

import os
import random
import re
import sys
import zipfile
from io import BytesIO

import pytest

from preread.core.errors import UnreadableDocument
from preread.data.ingest import fingerprint, read

pytestmark = pytest.mark.filterwarnings("ignore::preread.core.errors.PartlyRead")


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
def test_damaged_files_give_a_document_or_a_refusal(write, whole, told, suffix):
    """225 files, the same ones each time; whatever comes is a document, or a refusal in one line."""
    dice = random.Random(suffix)
    archive = suffix in (".docx", ".pptx", ".epub")
    read(write(f"whole{suffix}", whole[suffix]))
    for number in range(15 if suffix == ".docx" else 30):
        inside = archive and number % 2
        raw = (damaged_inside if inside else damaged)(whole[suffix], dice)
        outcome = told(write(f"a{suffix}", raw))
        assert isinstance(outcome, str) or all(0 <= mark.start <= len(outcome.text) for mark in outcome.marks)
