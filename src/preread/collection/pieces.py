"""Pieces of a collection's documents that questions are about, and which questions are never taught."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from preread.core.errors import UsageError
from preread.core.types import Passage, sha256
from preread.data.questions import TEMPLATES, Question, from_template

WITHHELD, LEAST_WITHHELD = 0.1, 8
"""Share of the pairs of passage and kind of question that are never taught, and the fewest of a small collection."""
ROUNDS = 3
"""Questions that are made of each such pair, at most."""

Unit = tuple[str, str]
"""Hash of a passage's words, kind of question: what is taught or withheld as a whole, wherever the passage stands."""


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """What a lesson is about.

    Args:
        document: all of its passages, in order.
        passages: those that the teacher reads.
        whole: whether the student reads the memory of all of the document, else of the same passages.
    """

    document: Sequence[Passage]
    passages: Sequence[Passage]
    whole: bool = False

    @property
    def start(self) -> str:
        """What questions about the same text have in common: the hash of its first passage's words."""
        return _words(self.passages[0])


Asked = tuple[Question, Piece]


class Pieces:
    """Draws of pieces and of questions about them; no secret depends on any of them.

    Args:
        documents: passages of each document in order, by its hash.
        known: hashes of the documents that the adapter knew when it began.
        seed: of the order of the pieces and of the questions that judge; what is withheld does not depend on it.
        most_passages: most of a piece.
        whole: share of the pieces of which the student reads the whole document.
        replay: share of the pieces that are of known documents, where others are new.
    """

    def __init__(
        self,
        documents: Mapping[str, Sequence[Passage]],
        known: Collection[str],
        seed: int,
        most_passages: int,
        whole: float,
        replay: float,
    ) -> None:
        self.documents, self.seed = documents, seed
        self.most_passages, self.whole, self.replay = most_passages, whole, replay
        sides = [[own for name, own in documents.items() if (name in known) is side] for side in (False, True)]
        self.sides = [side for side in sides if side]

    def side(self, draw: random.Random) -> int:
        """0 for documents that are new to the adapter, 1 for those that it knows, where there are both."""
        return int(len(self.sides) > 1 and draw.random() < self.replay)

    def any(self, draw: random.Random) -> Piece:
        """Neighbouring passages of some document."""
        document = draw.choice(self.sides[self.side(draw)])
        count = min(draw.randint(1, self.most_passages), len(document))
        first = draw.randrange(len(document) - count + 1)
        return Piece(document, document[first : first + count], draw.random() < self.whole)

    @cached_property
    def order(self) -> list[tuple[int, Piece]]:
        """Every document cut into pieces, shuffled, sides mixed as they are taught; with the side of each."""
        draw, most = random.Random(f"{self.seed}/order"), self.most_passages  # noqa: S311
        left = [
            [Piece(own, own[at : at + most]) for own in side for at in range(0, len(own), most)] for side in self.sides
        ]
        for pieces in left:
            draw.shuffle(pieces)
        order = []
        while any(left):
            side = self.side(draw)
            side = side if left[side] else 1 - side  # where a side is never drawn, or at its end
            order.append((side, left[side].pop()))
        return order

    @cached_property
    def withheld(self) -> frozenset[Unit]:
        """The passages and templates that are never taught.

        When documents come, what was taught never gets in: the least that a small collection has are of the two
        templates of each passage that have its lowest lots, however many passages there are.
        """
        each = [sorted(((words, kind) for kind in TEMPLATES), key=lot) for words in self._places]
        least = sorted({unit for units in each for unit in units[:2]}, key=lot)[:LEAST_WITHHELD]
        return frozenset(least) | {unit for units in each for unit in units if withholds(*unit)}

    def to_judge(self) -> Iterator[Asked]:
        """Questions by templates that are never taught, each once."""
        draw, seen = random.Random(f"{self.seed}/judge"), set()  # noqa: S311
        for words, kind in ROUNDS * draw.sample(sorted(self.withheld), len(self.withheld)):
            passage, own = self._places[words]
            question = TEMPLATES[kind](passage.text, draw)
            if question is not None and question.text not in seen:
                seen.add(question.text)
                yield question, Piece(own, [passage], draw.random() < self.whole)

    def by_template(self, draw: random.Random, most: int, but: Collection[str]) -> list[Asked]:
        """Some questions about one piece that may be taught.

        Args:
            draw: decides which.
            most: of them.
            but: texts of questions that may not, whatever they are about.

        Raises:
            UsageError: there is no prose to make them from.
        """
        for _ in range(100):
            piece = self.any(draw)
            made: dict[str, Question] = {}
            for passage in (draw.choice(piece.passages) for _ in range(4 * most)):
                words = _words(passage)
                kinds = [kind for kind in TEMPLATES if (words, kind) not in self.withheld]
                question = from_template(passage.text, draw, kinds)
                if question is not None and question.text not in but:
                    made[question.text] = question
            if made:
                return [(question, piece) for question in list(made.values())[:most]]
        raise no_prose()

    @cached_property
    def _places(self) -> dict[str, tuple[Passage, Sequence[Passage]]]:
        """A passage with these words, by their hash, and all passages of its document."""
        return {_words(passage): (passage, own) for own in self.documents.values() for passage in own}


def withholds(words: str, kind: str) -> bool:
    """Whether the lot of some words and a kind of question says that it is never taught, now or later."""
    return lot((words, kind)) < WITHHELD


def lot(unit: Unit) -> float:
    """A number in [0, 1) that a unit keeps when documents come or change and under any seed.

    So what was withheld stays so, and an adapter that is taught further is not judged by what it was taught before.
    """
    return int(sha256(*unit)[:12], 16) / 16**12


def no_prose() -> UsageError:
    """The error of documents that no question can be made from."""
    return UsageError(
        expected="prose that questions can be made from",
        got="passages without a sentence, a name or a number that could be asked for",
        consequence="Nothing was studied.",
        remedy="Give labelled questions with --questions FILE.",
    )


def _words(passage: Passage) -> str:
    """Hash of a passage's words: kept where its document changes elsewhere, and shared with a copy of the passage."""
    return sha256(" ".join(passage.text.split()))
