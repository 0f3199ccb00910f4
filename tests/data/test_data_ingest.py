"""Every file is a document or one line that says why not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preread.core.errors import UnreadableDocument
from preread.data.ingest import SUFFIXES, read
from preread.data.readers import READERS, parse
from preread.data.readers.reading import Refused


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
