"""Questions to learn a collection by: labelled ones from a file, or made from the passages by templates."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from preread.core.errors import UnreadableDocument
from preread.data.corpora import records

Template = Callable[[str, random.Random], "Question | None"]
"""Text of a passage -> a question whose answer stands in it, or None where the passage does not lend itself."""

LABELLED, GENERAL = "labelled", "general"
"""Kinds of questions that no passage was asked for: the user's, and those about the world."""
GENERAL_FILE = Path(__file__).parents[1] / "assets" / "general-questions.txt"
WORDS = re.compile(r"\S+")
NAME = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]{2,}(?: [A-Z][a-z]+)*|(?<=\s)\d[\d,.]*\d")
"""A capitalised name inside a sentence, or a number."""
SENTENCE = re.compile(r"(?<![^\s“\"])[A-Z][^.!?]{40,240}[.!?]")


@dataclass(frozen=True, slots=True)
class Question:
    """A question, the answer that is taught, and what kind of question it is."""

    text: str
    answer: str
    kind: str = LABELLED


def what_follows(text: str, draw: random.Random) -> Question | None:
    """The words after a quotation of eight words."""
    words = [match.span() for match in WORDS.finditer(text)]
    if len(words) < 28:
        return None
    at = draw.randrange(len(words) - 27)
    quoted = _line(text[words[at][0] : words[at + 7][1]])
    answer = _line(text[words[at + 8][0] : words[at + 27][1]])
    return Question(f"Which words follow “{quoted}”?", answer, "follows")


def what_is_missing(text: str, draw: random.Random) -> Question | None:
    """Cloze: the name or number that a sentence was robbed of."""
    names = list(NAME.finditer(text))
    if not names:
        return None
    found = draw.choice(names)
    before, after = text[: found.start()].split()[-10:], text[found.end() :].split()[:10]
    gap = " ".join([*before, "____", *after])
    return Question(f"Fill in the gap: “{gap}”", _line(found.group()), "gap")


def what_stands_before(text: str, draw: random.Random) -> Question | None:
    """Key look-up: the name or number right before a quotation of eight words."""
    names = [(match, after) for match in NAME.finditer(text) if len(after := text[match.end() :].split()[:8]) == 8]
    if not names:
        return None
    found, key = draw.choice(names)
    what = "number" if found.group()[0].isdigit() else "name"
    return Question(f"Which {what} stands right before “{' '.join(key)}”?", _line(found.group()), "look-up")


def what_it_says(text: str, draw: random.Random) -> Question | None:
    """Repeat: a sentence word for word, given its first five words."""
    sentences = [_line(found.group()) for found in SENTENCE.finditer(text)]
    if not sentences:
        return None
    sentence = draw.choice(sentences)
    begun = " ".join(sentence.split()[:5])
    return Question(f"Repeat the sentence that begins “{begun}”, word for word.", sentence, "repeat")


TEMPLATES: Mapping[str, Template] = {
    "follows": what_follows,
    "gap": what_is_missing,
    "look-up": what_stands_before,
    "repeat": what_it_says,
}


def from_template(text: str, draw: random.Random, kinds: Collection[str] = tuple(TEMPLATES)) -> Question | None:
    """A question by a template of some kinds, drawn at random, or by another of them where that one finds nothing."""
    for kind in draw.sample(list(kinds), len(kinds)):
        if question := TEMPLATES[kind](text, draw):
            return question
    return None


def general() -> list[str]:
    """Questions about the world, which no document is needed for."""
    return GENERAL_FILE.read_text(encoding="utf-8").splitlines()


def read(path: Path) -> list[Question]:
    """Labelled questions: JSON lines with `question` and `answer`, or `answers` of which the first is taught.

    Raises:
        UnreadableDocument: not JSON lines, none at all, or a line without the words of a question or an answer.
    """
    questions = []
    for number, record in enumerate(records(path), start=1):
        answers = record.get("answers") or record.get("answer")
        question, answer = _said(record.get("question")), _said(answers[0] if isinstance(answers, list) else answers)
        if not question or not answer:
            raise _unlabelled(f"on line {number} of {path}", ", ".join(sorted(record)) or "nothing")
        questions.append(Question(question, answer))
    if not questions:
        raise _unlabelled(f"in {path}", "an empty file")
    return questions


def _said(value: object) -> str:
    """The words of a JSON value; empty where it is no text or number, or has none."""
    return str(value).strip() if isinstance(value, str | int | float) else ""


def _unlabelled(where: str, got: str) -> UnreadableDocument:
    return UnreadableDocument(
        expected=f'"question" and "answer", with words, {where}',
        got=got,
        consequence="Nothing was asked or taught.",
        remedy='Write one JSON object a line, such as {"question": "...", "answer": "..."}.',
    )


def _line(text: str) -> str:
    return " ".join(text.split())
