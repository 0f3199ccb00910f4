"""What a browser shows of a page: elements, words, and tables as rows of texts."""

from __future__ import annotations

from html.parser import HTMLParser


class Page(HTMLParser):
    """Elements with their attributes, the words outside of style, and each table by its rows."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.tables: list[list[list[str]]] = []
        self._inside: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self._inside.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        while self._inside.pop() != tag:
            pass

    def handle_data(self, data):
        if "style" in self._inside:
            return
        self.words.append(data)
        if {"th", "td"} & set(self._inside):
            self.tables[-1][-1][-1] += f" {data}"

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def __getitem__(self, label):
        """The first table with a row of this name in its first column, as row -> column -> text."""
        for head, *rows in self.tables:
            found = {" ".join(row[0].split()): dict(zip(map(str.strip, head), row, strict=True)) for row in rows}
            if label in found:
                return found
        raise KeyError(label)
