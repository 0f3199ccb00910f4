"""Documents of an asked length with something hidden in them: what every generated retrieval task is made of.

Lengths are of the document alone, in tokens of the kit's decoder; question and answer come on top. A document is at
most as long as asked, and shorter by at most 2 % or one unit of what it is filled with, whichever is more.
"""

from __future__ import annotations

import random
import re
import uuid
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from preread.core.errors import UsageError
from preread.core.progress import progress
from preread.data.passages import SENTENCE_END
from preread.eval.case import Case, Item
from preread.eval.kit import Kit
from preread.eval.metrics import score
from preread.eval.task import Group, QuestionTask
from preread.eval.tasks.sets import expect, rows, set_file
from preread.nn.hf import Decoder

NOISE = ("The grass is green.", "The sky is blue.", "The sun is yellow.", "Here we go.", "There and back again.")
LEAST_SENTENCE = 3
"""Tokens of the shortest of them in any tokenizer."""
CHARACTERS_A_TOKEN = 8
"""More than any tokenizer needs of running text, so that a haystack of as many is long enough."""
SHORT_BY = 0.02
"""Of the asked length that a document may lack."""
NEAR_ENOUGH = 0.005
COMMONEST_WORDS = 200
"""Left out of the vocabulary: they stand everywhere."""
WORD = re.compile(r"\b[a-z]{4,9}\b")

Offsets = NDArray[np.int64]


@dataclass(frozen=True)
class Hay:
    """What things are hidden in.

    Args:
        text: more of it than any document takes.
        cuts: [n] rising character offsets where it may end.
        borders: [m] rising character offsets where something may stand, the first of them 0.
    """

    text: str
    cuts: Offsets
    borders: Offsets

    @staticmethod
    def of_text(text: str) -> Hay:
        """Prose: ends behind any word, and holds things between sentences."""
        cuts = [match.end() for match in re.finditer(r"\S+", text)]
        borders = [0, *(match.end() for match in SENTENCE_END.finditer(text))]
        return Hay(text, np.asarray(cuts, dtype=np.int64), np.asarray(borders, dtype=np.int64))

    @staticmethod
    def of_records(lines: Sequence[str]) -> Hay:
        """Records: ends behind any of them, and holds things between them."""
        ends = np.asarray(list(accumulate(map(len, lines))), dtype=np.int64)
        return Hay("".join(lines), ends, np.concatenate([[0], ends]))

    def hiding(
        self, needles: Sequence[tuple[float, str]], count: int, before: str = ""
    ) -> tuple[str, list[tuple[int, int]]]:
        """The hay's first `count` cuts with needles in it.

        Args:
            needles: each with its depth, the share of the hay's characters before it; it stands at the nearest border.
                Those at one border keep their order.
            count: how much of the hay.
            before: what the document begins with.

        Returns:
            The text, and [start, end) of each needle in it.
        """
        end = int(self.cuts[count - 1]) if count else 0
        borders = self.borders[: np.searchsorted(self.borders, end, side="right")]
        places = [int(borders[np.abs(borders - depth * end).argmin()]) for depth, _ in needles]
        spans: list[tuple[int, int]] = [(0, 0)] * len(needles)
        pieces, at, size = [before], 0, len(before)
        for place, number in sorted((place, number) for number, place in enumerate(places)):
            needle = needles[number][1]
            spans[number] = (size + place - at, size + place - at + len(needle))
            pieces += [self.text[at:place], needle, " "]
            size, at = size + place - at + len(needle) + 1, place
        return "".join([*pieces, self.text[at:end]]), spans


def noise(length: int) -> Hay:
    """The five sentences that passkeys are hidden in since arXiv 2305.16300, over and over, for `length` tokens."""
    return Hay.of_records([f"{sentence} " for sentence in NOISE] * (1 + length // (LEAST_SENTENCE * len(NOISE))))


def prose(kit: Kit, split: str, length: int, draw: random.Random) -> Hay:
    """A stretch of the books of a split, from a sentence drawn at random, for `length` tokens.

    Raises:
        UsageError: the data has no books, or all of them together are shorter.
    """
    text, wanted = books(kit.data, split), length * CHARACTERS_A_TOKEN
    start = draw.randrange(max(1, len(text) - wanted))
    border = SENTENCE_END.search(text, start)
    start = border.end() if border and start else start
    return Hay.of_text(text[start : start + wanted])


@lru_cache(maxsize=2)
def books(data: Path, split: str) -> str:
    """All books of a split, one behind the other."""
    return "\n\n".join(str(row["text"]).strip() for row in rows(set_file(data, "text", "books", split), "text"))


@lru_cache(maxsize=2)
def vocabulary(data: Path, split: str) -> tuple[str, ...]:
    """Lower-case words of four to nine letters that the books of a split have twice or more, the commonest first, less
    those that stand everywhere.
    """
    counts = Counter(WORD.findall(books(data, split)))
    words = sorted((word for word, count in counts.items() if count > 1), key=lambda word: (-counts[word], word))
    return tuple(words[COMMONEST_WORDS:])


def fitted(decoder: Decoder, build: Callable[[int], str], most: int, length: int) -> int:
    """How many units of filling make a document of `length` tokens, or a little less.

    Args:
        decoder: whose tokens count.
        build: the document with so many units; tokens rise with them about evenly.
        most: units that there are.
        length: most tokens.

    Raises:
        UsageError: even without filling it is longer, or there is not enough filling.
    """
    bare = len(decoder.tokens(build(0)))
    low, spare, high, guess = 0, length - bare, most + 1, (most + 1) // 2
    while high - low > 1 and spare > NEAR_ENOUGH * length:
        guess = min(max(guess, low + 1), high - 1)
        found = len(decoder.tokens(build(guess)))
        if found <= length:
            low, spare = guess, length - found
        else:
            high = guess
        guess += round((length - found) * guess / max(1, found - bare))
    if spare < 0 or (low == most and spare > SHORT_BY * length):
        raise UsageError(
            expected=f"a length of {bare:,} to {length - spare:,} tokens",
            got=f"{length:,}",
            consequence="Nothing was judged.",
            remedy="Change the task's lengths.",
        )
    return low


def buried(
    decoder: Decoder, hay: Hay, needles: Sequence[tuple[float, str]], length: int, before: str = ""
) -> tuple[str, list[tuple[int, int]]]:
    """As `Hay.hiding`, with as much hay as makes a document of `length` tokens; raises as `fitted`."""
    count = fitted(decoder, lambda n: hay.hiding(needles, n, before)[0], len(hay.cuts), length)
    return hay.hiding(needles, count, before)


def unseen(make: Callable[[], str], text: str) -> str:
    """What is made, made again as long as it stands in a text already."""
    while (made := make()) in text:
        pass
    return made


def distinct(make: Callable[[], str], count: int) -> list[str]:
    """So many different ones of what is made."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[make()] = None
    return list(found)


def some_uuid(draw: random.Random) -> str:
    """A random UUID."""
    return str(uuid.UUID(int=draw.getrandbits(128), version=4))


def some_number(draw: random.Random, digits: int) -> str:
    """A random number of so many digits."""
    return str(draw.randrange(10 ** (digits - 1), 10**digits))


@dataclass(frozen=True)
class Generated(QuestionTask):
    """Cases made for a grid of lengths; each a function of seed, length and number alone.

    Args:
        lengths: of the documents, in tokens.
        samples: cases of each length.
        seed: of all draws.
    """

    lengths: tuple[int, ...] = (1024, 2048, 4096)
    samples: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that make no case."""
        expect(1, samples=self.samples, lengths=min(self.lengths, default=0))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Of written answers, the headline first."""
        return ("contains",)

    @property
    def group(self) -> Group:
        """Retrieval."""
        return "retrieval"

    @property
    def headline(self) -> str:
        """The first metric."""
        return self.metrics[0]

    @property
    def note(self) -> str:
        """What lengths count."""
        return "Generated; lengths are of the document alone, in the decoder's tokens."

    def units(self, kit: Kit) -> Sequence[Case]:
        """Every length once, then every length again, so that a limit leaves whole grids."""
        found: list[Case] = []
        with progress(f"making {self.label}", self.samples * len(self.lengths)) as advance:
            for sample in range(self.samples):
                for length in self.lengths:
                    name = f"{self.label} {self.seed}-{length}-{sample}"
                    found += self.cases(kit, length, name, random.Random(name))  # noqa: S311 no secret depends on it
                    advance()
        return found

    def score(self, item: Item, answer: str) -> Mapping[str, float]:
        """The metrics."""
        return {name: score(name, answer, item.answers) for name in self.metrics}

    @abstractmethod
    def cases(self, kit: Kit, length: int, name: str, draw: random.Random) -> Iterator[Case]:
        """The cases of one length.

        Args:
            kit: whose decoder counts tokens, and whose books may be the hay.
            length: of each document, in tokens.
            name: what their ids begin with.
            draw: the only source of chance.
        """
