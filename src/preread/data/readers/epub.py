"""EPUB: the chapters of a book in the order in which it is read."""

from __future__ import annotations

import posixpath
import warnings
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote
from zipfile import ZipFile

from preread.core.errors import PartlyRead
from preread.core.types import Mark
from preread.data.readers.archive import DAMAGED, dublin_core_title, member, open_archive, xml
from preread.data.readers.markup import Writer, tree_of
from preread.data.readers.reading import Reading, Refused, clean
from preread.data.readers.text import declared, decode

BOOK = "a book (EPUB)"
CONTAINER, ENCRYPTION = "META-INF/container.xml", "META-INF/encryption.xml"
PAGES = ("application/xhtml+xml", "text/html")
CONTENTS = "application/x-dtbncx+xml"


def epub(raw: bytes, _charset: str) -> Reading:
    """A book; its headings are its sections, and so is a chapter without one that the table of contents names.

    Raises:
        Refused: damaged, or its chapters are locked.
    """
    with open_archive(raw, BOOK) as archive:
        at = next((file.get("full-path", "") for file in _named(xml(member(archive, CONTAINER, BOOK)), "rootfile")), "")
        package = xml(member(archive, at or "package", BOOK))
        items = {item.get("id"): item for item in _named(package, "item")}
        for item in items.values():
            item.set("href", _beside(at, item.get("href", "")))
        spine = [items[ref.get("idref")] for ref in _named(package, "itemref") if ref.get("idref") in items]
        chapters = [item.get("href") for item in spine if item.get("media-type") in PAGES and not _is_contents(item)]
        _refuse_locked(archive, chapters)
        names = _contents(archive, items.values())
        title = dublin_core_title(package)
        return _book(archive, chapters, names, title)


def _book(archive: ZipFile, chapters: list[str], names: dict[str, str], title: str) -> Reading:
    writer, there = Writer(), set(archive.namelist())
    for chapter in chapters:
        if chapter in there:
            start, before = writer.next, len(writer.marks)
            writer.tree(_page(archive.read(chapter)))
            if chapter in names and len(writer.marks) == before and writer.next > start:
                writer.marks.append(Mark(start, "section", names[chapter]))
    if missing := [posixpath.basename(chapter) for chapter in chapters if chapter not in there]:
        if len(missing) == len(chapters):
            raise Refused(f"{BOOK} in one piece", "one without any of its chapters", DAMAGED)
        message = f"{len(missing)} of {len(chapters)} chapters are missing from the file: {', '.join(missing[:20])}"
        warnings.warn(message, PartlyRead, stacklevel=2)
    return writer.reading(title)


def _page(raw: bytes) -> Any:
    return tree_of(clean(decode(raw, declared(raw))))


def _named(root: Any, name: str) -> Iterator[Any]:
    """Elements by their name without its namespace: books are careless with theirs."""
    return root.iter(f"{{*}}{name}")  # type: ignore[no-any-return]


def _beside(file: str, href: str) -> str:
    """The member that a link in another member points at."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(file), unquote(href.partition("#")[0])))


def _is_contents(item: Any) -> bool:
    return "nav" in (item.get("properties") or "").split()


def _contents(archive: ZipFile, items: Any) -> dict[str, str]:
    """What the table of contents, of EPUB 3 or else of EPUB 2, calls each chapter."""
    names: dict[str, str] = {}
    there = set(archive.namelist())
    for item in sorted(items, key=_is_contents, reverse=True):
        at = item.get("href")
        if at not in there:
            continue
        links: list[tuple[str, str]] = []
        if _is_contents(item):
            links = [(link.get("href", ""), link.text_content()) for link in _page(archive.read(at)).iter("a")]
        elif item.get("media-type") == CONTENTS:
            for point in _named(xml(archive.read(at)), "navPoint"):
                target = point.find("{*}content")
                label = point.findtext("{*}navLabel/{*}text") or ""
                links.append((target.get("src", "") if target is not None else "", label))
        for href, label in links:
            if words := clean(" ".join(label.split())):
                names.setdefault(_beside(at, href), words)
    return names


def _refuse_locked(archive: ZipFile, chapters: list[str]) -> None:
    """Fonts may be scrambled; a book whose chapters are can only be read by what its seller allows."""
    if ENCRYPTION not in archive.namelist():
        return
    locked = {unquote(part.get("URI", "")) for part in _named(xml(archive.read(ENCRYPTION)), "CipherReference")}
    if locked.intersection(chapters):
        remedy = "Get a copy without digital rights management (DRM)."
        raise Refused(f"{BOOK} that opens freely", "one whose chapters are encrypted", remedy)
