"""Web pages: the main text of HTML, and of the page inside an MHTML archive."""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Any

from preread.core.types import Mark, sha256
from preread.data.readers.reading import Reading, Refused, clean
from preread.data.readers.text import decode

META_CHARSET = re.compile(rb"<(?:meta[^>]+charset|\?xml[^>]+encoding)\s*=\s*[\"']?([\w-]+)", re.IGNORECASE)
SHORT_PAGE, LEAST_OF_SHORT, LEAST_OF_LONG = 3000, 0.95, 0.4
"""Characters of a short page, and the share of what is visible that the text found as a page's own must be."""
HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")


def declared(raw: bytes) -> str:
    """The encoding that a page's own head or XML declaration names, or an empty string."""
    found = META_CHARSET.search(raw[:4096])
    return found[1].decode() if found else ""


def html(raw: bytes, charset: str) -> Reading:
    """A page's main text; its headings are its sections."""
    from trafilatura import load_html

    page = clean(decode(raw, charset or declared(raw)))
    if not page.strip():
        return Reading("")
    tree = load_html(page)
    if tree is None:
        raise Refused("HTML", "something else", "Save it with the suffix of what it is.")
    title = clean(" ".join((tree.findtext(".//title") or "").split()))
    labels: list[str] = []
    # A tag at a block's start comes out at the same place in the extracted text, whatever is left out there.
    nonce = sha256(raw)[:8]  # so that no page can hold the tag
    for block in tree.iter(*HEADINGS, "p"):
        number = ""
        if block.tag in HEADINGS:
            number = str(len(labels))
            labels.append(clean(" ".join(block.text_content().split())))
        if number or block.getparent() is None or block.getparent().tag not in ("li", "td", "th", "dd"):
            block.text = f"⟦{nonce}.{number}⟧{clean(block.text or '')}"
    extracted = _main_text(tree)
    pieces = re.split(rf"\s*⟦{nonce}\.(\d*)⟧\s*", extracted)  # text, number, text, number, ..., text
    parts, length, marks = [pieces[0]], len(pieces[0]), []
    for number, piece in zip(pieces[1::2], pieces[2::2], strict=True):
        gap = "\n\n" if length else ""
        length += len(gap)
        if number and labels[int(number)]:
            marks.append(Mark(length, "section", labels[int(number)]))
        parts += gap, piece
        length += len(piece)
    return Reading("".join(parts), tuple(marks), title or (marks[0].label if marks else ""))


def _main_text(tree: Any) -> str:
    """The page's own text without what surrounds it; all that is visible where that cannot be told apart.

    Short pages are where cleaners err: there nearly everything must have been kept, or nothing is cleaned but what is
    marked as navigation and the like.
    """
    from trafilatura import extract, html2txt

    page = deepcopy(tree)
    for part in list(page.iter("nav", "aside", "footer", "form", "script", "style", "noscript", "template")):
        part.drop_tree()
    visible = clean(html2txt(page))
    own = clean(extract(tree, include_comments=False, favor_recall=True) or "")
    least = LEAST_OF_SHORT if len(visible) < SHORT_PAGE else LEAST_OF_LONG
    return own if len(own) >= least * len(visible) else visible


def mhtml(raw: bytes, _charset: str) -> Reading:
    """The page of a web archive: its first HTML part."""
    from email import message_from_bytes

    for part in message_from_bytes(raw).walk():
        if part.get_content_type() == "text/html":
            page = part.get_payload(decode=True)
            assert isinstance(page, bytes)  # a part of type text has no parts of its own
            return html(page, part.get_content_charset() or "") if page.strip() else Reading("")
    raise Refused("a web page in its archive (MHTML)", "none", "Save the page again, as HTML.")
