"""What tuning must not cost: short text of several kinds, and questions that need no document, by likelihood."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from preread.core.types import Document
from preread.eval.case import Case, Item, Stretch
from preread.eval.kit import Kit
from preread.eval.task import Group, QuestionTask, TextTask
from preread.eval.tasks.qa import Qa
from preread.eval.tasks.sets import drawn, expect
from preread.eval.tasks.texts import Text, in_turn, texts

NO_DOCUMENT = Document("closed book", "closed book", "")


@dataclass(frozen=True)
class ShortText(TextTask):
    """Windows of a few hundred tokens out of the middle of anything, each on its own.

    Args:
        sets: names of sets of running text.
        split: of each.
        documents: most of each set.
        windows: most of a document, drawn; they do not overlap.
        length: tokens of a window.
    """

    sets: tuple[str, ...] = ("books", "science_plos", "math_latex", "tech_docs")
    split: str = "test"
    documents: int | None = 4
    windows: int = 2
    length: int = 512
    kind: ClassVar[str] = "short-text"

    def __post_init__(self) -> None:
        expect(1, documents=self.documents, windows=self.windows)
        expect(2, length=self.length)

    @property
    def label(self) -> str:
        """As tables name it."""
        return f"short text ({self.length} tokens)"

    @property
    def group(self) -> Group:
        """What tuned decoders are held against the base by."""
        return "general ability"

    @property
    def note(self) -> str:
        """Which sets."""
        return f"Windows of {self.length} tokens of {', '.join(self.sets)}, each on its own."

    def units(self, kit: Kit) -> Sequence[Stretch]:
        """As `Task.units`, the sets and documents in turn."""
        found = [text for name in self.sets for text in texts(kit, name, self.split, self.length, self.documents)]
        return in_turn([self.cut(text) for text in found])

    def cut(self, text: Text) -> Iterable[Stretch]:
        """The windows of a document, drawn by its id and their places alone."""
        for place in drawn(text.id, len(text.ids) // self.length, self.windows):
            start = place * self.length
            window = text.ids[start : start + self.length]
            yield Stretch(f"{text.id}:{start}", text.id, text.document, (), window[:1], window[1:])


@dataclass(frozen=True)
class ClosedBook(QuestionTask):
    """Questions whose answers the decoder may know by heart, without any document.

    Args:
        set: name of a question set, or a path of a file in its format; its documents are left out.
        split: `test`, or another part where settings are chosen.
        questions: most, each of a document of its own; None takes one of every document.
    """

    set: str = "nq_oracle"
    split: str = "test"
    questions: int | None = 200
    kind: ClassVar[str] = "closed-book"
    higher: ClassVar[bool] = False

    def __post_init__(self) -> None:
        expect(1, questions=self.questions)

    @property
    def label(self) -> str:
        """As tables name it."""
        return f"{self._open.label}, closed book"

    @property
    def group(self) -> Group:
        """What tuned decoders are held against the base by."""
        return "general ability"

    @property
    def headline(self) -> str:
        """Nats a token of the reference answers: a small decoder knows few of them, but some better than others."""
        return "nll"

    @property
    def note(self) -> str:
        """What is not read."""
        return "No answerer is given a document; reference answers are judged by likelihood."

    @property
    def max_tokens(self) -> int:
        """Nothing is written."""
        return 0

    def score(self, item: Item, answer: str) -> Mapping[str, float]:  # noqa: ARG002
        """Nothing, as nothing is written."""
        return {}

    def units(self, kit: Kit) -> Sequence[Case]:
        """As `Task.units`: the set's cases behind an empty document."""
        return [
            replace(case, document=NO_DOCUMENT, items=tuple(replace(item, evidence=()) for item in case.items))
            for case in self._open.units(kit)
        ]

    @property
    def _open(self) -> Qa:
        return Qa(self.set, self.split, self.questions, 1)
