"""Questions whose paragraphs are known, and all paragraphs of their set: what contexts are put together from.

A distractor is a paragraph of another document's that holds no answer to the question: one that does would be a
second right paragraph, and is left out and counted. Answers "yes" and "no" stand everywhere and leave nothing out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from preread.core.errors import UsageError
from preread.core.types import Mark
from preread.eval.evidence import evidence
from preread.eval.metrics import normalised
from preread.eval.tasks.sets import rows, set_file

NUMBERED = re.compile(r"(?:^|\n\n)Passage \d+:\n(.*)\n")
"""Where a paragraph of HotpotQA begins, with its title."""
BARE = frozenset({"yes", "no"})
GAP = "\n\n"


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A short text with its title."""

    title: str
    text: str

    @property
    def shown(self) -> str:
        """As it stands in a context."""
        return f"{self.title}\n{self.text}"


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, its references, and the paragraphs that answer it together."""

    id: str
    question: str
    answers: tuple[str, ...]
    gold: tuple[Paragraph, ...]


@dataclass(frozen=True)
class Pool:
    """A set taken apart.

    Args:
        paragraphs: all of them, each once.
        asked: the questions that have paragraphs and answers, in the order of the set.
    """

    paragraphs: Sequence[Paragraph]
    asked: Sequence[Asked]

    @cached_property
    def words(self) -> Sequence[str]:
        """Of each paragraph, normalised, with a space on either side."""
        return [_padded(one.shown) for one in self.paragraphs]

    def others(self, asked: Asked) -> tuple[list[int], int]:
        """Numbers of the paragraphs that may distract from a question, and how many hold an answer and may not."""
        titles = {one.title for one in asked.gold}
        answers = [_padded(answer) for answer in asked.answers if normalised(answer) and normalised(answer) not in BARE]
        free = [number for number, one in enumerate(self.paragraphs) if one.title not in titles]
        apart = [number for number in free if not any(answer in self.words[number] for answer in answers)]
        return apart, len(free) - len(apart)


@lru_cache(maxsize=4)
def pool(data: Path, name: str, split: str, also: tuple[str, ...] = ()) -> Pool:
    """The paragraphs and questions of `nq_oracle`, `hotpotqa_distractor`, `squad2_articles` or a set of their forms.

    Args:
        data: folder of all sets.
        name: of the set.
        split: of it and of the others.
        also: further sets, whose paragraphs come behind.

    Raises:
        UsageError: there is no such set, or no question of it says which paragraphs answer it.
    """
    found: dict[Paragraph, None] = {}
    asked: list[Asked] = []
    for row in rows(set_file(data, "qa", name, split), "text", "questions"):
        own = paragraphs(row)
        found.update(dict.fromkeys(one for _, one in own))
        for question, spans in zip(row["questions"], evidence(name, row), strict=True):
            gold = tuple(one for start, one in own if any(low <= start < high for low, high in spans))
            if gold and question["answers"]:
                asked.append(Asked(str(question["id"]), question["question"], tuple(question["answers"]), gold))
    if not asked:
        raise UsageError(
            expected="a set that says which paragraphs answer (nq_oracle, hotpotqa_distractor, squad2_articles)",
            got=name,
            consequence="Nothing was judged.",
            remedy="Change the task's set.",
        )
    for other in also:
        found.update(dict.fromkeys(pool(data, other, split).paragraphs))
    return Pool(tuple(found), tuple(asked))


def paragraphs(row: Mapping[str, Any]) -> list[tuple[int, Paragraph]]:
    """The paragraphs of a document, each with the character where its own text begins.

    Numbered passages have titles of their own; else paragraphs end at blank lines, and the document's title is theirs.
    """
    text: str = row["text"]
    heads = list(NUMBERED.finditer(text))
    if heads:
        ends = [*(head.start() for head in heads[1:]), len(text)]
        return [
            (head.end(), Paragraph(head[1].strip(), text[head.end() : end].strip()))
            for head, end in zip(heads, ends, strict=True)
        ]
    pieces = re.finditer(r"\S(?:.|\n(?!\s*\n))*", text)
    return [(piece.start(), Paragraph(str(row.get("title") or row["doc_id"]), piece[0].strip())) for piece in pieces]


def laid(chosen: Iterable[Paragraph]) -> tuple[str, tuple[Mark, ...]]:
    """Paragraphs as one text, and a section mark for each."""
    marks, size, pieces = [], 0, []
    for one in chosen:
        marks.append(Mark(size, "section", one.title))
        pieces.append(one.shown)
        size += len(one.shown) + len(GAP)
    return GAP.join(pieces), tuple(marks)


def places(
    chosen: Sequence[Paragraph], marks: Sequence[Mark], gold: Iterable[Paragraph]
) -> tuple[tuple[int, int], ...]:
    """[start, end) of the paragraphs that answer."""
    wanted = set(gold)
    pairs = zip(chosen, marks, strict=True)
    return tuple((mark.start, mark.start + len(one.shown)) for one, mark in pairs if one in wanted)


def _padded(text: str) -> str:
    return f" {normalised(text)} "
