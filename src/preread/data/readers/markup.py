"""All the words of marked-up text, with the marks of its headings: for books, office documents and short pages."""

from __future__ import annotations

from typing import Any

from preread.core.types import Mark
from preread.data.readers.reading import Reading, Refused, clean, short_enough

HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
UNSEEN = ("head", "script", "style", "template", "noscript", "rt", "rp")
PARAGRAPHS = frozenset(HEADINGS) | {
    *("address", "article", "aside", "blockquote", "body", "caption", "center", "dd", "details", "div", "dl", "dt"),
    *("fieldset", "figcaption", "figure", "footer", "form", "header", "hr", "main", "nav", "ol", "p", "pre"),
    *("section", "summary", "table", "ul"),
}
LINES = frozenset({"br", "li", "tr"})
CELLS = frozenset({"td", "th"})
SPACE, LINE, PARAGRAPH = 1, 2, 3
"""How far words stand apart: by a space, or by one line break less than the number."""


def tree_of(page: str) -> Any:
    """The root of a page's tree.

    Raises:
        Refused: nested so deep that the parser would leave out the rest without a word.
    """
    from lxml import etree, html

    parser = html.HTMLParser(encoding="utf-8", huge_tree=True)
    try:  # as bytes, for a declaration of an encoding contradicts text
        tree = html.document_fromstring(page.encode(), parser=parser)
    except etree.ParserError:  # nothing but comments
        return html.Element("p")
    if any(entry.type_name == "ERR_RESOURCE_LIMIT" for entry in parser.error_log):
        raise Refused("a page whose parts are nested 2,000 deep at most", "deeper ones", "Convert it to plain text.")
    return tree


class Writer:
    """Text that grows tree by tree, with a mark at every heading.

    Paragraphs stand apart by an empty line, items of lists and rows of tables have a line each, and the cells of a
    row are set off by ` | `, empty ones too.
    """

    def __init__(self) -> None:
        self.marks: list[Mark] = []
        self._parts: list[str] = []
        self._length = 0
        self._gap = 0  # what will stand before the next word: nothing, a space, or one line break less than this
        self._cells = self._items = self._pre = 0  # how deep inside these
        self._lead = False  # after the dash of a list's item: its first paragraph stands beside it

    @property
    def next(self) -> int:
        """Offset at which the next word will stand."""
        return self._length + max(1, self._gap - 1) if self._length and self._gap else self._length

    def tree(self, root: Any) -> None:
        """Append all that a tree of HTML shows.

        Raises:
            Refused: more text than is taken from a file.
        """
        from lxml import etree

        etree.strip_tags(root, etree.Comment, etree.ProcessingInstruction)
        etree.strip_elements(root, *UNSEEN, with_tail=False)
        heading: tuple[int, int] | None = None  # offset, and number of the first part
        self._part(PARAGRAPH)
        for event, element in etree.iterwalk(root, events=("start", "end")):
            tag = element.tag
            if event == "start":
                self._open(element)
                if tag in HEADINGS:
                    heading = (self.next, len(self._parts))
                self._say(element.text or "")
                continue
            if heading and tag in HEADINGS:
                if label := " ".join("".join(self._parts[heading[1] :]).split()):
                    self.marks.append(Mark(heading[0], "section", label))
                heading = None
            self._close(tag)
            if element is not root:
                self._say(element.tail or "")
        self._part(PARAGRAPH)

    def reading(self, title: str) -> Reading:
        """What was written; without a title of its own it has its first heading's."""
        return Reading("".join(self._parts), tuple(self.marks), title or (self.marks[0].label if self.marks else ""))

    def _open(self, element: Any) -> None:
        tag = element.tag
        self._break(tag)
        if tag == "li":
            self._items += 1
            self._say("- ")
            self._lead = True
        if tag in CELLS:
            if any(True for _ in element.itersiblings(*CELLS, preceding=True)):
                self._say(" | ")
            self._cells += 1
        self._pre += tag == "pre"

    def _close(self, tag: str) -> None:
        self._cells -= tag in CELLS
        self._items -= tag == "li"
        self._pre -= tag == "pre"
        self._lead = self._lead and tag != "li"
        self._break(tag)

    def _break(self, tag: str) -> None:
        if tag in PARAGRAPHS or tag in LINES:
            self._part(PARAGRAPH if tag in PARAGRAPHS and not self._items else LINE)

    def _part(self, gap: int) -> None:
        """Set what follows apart, at least by `gap`; inside a cell, and after a dash, nothing breaks the line."""
        self._gap = max(self._gap, min(gap, SPACE) if self._cells or self._lead else gap)

    def _say(self, text: str) -> None:
        if not text:
            return
        text = clean(text)
        verbatim = self._pre and not self._cells
        edge = "\n" if verbatim else None  # what is stripped: line breaks alone, or all white space
        words = text.strip(edge) if verbatim else " ".join(text.split())
        if before := len(text) - len(text.lstrip(edge)):
            self._part(before + 1 if verbatim else SPACE)
        if words:
            gap = (" " if self._gap == SPACE else "\n" * (self._gap - 1)) if self._length else ""
            self._parts += gap, words
            self._length += len(gap) + len(words)
            self._gap, self._lead = 0, False
            short_enough(self._length)
        if after := len(text) - len(text.rstrip(edge)):
            self._part(after + 1 if verbatim else SPACE)
