"""Questions to learn a collection by: labelled ones from a file, or made from the passages by templates."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from preread.core.errors import UnreadableDocument
from preread.data.corpora import records

Template = Callable[[str, random.Random], "Question | None"]
"""Text of a passage -> a question whose answer stands in it, or None where the passage does not lend itself."""

WORDS = re.compile(r"\S+")
NAME = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]{2,}(?: [A-Z][a-z]+)*|(?<=\s)\d[\d,.]*\d")
"""A capitalised name inside a sentence, or a number."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question and the answer that is taught."""

    text: str
    answer: str


def what_follows(text: str, draw: random.Random) -> Question | None:
    """Look-up: the words after a quotation of eight words."""
    words = [match.span() for match in WORDS.finditer(text)]
    if len(words) < 28:
        return None
    at = draw.randrange(len(words) - 27)
    quoted = _line(text[words[at][0] : words[at + 7][1]])
    return Question(f"Which words follow “{quoted}”?", _line(text[words[at + 8][0] : words[at + 27][1]]))


def what_is_missing(text: str, draw: random.Random) -> Question | None:
    """Cloze: the name or number that a sentence was robbed of."""
    names = list(NAME.finditer(text))
    if not names:
        return None
    found = draw.choice(names)
    before, after = text[: found.start()].split()[-10:], text[found.end() :].split()[:10]
    gap = " ".join([*before, "____", *after])
    return Question(f"Fill in the gap: “{gap}”", _line(found.group()))


TEMPLATES: tuple[Template, ...] = (what_follows, what_is_missing)


def from_template(text: str, draw: random.Random) -> Question | None:
    """A question by a template drawn at random, or by another where that one finds nothing."""
    for template in draw.sample(TEMPLATES, len(TEMPLATES)):
        if question := template(text, draw):
            return question
    return None


def read(path: Path) -> list[Question]:
    """Labelled questions: JSON lines with `question` and `answer`, or `answers` of which the first is taught.

    Raises:
        UnreadableDocument: not JSON lines, or a line without a question or an answer.
    """
    questions = []
    for number, record in enumerate(records(path), start=1):
        answers = record.get("answers") or [record.get("answer")]
        if not record.get("question") or not answers[0]:
            raise UnreadableDocument(
                expected=f'"question" and "answer" on line {number} of {path}',
                got=", ".join(sorted(record)) or "nothing",
                consequence="Nothing was studied.",
                remedy='Write one JSON object a line, such as {"question": "...", "answer": "..."}.',
            )
        questions.append(Question(str(record["question"]), str(answers[0])))
    return questions


def _line(text: str) -> str:
    return " ".join(text.split())
