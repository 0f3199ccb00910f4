"""Web pages: the main text of HTML, and of the page inside an MHTML archive."""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Any

from preread.core.types import Mark, sha256
from preread.data.readers.markup import HEADINGS, Writer, tree_of
from preread.data.readers.reading import Reading, Refused, clean
from preread.data.readers.text import declared, decode

SHORT_PAGE = 3000
"""Characters up to which a page is not cleaned: there cleaners take the page itself for surroundings."""
LEAST, MOST = 0.4, 0.95
"""Share of what is visible that a cleaner's text may be: under it too much was lost, over it nothing was in the way."""
SURROUNDINGS = ("nav", "aside", "footer", "form")


def html(raw: bytes, charset: str) -> Reading:
    """A page's own text without what surrounds it; all that is visible where that cannot be told apart.

    Its headings are its sections, and no page loses all of them.
    """
    tree = tree_of(clean(decode(raw, charset or declared(raw))))
    title = clean(" ".join((tree.findtext(".//title") or "").split()))
    found = _visible(tree)
    if len(found.text) > SHORT_PAGE:
        own = _own(tree, sha256(raw)[:8])
        kept = _letters(own.text) / max(1, _letters(found.text))
        if LEAST <= kept <= MOST and (own.marks or not found.marks):
            found = own
    return found._replace(title=title or (found.marks[0].label if found.marks else ""))


def _letters(text: str) -> int:
    """Letters and figures of a text, whatever sets them off."""
    return len(re.sub(r"\W+", "", text))


def _visible(tree: Any) -> Reading:
    """All that a page shows but what it says is navigation and the like."""
    page = deepcopy(tree)
    for part in list(page.iter(*SURROUNDINGS)):
        part.drop_tree()
    writer = Writer()
    writer.tree(page)
    return writer.reading("")


def _own(tree: Any, nonce: str) -> Reading:
    """What a cleaner of web pages takes for a page's own text.

    Args:
        tree: the page; it is changed.
        nonce: what no page can know beforehand, so that none can forge a heading.
    """
    from trafilatura import extract

    labels: list[str] = []
    # A tag at a block's start comes out at the same place in the extracted text, whatever is left out there.
    for block in tree.iter(*HEADINGS, "p"):
        number = ""
        if block.tag in HEADINGS:
            number = str(len(labels))
            labels.append(clean(" ".join(block.text_content().split())))
        if number or block.getparent() is None or block.getparent().tag not in ("li", "td", "th", "dd"):
            block.text = f"⟦{nonce}.{number}⟧{clean(block.text or '')}"
    extracted = clean(extract(tree, include_comments=False, favor_recall=True) or "")
    pieces = re.split(rf"\s*⟦{nonce}\.(\d*)⟧\s*", extracted)  # text, number, text, number, ..., text
    parts, length, marks = [pieces[0]], len(pieces[0]), []
    for number, piece in zip(pieces[1::2], pieces[2::2], strict=True):
        gap = "\n\n" if length else ""
        length += len(gap)
        if number and labels[int(number)]:
            marks.append(Mark(length, "section", labels[int(number)]))
        parts += gap, piece
        length += len(piece)
    return Reading("".join(parts), tuple(marks))


def mhtml(raw: bytes, _charset: str) -> Reading:
    """The page of a web archive: its first HTML part."""
    from email import message_from_bytes

    for part in message_from_bytes(raw).walk():
        if part.get_content_type() == "text/html":
            page = part.get_payload(decode=True)
            assert isinstance(page, bytes)  # a part of type text has no parts of its own
            return html(page, part.get_content_charset() or "") if page.strip() else Reading("")
    raise Refused("a web page in its archive (MHTML)", "none", "Save the page again, as HTML.")
