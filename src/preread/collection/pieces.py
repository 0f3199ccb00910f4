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

Unit = tuple[str, int, str]
"""Hash of a document, number of a passage in it, kind of question: what is taught or withheld as a whole."""


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
    def start(self) -> tuple[str, int]:
        """What questions about the same text have in common: its document and its first passage."""
        return self.passages[0].document, self.passages[0].index


Asked = tuple[Question, Piece]


class Pieces:
    """Draws of pieces and of questions about them; no secret depends on any of them.

    Args:
        documents: passages of each document in order, by its hash.
        known: hashes of the documents that the adapter knew when it began.
        seed: decides what is withheld.
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
            if left[side := self.side(draw)]:
                order.append((side, left[side].pop()))
        return order

    def withholds(self, document: str, index: int, kind: str) -> bool:
        """Whether the lot of a passage and a kind of question says that it is never taught, now or later."""
        return _lot(self.seed, (document, index, kind)) < WITHHELD

    @cached_property
    def withheld(self) -> frozenset[Unit]:
        """The passages and templates that are never taught: those with the lowest lots."""
        units = [(p.document, p.index, kind) for own in self.documents.values() for p in own for kind in TEMPLATES]
        lots = {unit: _lot(self.seed, unit) for unit in units}
        least = min(LEAST_WITHHELD, len(units) // 2)
        return frozenset(sorted(units, key=lots.__getitem__)[: max(sum(map(WITHHELD.__gt__, lots.values())), least)])

    def to_judge(self) -> Iterator[Asked]:
        """Questions by templates that are never taught, each once."""
        draw, seen = random.Random(f"{self.seed}/judge"), set()  # noqa: S311
        for document, index, kind in ROUNDS * draw.sample(sorted(self.withheld), len(self.withheld)):
            own = self.documents[document]
            question = TEMPLATES[kind](own[index].text, draw)
            if question is not None and question.text not in seen:
                seen.add(question.text)
                yield question, Piece(own, [own[index]], draw.random() < self.whole)

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
                kinds = [kind for kind in TEMPLATES if (passage.document, passage.index, kind) not in self.withheld]
                question = from_template(passage.text, draw, kinds)
                if question is not None and question.text not in but:
                    made[question.text] = question
            if made:
                return [(question, piece) for question in list(made.values())[:most]]
        raise no_prose()


def no_prose() -> UsageError:
    """The error of documents that no question can be made from."""
    return UsageError(
        expected="prose that questions can be made from",
        got="passages without a sentence, a name or a number that could be asked for",
        consequence="Nothing was studied.",
        remedy="Give labelled questions with --questions FILE.",
    )


def _lot(seed: int, unit: Unit) -> float:
    """A number in [0, 1) that a unit keeps when the collection changes, so that what was withheld stays so."""
    return int(sha256(str(seed), *map(str, unit))[:12], 16) / 16**12
