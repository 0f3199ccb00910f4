"""What RULER's tasks are (arXiv 2404.06654, appendix B): a document of a length, and what is asked about it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import pi
from string import ascii_lowercase, ascii_uppercase
from typing import Literal

from preread.core.errors import UsageError
from preread.core.types import Mark
from preread.eval.kit import Kit
from preread.eval.tasks.haystack import (
    SHORT_BY,
    Hay,
    buried,
    distinct,
    fitted,
    noise,
    prose,
    some_number,
    some_uuid,
    unseen,
    vocabulary,
)
from preread.eval.tasks.pool import GAP, Paragraph, laid, places, pool
from preread.eval.tasks.qa import SHORT

Kind = Literal["words", "numbers", "uuids"]
LEAST_NEEDLE = 15
"""Tokens of the shortest needle in any tokenizer: needles enough for a document, however short they are."""
LEAST_PARAGRAPH = 16
"""Tokens that are not worth looking for a paragraph that fits them."""
HOPS = 4
COMMON = 10
DOTS = "..."


@dataclass(frozen=True, slots=True)
class Puzzle:
    """A document with its question.

    Args:
        text: the document.
        question: what is asked.
        answers: what the answer should contain.
        evidence: [start, end) of what holds them, where that is a place.
        marks: where its parts begin, where it has any.
    """

    text: str
    question: str
    answers: tuple[str, ...]
    evidence: tuple[tuple[int, int], ...] = ()
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """What a puzzle is made from: the kit, the split of its texts, the tokens to fill, and the only chance there is."""

    kit: Kit
    split: str
    length: int
    draw: random.Random

    def fit(self, build: Callable[[int], str], most: int) -> int:
        """As `fitted`."""
        return fitted(self.kit.decoder, build, most, self.length)

    def bury(self, hay: Hay, needles: Sequence[tuple[float, str]], before: str) -> tuple[str, list[tuple[int, int]]]:
        """As `buried`."""
        return buried(self.kit.decoder, hay, needles, self.length, before)

    def words(self) -> tuple[str, ...]:
        """The books' vocabulary.

        Raises:
            UsageError: the books have too few words to make a key of two for every needle.
        """
        found = vocabulary(self.kit.data, self.split)
        if len(found) ** 2 < 4 * self.length // LEAST_NEEDLE:
            raise UsageError(
                expected=f"books with words enough for {self.length:,} tokens of keys",
                got=f"{len(found)} words in books.{self.split}",
                consequence="Nothing was judged.",
                remedy="Point --data at more books, or lower the task's lengths.",
            )
        return found


@dataclass(frozen=True, slots=True)
class Niah:
    """Needles in a haystack, each the value of a key.

    Args:
        hay: `noise`, `books`, or `needles` of other keys.
        key: what keys are.
        value: what values are.
        keys: how many there are.
        values: of each key.
        asked: how many keys are asked for.
    """

    hay: Literal["noise", "books", "needles"]
    key: Kind = "words"
    value: Kind = "numbers"
    keys: int = 1
    values: int = 1
    asked: int = 1

    def __call__(self, source: Source) -> Puzzle:
        """A puzzle; needles stand at random depths."""
        draw, hay = source.draw, self._hay(source)
        one = self.asked * self.values == 1
        kind, some, are = (self.value[:-1], "A", "is") if one else (self.value, "Some", "are")
        before = (
            f"{some} special magic {kind} {are} hidden within the following text. Make sure to memorize it. "
            f"I will quiz you about the {kind} afterwards.\n"
        )
        keys = distinct(lambda: unseen(lambda: _made(self.key, source), hay.text), self.keys)
        values = distinct(lambda: unseen(lambda: _made(self.value, source), hay.text), self.keys * self.values)
        pairs = list(zip([key for key in keys for _ in range(self.values)], values, strict=True))
        text, spans = source.bury(hay, [(draw.random(), self._line(*pair)) for pair in pairs], before)
        asked = draw.sample(keys, self.asked)
        names = ", and ".join([", ".join(asked[:-1]), asked[-1]]) if len(asked) > 1 else asked[0]
        question = (
            f"What {'is' if one else 'are all'} the special magic {kind} for {names} mentioned in the provided text?"
        )
        wanted = [number for number, (key, _) in enumerate(pairs) if key in asked]
        return Puzzle(text, question, tuple(values[n] for n in wanted), tuple(spans[n] for n in wanted))

    def _hay(self, source: Source) -> Hay:
        if self.hay == "noise":
            return noise(source.length)
        if self.hay == "books":
            return prose(source.kit, source.split, source.length, source.draw)
        count = 2 + source.length // LEAST_NEEDLE
        keys = distinct(lambda: _made(self.key, source), count)
        return Hay.of_records([self._line(key, _made(self.value, source)) + " " for key in keys])

    def _line(self, key: str, value: str) -> str:
        return f"One of the special magic {self.value} for {key} is: {value}."


def _made(kind: Kind, source: Source) -> str:
    if kind == "words":
        return "-".join(source.draw.sample(source.words(), 2))
    return some_uuid(source.draw) if kind == "uuids" else some_number(source.draw, 7)


def variable_tracking(source: Source) -> Puzzle:
    """One chain of assignments in noise: which variables have its value."""
    draw, hay = source.draw, noise(source.length)
    variables = distinct(lambda: "".join(draw.choices(ascii_uppercase, k=5)), HOPS + 1)
    value = some_number(draw, 5)
    lines = [f"VAR {variables[0]} = {value}"]
    lines += [f"VAR {new} = VAR {old}" for old, new in pairwise(variables)]
    needles = list(zip(sorted(draw.random() for _ in lines), lines, strict=True))
    before = "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n"
    text, spans = source.bury(hay, needles, before)
    question = f"Find all variables that are assigned the value {value} in the text above."
    return Puzzle(text, question, tuple(variables), tuple(spans))


def common_words(source: Source) -> Puzzle:
    """A numbered list in which ten words stand more often than all others."""
    often, seldom = (30, 3) if source.length >= 4096 else (6, 1)
    words = source.draw.sample(source.words(), min(len(source.words()), COMMON + source.length // (2 * seldom)))
    common, others, seed = words[:COMMON], words[COMMON:], source.draw.random()
    before = (
        "Below is a numbered list of words. In these words, some appear more often than others. "
        "Memorize the ones that appear most often.\n"
    )

    def build(count: int) -> str:
        listed = common * often + others[:count] * seldom
        random.Random(seed).shuffle(listed)  # noqa: S311 no secret depends on it
        return before + " ".join(f"{number}. {word}" for number, word in enumerate(listed, start=1))

    text = build(source.fit(build, len(others)))
    return Puzzle(text, "What are the 10 most common words in the above list?", tuple(common))


def frequent_words(source: Source) -> Puzzle:
    """Made-up words as often as a zeta distribution (alpha = 2) has them; dots stand for the most frequent one."""
    coded = distinct(lambda: "".join(source.draw.choices(ascii_lowercase, k=6)), max(COMMON, source.length // 50))
    words, seed, zeta = [DOTS, *coded], source.draw.random(), pi**2 / 6
    before = (
        "Read the following coded text and track the frequency of each coded word. "
        "Find the three most frequently appeared coded words. "
    )

    def build(count: int) -> str:
        said = [word for rank, word in enumerate(words, start=1) for _ in range(int(count / (zeta * rank**2)))]
        random.Random(seed).shuffle(said)  # noqa: S311 no secret depends on it
        return before + " ".join(said)

    text = build(source.fit(build, source.length))
    ask = "Do not provide any explanation. Please ignore the dots '....'. "
    ask += "What are the three most frequently appeared words in the above coded text?"
    return Puzzle(text, ask, tuple(words[1:4]))


@dataclass(frozen=True, slots=True)
class Questions:
    """A question of a set, its paragraphs among as many others as fit."""

    set: str

    def __call__(self, source: Source) -> Puzzle:
        """A puzzle; paragraphs in random order, those too long for what is left passed over."""
        held = pool(source.kit.data, self.set, source.split)
        shuffled = source.draw.sample(held.asked, len(held.asked))
        rooms = ((asked, source.length - sum(self._size(source, one) for one in asked.gold)) for asked in shuffled)
        asked, room = next(((asked, room) for asked, room in rooms if room >= 0), (held.asked[0], -1))
        chosen, (others, _) = list(asked.gold), held.others(asked)
        for number in source.draw.sample(others, len(others)):
            size = self._size(source, held.paragraphs[number])
            if size <= room:
                chosen.append(held.paragraphs[number])
                room -= size
            if room < LEAST_PARAGRAPH:
                break
        self._expect_filled(source.length, room, every=len(chosen) == len(asked.gold) + len(others))
        source.draw.shuffle(chosen)
        text, marks = laid(chosen)
        return Puzzle(text, f"{asked.question} {SHORT}", asked.answers, places(chosen, marks, asked.gold), marks)

    def _size(self, source: Source, one: Paragraph) -> int:
        return len(source.kit.decoder.tokens(GAP + one.shown))

    def _expect_filled(self, length: int, room: int, every: bool) -> None:
        if room < 0 or (every and room > SHORT_BY * length):
            raise UsageError(
                expected=f"a length that holds the paragraphs of a question, and no more than {self.set} has",
                got=f"{length:,} tokens, of which {room:,} are left" if room > 0 else f"{length:,} tokens",
                consequence="Nothing was judged.",
                remedy="Change the task's lengths.",
            )
