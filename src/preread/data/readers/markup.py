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
        self._gap = ""  # what will stand before the next word: a space, one line break, or two
        self._cells = self._items = self._pre = 0  # how deep inside these
        self._lead = False  # after the dash of a list's item: its first paragraph stands beside it

    @property
    def next(self) -> int:
        """Offset at which the next word will stand."""
        return self._length + len(self._gap) if self._length else 0

    def tree(self, root: Any) -> None:
        """Append all that a tree of HTML shows.

        Raises:
            Refused: more text than is taken from a file.
        """
        from lxml import etree

        etree.strip_tags(root, etree.Comment, etree.ProcessingInstruction)
        etree.strip_elements(root, *UNSEEN, with_tail=False)
        heading: tuple[int, int] | None = None  # offset, and number of the first part
        self._part("\n\n")
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
        self._part("\n\n")

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
            self._part("\n\n" if tag in PARAGRAPHS and not self._items else "\n")

    def _part(self, gap: str) -> None:
        """Set what follows apart, at least by `gap`; inside a cell, and after a dash, nothing breaks the line."""
        self._gap = max(
            self._gap, " " if self._cells or self._lead else gap, key=lambda kind: (kind.count("\n"), len(kind))
        )

    def _say(self, text: str) -> None:
        text = clean(text)
        verbatim = self._pre and not self._cells
        edge = "\n" if verbatim else None  # what is stripped: line breaks alone, or all white space
        words = text.strip(edge) if verbatim else " ".join(text.split())
        before, after = len(text) - len(text.lstrip(edge)), len(text) - len(text.rstrip(edge))
        self._part("\n" * before if verbatim else " " * bool(before))
        if words:
            written = self._gap + words if self._length else words
            self._parts.append(written)
            self._length += len(written)
            self._gap, self._lead = "", False
            short_enough(self._length)
        self._part("\n" * after if verbatim else " " * bool(after))
