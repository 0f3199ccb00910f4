"""RULER's generated tasks (arXiv 2404.06654, appendix B), with our books where it has essays.

The forms and sizes are the paper's, the code is ours: lm-eval's generators need two word lists and the essays from the
network. Where we differ: words come from the books, questions follow in the chat template without the paper's worked
example and without the beginning of the answer, a length leaves the answer out, and a score is the share of the
references that an answer contains (for the two question sets: any of them), as in the paper.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from preread.core.types import Document
from preread.eval.case import Case, Item
from preread.eval.kit import Kit
from preread.eval.tasks.haystack import Generated
from preread.eval.tasks.puzzles import (
    Niah,
    Puzzle,
    Questions,
    Source,
    common_words,
    frequent_words,
    variable_tracking,
)


@dataclass(frozen=True, slots=True)
class Form:
    """How one of the tasks is made and judged.

    Args:
        make: a puzzle from a source.
        max_tokens: of an answer, the paper's.
        metric: `contains_all` is the share of the references that the answer contains, `contains` any of them.
    """

    make: Callable[[Source], Puzzle]
    max_tokens: int = 128
    metric: Literal["contains", "contains_all"] = "contains_all"


Variant = Literal[
    "niah_single_1",
    "niah_single_2",
    "niah_single_3",
    "niah_multikey_1",
    "niah_multikey_2",
    "niah_multikey_3",
    "niah_multivalue",
    "niah_multiquery",
    "vt",
    "cwe",
    "fwe",
    "qa_1",
    "qa_2",
]
FORMS: Mapping[Variant, Form] = {
    "niah_single_1": Form(Niah("noise")),
    "niah_single_2": Form(Niah("books")),
    "niah_single_3": Form(Niah("books", value="uuids")),
    "niah_multikey_1": Form(Niah("books", keys=4)),
    "niah_multikey_2": Form(Niah("needles")),
    "niah_multikey_3": Form(Niah("needles", key="uuids", value="uuids")),
    "niah_multivalue": Form(Niah("books", values=4)),
    "niah_multiquery": Form(Niah("books", keys=4, asked=4)),
    "vt": Form(variable_tracking, 30),
    "cwe": Form(common_words, 120),
    "fwe": Form(frequent_words, 50),
    "qa_1": Form(Questions("squad2_articles"), 32, "contains"),
    "qa_2": Form(Questions("hotpotqa_distractor"), 32, "contains"),
}
"""The thirteen tasks by the paper's names, with its sizes (table 5)."""


@dataclass(frozen=True)
class Ruler(Generated):
    """One of RULER's tasks, a puzzle a case.

    Args:
        variant: by the paper's name.
        split: of the books and question sets.
    """

    variant: Variant = "niah_single_1"
    split: str = "test"
    kind: ClassVar[str] = "ruler"

    @property
    def label(self) -> str:
        """As tables name it."""
        return f"RULER {self.variant}" + ("" if self.split == "test" else f" ({self.split})")

    @property
    def metrics(self) -> tuple[str, ...]:
        """The paper's."""
        return (FORMS[self.variant].metric,)

    @property
    def max_tokens(self) -> int:
        """The paper's."""
        return FORMS[self.variant].max_tokens

    def cases(self, kit: Kit, length: int, name: str, draw: random.Random) -> Iterator[Case]:
        """One puzzle."""
        made = FORMS[self.variant].make(Source(kit, self.split, length, draw))
        at = (("length", length),)
        item = Item(name, made.question, made.answers, evidence=made.evidence, at=at, query=made.question)
        yield Case(name, Document(name, self.label, made.text, made.marks), (item,))
