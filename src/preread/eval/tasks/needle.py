"""One sentence in a long text: the passkey (arXiv 2305.16300, as arXiv 2309.12307 asks for it), and needles in books.

Needles are those of arXiv 2404.07979, section 4: a fixed sentence, or a random city with a random number. The published
wording of the random one is not known to us; ours is the usual "special magic number". Answers are judged by whether
they contain what was hidden, not by another model.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from preread.core.types import Document
from preread.eval.case import Case, Item
from preread.eval.kit import Kit
from preread.eval.tasks.haystack import Generated, Hay, buried, noise, prose, some_number, unseen

TASK = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. "
    "I will quiz you about the important information there.\n"
)
CITIES = (
    "Amsterdam Ankara Athens Baghdad Bangkok Barcelona Beijing Belgrade Berlin Bogota Brussels Budapest Cairo "
    "Chicago Copenhagen Dakar Delhi Dublin Geneva Hanoi Havana Helsinki Istanbul Jakarta Kigali Kyiv Lagos Lima "
    "Lisbon London Madrid Manila Melbourne Montreal Moscow Mumbai Nairobi Oslo Paris Prague Quito Riga Rome "
    "Santiago Seoul Singapore Sofia Stockholm Sydney Tallinn Tokyo Toronto Tunis Vienna Vilnius Warsaw Zagreb "
    "Zurich"
)


@dataclass(frozen=True, slots=True)
class Needle:
    """A sentence, what is asked about it, and what an answer must contain."""

    sentence: str
    question: str
    answer: str


@dataclass(frozen=True)
class Buried(Generated):
    """One needle a document, at each of the depths.

    Args:
        depths: share of the text before the needle.
    """

    depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    before: ClassVar[str] = ""

    @property
    def max_tokens(self) -> int:
        """Room for a sentence."""
        return 32

    def drawn(self, case: Case) -> str:
        """The needle and its hay, which are the same at every depth."""
        return case.id.rpartition(" ")[0]

    @abstractmethod
    def hay(self, kit: Kit, length: int, draw: random.Random) -> Hay:
        """What the needle is hidden in."""

    @abstractmethod
    def needle(self, draw: random.Random, hay: Hay) -> Needle:
        """What is hidden; its answer stands nowhere in the hay."""

    def cases(self, kit: Kit, length: int, name: str, draw: random.Random) -> Iterator[Case]:
        """The same needle in the same hay at every depth."""
        hay = self.hay(kit, length, draw)
        needle = self.needle(draw, hay)
        for depth in self.depths:
            hidden = [(depth, needle.sentence)]
            text, spans = buried(kit.decoder, hay, hidden, length, self.before)
            at = (("length", length), ("depth", depth))
            asked = needle.question
            item = Item(f"{name} {depth}", asked, (needle.answer,), evidence=tuple(spans), at=at, query=asked)
            yield Case(item.id, Document(item.id, self.label, text), (item,))


@dataclass(frozen=True)
class Passkey(Buried):
    """A number of five digits among the same five sentences over and over."""

    kind: ClassVar[str] = "passkey"
    before: ClassVar[str] = TASK

    @property
    def label(self) -> str:
        """As tables name it."""
        return "passkey"

    def hay(self, kit: Kit, length: int, draw: random.Random) -> Hay:  # noqa: ARG002
        """The five sentences."""
        return noise(length)

    def needle(self, draw: random.Random, hay: Hay) -> Needle:
        """The number, said twice in one line as in the paper.

        It is asked for as a number: to the paper's "What is the pass key?" the default decoder repeats the words around
        it, wherever it stands.
        """
        key = unseen(lambda: some_number(draw, 5), hay.text)
        line = f"The pass key is {key}. Remember it. {key} is the pass key."
        return Needle(line, "What number is the pass key?", key)


@dataclass(frozen=True)
class BookNeedle(Buried):
    """A sentence in a book.

    Args:
        needle_is: `fixed`, the same sentence always; or `random`, another number of another city each time.
        split: of the books; `train` makes material for tuning.
    """

    needle_is: Literal["fixed", "random"] = "random"
    split: str = "test"
    kind: ClassVar[str] = "needle"

    @property
    def label(self) -> str:
        """As tables name it."""
        return f"needle, {self.needle_is}" + ("" if self.split == "test" else f" ({self.split})")

    def hay(self, kit: Kit, length: int, draw: random.Random) -> Hay:
        """A stretch of the books."""
        return prose(kit, self.split, length, draw)

    def needle(self, draw: random.Random, hay: Hay) -> Needle:
        """The sentence."""
        if self.needle_is == "fixed":
            answer = "eat a sandwich and sit in Dolores Park on a sunny day"
            place = "The best thing to do in San Francisco is"
            return Needle(f"{place} {answer}.", "What is the best thing to do in San Francisco?", answer)
        city, number = draw.choice(CITIES.split()), unseen(lambda: some_number(draw, 7), hay.text)
        line = f"The special magic number of {city} is {number}."
        return Needle(line, f"What is the special magic number of {city}?", number)
