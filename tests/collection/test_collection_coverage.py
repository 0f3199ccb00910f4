"""What was read and what was not: places are those of the characters, and the parts make up the whole."""

from __future__ import annotations

import random
import re
from itertools import pairwise

import pytest

from preread.collection.coverage import places
from preread.core.types import Document, Mark

PAGES = Document(
    "a", "a", "".join(f"{i}" * 10 for i in range(1, 8)), tuple(Mark(10 * (i - 1), "page", str(i)) for i in range(1, 8))
)


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([], ""),
        ([(0, 10)], "page 1"),
        ([(3, 5)], "part of page 1"),
        ([(0, 30), (60, 70)], "pages 1-3, 7"),
        ([(60, 70), (10, 30), (0, 10)], "pages 1-3, 7"),
        ([(0, 15), (18, 22)], "pages 1, part of 2-3"),
        ([(0, 70)], "pages 1-7"),
    ],
)
def test_pages_are_named_in_ranges_and_parts_as_such(spans, expected):
    assert places(PAGES, spans) == expected


def test_sections_the_beginning_and_documents_without_marks():
    text = "Preface. One one. Two two. Three."
    marks = tuple(Mark(text.index(word), "section", word) for word in ("One", "Two", "Three"))
    document = Document("a", "a", text, marks)
    assert places(document, [(0, len(text))]) == 'sections the beginning to "Three"'
    assert places(document, [(9, 27)]) == 'sections "One" to "Two"'
    assert places(document, [(0, 4), (29, 33)]) == 'sections part of the beginning, part of "Three"'
    assert places(Document("a", "a", text), [(0, 9), (9, 18), (20, 2_000)]) == "characters 0-18, 20-2,000"


def test_a_page_without_text_breaks_no_range():
    document = Document("a", "a", "aaaa\n\nbbbb", (Mark(0, "page", "1"), Mark(4, "page", "2"), Mark(6, "page", "3")))
    assert places(document, [(0, 10)]) == "pages 1-3"
    assert places(document, [(0, 4)]) == "page 1"


def test_it_agrees_with_counting_characters():
    draw = random.Random(0)
    for _ in range(300):
        cuts = [0, *sorted(draw.sample(range(1, 60), 4)), 60]
        document = Document("a", "a", "x" * 60, tuple(Mark(c, "page", str(i)) for i, c in enumerate(cuts[:-1])))
        borders = sorted(draw.sample(range(61), 6))
        spans = list(zip(borders[::2], borders[1::2], strict=True))
        read = {i for start, end in spans for i in range(start, end)}
        named: dict[str, set[int]] = {"": set(), "part of ": set()}
        for part, first, last in re.findall(r"(part of )?(?:page )?(\d+)(?:-(\d+))?", places(document, spans)):
            named[part] |= set(range(int(first), int(last or first) + 1))
        for page, (start, end) in enumerate(pairwise(cuts)):
            held = len(read & set(range(start, end)))
            assert (page in named[""], page in named["part of "]) == (held == end - start, 0 < held < end - start)
