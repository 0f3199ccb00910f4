"""Where in a document the answer to a question stands, as far as its set says or shows it: what an oracle reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from preread.retrieval.paragraphs import paragraphs_of

Row = Mapping[str, Any]
Spans = tuple[tuple[int, int], ...]

_PASSAGE = re.compile(r"^Passage \d+:\n(.*)$", re.MULTILINE)
"""Where one of several paragraphs begins, with its title (HotpotQA)."""


def evidence(name: str, row: Row) -> list[Spans]:
    """[start, end) characters for each question of a document; nothing where neither set nor question says.

    A question that names titles (`gold_titles`) has the paragraphs of these titles. A question that its own paragraph
    does not answer has that paragraph all the same: it is what was read to see that.

    Args:
        name: of the question set, or a path of its file.
        row: a document of it, with its `text` and all of its `questions`.
    """
    known = _BY_SET.get(Path(name).name.split(".")[0], _titled)
    return known(row)


def _titled(row: Row) -> list[Spans]:
    """The paragraphs whose titles a question names."""
    found = list(_PASSAGE.finditer(row["text"]))
    ends = [*(match.start() for match in found), len(row["text"])]
    places = [(match[1], span) for match, span in zip(found, pairwise(ends), strict=True)]
    gold = [question.get("meta", {}).get("gold_titles", ()) for question in row["questions"]]
    return [tuple(span for title, span in places if title in titles) for titles in gold]


def _own_paragraph(row: Row) -> list[Spans]:
    """The paragraph that each question was asked of: questions stand in the order of paragraphs."""
    asked = [(question["question"], question["answers"]) for question in row["questions"]]
    return [(span,) for span in paragraphs_of(row["text"], asked)]


def _all(row: Row) -> list[Spans]:
    """The whole text, which was cut out for its answer."""
    return [((0, len(row["text"])),) for _ in row["questions"]]


_BY_SET: Mapping[str, Callable[[Row], list[Spans]]] = {"squad2_articles": _own_paragraph, "nq_oracle": _all}
