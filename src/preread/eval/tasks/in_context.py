"""In-context learning: two examples in the decoder and more behind them, choices by likelihood (arXiv 2402.16617, 4.4).

Two small sets of our own, since the paper's need a hub. `sources`: which of four kinds of writing a few words are from,
examples from training texts, questions from another split. `symbols`: made-up words with a made-up label, by a rule
that is drawn anew for every set of examples, so that no weights can know it; the lines asked about are no examples.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import ClassVar, Literal

from preread.core.errors import UsageError
from preread.core.progress import progress
from preread.core.types import Document, Mark
from preread.data.passages import SENTENCE_END
from preread.eval.case import Case, Item
from preread.eval.kit import Kit
from preread.eval.task import Group, QuestionTask
from preread.eval.tasks.sets import expect, rows, set_file

KINDS = {"books": "novel", "science_plos": "science", "math_latex": "mathematics", "tech_docs": "software"}
"""Set of running text -> what its lines are called."""
TELLING = re.compile(rf"\b(?:{'|'.join(KINDS.values())})\b", re.IGNORECASE)
WORDS_SHOWN = 40
SLOTS, FILLERS = 3, 4
"""Words of a made-up line, and how many words there are for each place."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A line with the number of its label."""

    text: str
    gold: int


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a case teaches: labels, examples in order, and what is asked."""

    labels: tuple[str, ...]
    examples: Sequence[Shown]
    asked: Sequence[Shown]


@dataclass(frozen=True)
class InContext(QuestionTask):
    """Examples as the context, a line to label as the question.

    Args:
        set: `sources` or `symbols`.
        split: of the texts that are asked about, for `sources`; not `train`, of which its examples are.
        shots: how many examples; the longer contexts begin with the shorter ones.
        near: how many of them stand in the decoder whatever the method.
        samples: sets of examples.
        asked: lines asked about behind each.
        seed: of all draws.
    """

    set: Literal["sources", "symbols"] = "sources"
    split: str = "test"
    shots: tuple[int, ...] = (2, 20, 40)
    near: int = 2
    samples: int = 10
    asked: int = 8
    seed: int = 0
    kind: ClassVar[str] = "in_context"

    def __post_init__(self) -> None:
        """Refuse settings that make no case."""
        expect(1, samples=self.samples, asked=self.asked, near=self.near, shots=min(self.shots, default=0))
        if self.set == "sources" and self.split == "train":
            raise UsageError(
                expected="a split that examples are not drawn from, such as valid",
                got=self.split,
                consequence="Nothing was judged.",
                remedy="Change `split` in the recipe.",
            )
        lines = max(self.shots) + self.asked
        if self.set == "symbols" and lines > FILLERS**SLOTS:
            raise UsageError(
                expected=f"at most {FILLERS**SLOTS} lines of made-up words, examples and questions together",
                got=str(lines),
                consequence="Nothing was judged.",
                remedy="Lower `shots` or `asked` in the recipe.",
            )

    @property
    def label(self) -> str:
        """As tables name it."""
        return f"in-context {self.set}" + ("" if self.split == "test" else f" ({self.split})")

    @property
    def group(self) -> Group:
        """In-context learning."""
        return "in-context learning"

    @property
    def headline(self) -> str:
        """Right choices by likelihood."""
        return "accuracy"

    @property
    def note(self) -> str:
        """Chance, and what the examples are of."""
        sources = self.set == "sources"
        what = "Examples are of training texts." if sources else "Each set of examples has a rule of its own."
        return f"Four labels: 25 is chance. {what}"

    @property
    def max_tokens(self) -> int:
        """Nothing is written."""
        return 0

    def score(self, item: Item, answer: str) -> Mapping[str, float]:  # noqa: ARG002
        """Nothing is written."""
        return {}

    def drawn(self, case: Case) -> str:
        """The sample, of which longer and shorter contexts are made."""
        return case.id.rpartition(" ")[0]

    def units(self, kit: Kit) -> Sequence[Case]:
        """A case for each number of examples, sample by sample."""
        found: list[Case] = []
        with progress(f"making {self.label}", self.samples) as advance:
            for sample in range(self.samples):
                name = f"{self.label} {self.seed}-{sample}"
                draw = random.Random(name)  # noqa: S311 no secret depends on it
                lesson = self._sources(kit.data, draw) if self.set == "sources" else self._symbols(draw)
                found += [self._case(f"{name} {shots}", lesson, shots) for shots in self.shots]
                advance()
        return found

    def _case(self, name: str, lesson: Lesson, shots: int) -> Case:
        marks, text = [], ""
        for number, shown in enumerate(lesson.examples[:shots], start=1):
            marks.append(Mark(len(text), "section", f"example {number}"))
            text += f"{_line(shown.text)} {lesson.labels[shown.gold]}\n\n"
        items = [
            Item(
                f"{name}-{number}",
                f"Give this line its kind, as the examples do: {', '.join(lesson.labels)}.\n\n{_line(shown.text)}",
                (lesson.labels[shown.gold],),
                lesson.labels,
                shown.gold,
                at=(("shots", float(shots)),),
                query=shown.text,
            )
            for number, shown in enumerate(lesson.asked)
        ]
        return Case(name, Document(name, self.label, text.rstrip("\n"), tuple(marks)), tuple(items), self.near)

    def _sources(self, data: Path, draw: random.Random) -> Lesson:
        texts = {split: [_texts(data, name, split) for name in KINDS] for split in ("train", self.split)}
        examples = [Shown(_some_words(texts["train"][gold], draw), gold) for gold in _even(max(self.shots), draw)]
        asked = [Shown(_some_words(texts[self.split][gold], draw), gold) for gold in _even(self.asked, draw)]
        return Lesson(tuple(KINDS.values()), examples, asked)

    def _symbols(self, draw: random.Random) -> Lesson:
        """Lines of three words, of which the one at a drawn place decides the label."""
        words = draw.sample(_made_up(), SLOTS * FILLERS + FILLERS)
        fillers = [words[FILLERS * slot : FILLERS * (slot + 1)] for slot in range(SLOTS)]
        labels, place = words[SLOTS * FILLERS :], draw.randrange(SLOTS)
        lines = [Shown(" ".join(line), fillers[place].index(line[place])) for line in product(*fillers)]
        draw.shuffle(lines)
        by_label = [[line for line in lines if line.gold == gold] for gold in range(FILLERS)]
        even = [by_label[gold].pop() for gold in _even(max(self.shots) + self.asked, draw)]
        return Lesson(tuple(labels), even[: max(self.shots)], even[max(self.shots) :])


def _line(text: str) -> str:
    return f"Line: {text}\nKind:"


def _even(count: int, draw: random.Random) -> list[int]:
    """Numbers of labels in drawn order, each as often as the others in every four."""
    return [gold for _ in range(0, count, FILLERS) for gold in draw.sample(range(FILLERS), FILLERS)][:count]


def _made_up() -> list[str]:
    """Words of two syllables."""
    syllables = ["".join(pair) for pair in product("bdfgklmnprstvz", "aeiou")]
    return ["".join(pair) for pair in product(syllables, syllables) if pair[0] != pair[1]]


@lru_cache(maxsize=8)
def _texts(data: Path, name: str, split: str) -> tuple[str, ...]:
    """Documents of a set, as many of the shuffled ones as give a variety."""
    return tuple(str(row["text"]) for row in rows(set_file(data, "text", name, split), "text")[:20])


def _some_words(texts: Sequence[str], draw: random.Random) -> str:
    """The words behind a sentence's end, in one line and without the labels themselves: neither may tell the kind."""
    text = draw.choice(texts)
    start = draw.randrange(max(1, len(text) - WORDS_SHOWN * 10))
    border = SENTENCE_END.search(text, start)
    start = border.end() if border else start
    words = text[start : start + WORDS_SHOWN * 20].split()
    return " ".join([word for word in words if not TELLING.search(word)][:WORDS_SHOWN])
