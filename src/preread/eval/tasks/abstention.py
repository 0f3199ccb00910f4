"""Questions that a context does not answer: whether a reader says so, and whether reading derails what it knew.

`abstention` asks some questions that the document answers and some that it does not, and allows to say so. A written
answer abstains or does not; beside it stands the likelihood of the word "unanswerable" behind the same prompt, whose
AUROC tells whether the reader knows the difference, whatever it writes. `off_topic` asks questions of another set, and
does not allow it: the row without context says what the decoder knows, every other row what reading something else
does to that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from preread.core.errors import UsageError
from preread.core.types import Document
from preread.eval.case import Case, Item, Record, Response
from preread.eval.evidence import Spans, evidence
from preread.eval.kit import Kit
from preread.eval.metrics import declines, score
from preread.eval.task import Group, QuestionTask
from preread.eval.tasks.qa import NO_ANSWER, SHORT
from preread.eval.tasks.sets import draw, expect, rows, set_file

UNANSWERABLE = "unanswerable"
ELSEWHERE = "nq_oracle"
"""Whose questions are about none of the other sets' documents."""


@dataclass(frozen=True)
class Unanswered(QuestionTask):
    """Documents with questions that they do not answer.

    Args:
        set: of the documents.
        split: of the documents, and of the questions from elsewhere.
        documents: how many, in an order that depends on their ids alone.
        questions: of each document, drawn likewise.
    """

    set: str = "squad2_articles"
    split: str = "test"
    documents: int = 20
    questions: int = 8

    def __post_init__(self) -> None:
        """Refuse settings that make no case."""
        expect(1, documents=self.documents, questions=self.questions)

    @property
    def group(self) -> Group:
        """Abstention."""
        return "abstention"

    @property
    def max_tokens(self) -> int:
        """Room for a sentence."""
        return 32

    def score(self, item: Item, answer: str) -> Mapping[str, float]:
        """F1 and exact match; without an answer, whether it says so."""
        return {name: score(name, answer, item.answers) for name in ("f1", "em")}

    def _rows(self, kit: Kit) -> list[dict[str, Any]]:
        return rows(set_file(kit.data, "qa", self.set, self.split), "text", "questions")

    def _elsewhere(self, kit: Kit, number: int) -> list[Mapping[str, Any]]:
        """Questions of the other set for document `number`; those of the next document follow."""
        found = [row["questions"][0] for row in _others(kit.data, self.split)]
        return [found[(number * self.questions + i) % len(found)] for i in range(self.questions)]


@dataclass(frozen=True)
class Abstention(Unanswered):
    """As many questions with an answer as without; documents that lack either are left out.

    Args:
        without: questions of the `own` set that its authors marked as unanswerable, or of another set (`foreign`).
    """

    without: Literal["own", "foreign"] = "own"
    kind: ClassVar[str] = "abstention"

    @property
    def label(self) -> str:
        """As tables name it."""
        whose = "" if self.without == "own" else ", foreign questions"
        return f"abstention, {self.set}{whose}" + ("" if self.split == "test" else f" ({self.split})")

    @property
    def headline(self) -> str:
        """F1 of abstaining, over all questions."""
        return "abstain_f1"

    @property
    def note(self) -> str:
        """What the columns are of."""
        return (
            "Half of the questions have no answer. abstain_recall: share of those that were declined; kept: share of "
            "the others that were not; auroc: of the likelihood of the word “unanswerable”, 50 is chance."
        )

    def units(self, kit: Kit) -> Sequence[Case]:
        """A case a document.

        Raises:
            UsageError: no document has questions of both kinds.
        """
        made = (self._case(kit, number, row) for number, row in enumerate(self._rows(kit)))
        cases = list(islice((case for case in made if case.items), self.documents))
        if not cases:
            raise UsageError(
                expected="documents with questions that they answer and others that they do not, two or more together",
                got=f"none in {self.set}",
                consequence="Nothing was judged.",
                remedy="Set `without: foreign`, raise `questions`, or change the set.",
            )
        return cases

    def overall(self, records: Sequence[Record]) -> Mapping[str, float]:
        """Precision and F1 of abstaining, and the AUROC of the word's likelihood, from 0 to 100."""
        should = [record.scores["should_abstain"] > 0 for record in records]
        did = [record.scores["abstained"] > 0 for record in records]
        right = sum(one and other for one, other in zip(should, did, strict=True))
        found = {
            "abstain_f1": 200.0 * right / max(1, sum(should) + sum(did)),
            "abstain_precision": 100.0 * right / max(1, sum(did)),
        }
        if len({*should}) == 2:
            likely = np.array([-record.scores["nll_unanswerable"] for record in records])
            found["auroc"] = 100.0 * auroc(likely, np.array(should))
        return found

    def _case(self, kit: Kit, number: int, row: Mapping[str, Any]) -> Case:
        pairs = list(zip(row["questions"], evidence(self.set, row), strict=True))
        yes, no = ([pair for pair in pairs if bool(pair[0]["answers"]) is right] for right in (True, False))
        if self.without == "foreign":
            no = [({**asked, "answers": []}, ()) for asked in self._elsewhere(kit, number)]
        half = min(self.questions // 2, len(yes), len(no))
        chosen = [pair for some in (yes, no) for pair in sorted(some, key=lambda one: draw(str(one[0]["id"])))[:half]]
        return Case(row["doc_id"], _document(row), tuple(_item(*pair) for pair in chosen))

    def _record(self, case: Case, item: Item, response: Response) -> Record:
        """As a question task's; the word is no choice against the others, but has a likelihood of its own."""
        record = super()._record(case, item, replace(response, choices=()))
        abstained, should = 100.0 * declines(response.answer), 100.0 * (not item.answers)
        own = {"abstain_recall": abstained} if should else {"kept": 100.0 - abstained}
        own |= {"abstained": abstained, "should_abstain": should, "nll_unanswerable": response.choices[0].mean}
        return replace(record, scores={**record.scores, **own})


@dataclass(frozen=True)
class OffTopic(Unanswered):
    """Questions of another set behind a document that is not about them."""

    kind: ClassVar[str] = "off_topic"
    higher: ClassVar[bool] = False

    @property
    def label(self) -> str:
        """As tables name it."""
        return f"off topic, {self.set}" + ("" if self.split == "test" else f" ({self.split})")

    @property
    def headline(self) -> str:
        """Nats a token of the answers that the decoder may know by itself."""
        return "nll"

    @property
    def note(self) -> str:
        """What to compare."""
        return f"Questions of {ELSEWHERE} behind other documents: no row should be worse than no context."

    def units(self, kit: Kit) -> Sequence[Case]:
        """A case a document."""
        chosen = enumerate(self._rows(kit)[: self.documents])
        return [self._case(row, self._elsewhere(kit, number)) for number, row in chosen]

    def _case(self, row: Mapping[str, Any], asked: Sequence[Mapping[str, Any]]) -> Case:
        items = tuple(
            Item(str(one["id"]), f"{one['question']} {SHORT}", tuple(one["answers"]), query=one["question"])
            for one in asked
        )
        return Case(row["doc_id"], _document(row), items)


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """How often a positive scores above a negative, ties counting half: by ranks (Mann and Whitney).

    Args:
        scores: [n].
        positive: [n] bool, neither all nor none.
    """
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    ours, theirs = positive.sum(), (~positive).sum()
    return float((ranks[positive].sum() - ours * (ours + 1) / 2) / (ours * theirs))


def _document(row: Mapping[str, Any]) -> Document:
    return Document(row["doc_id"], row.get("title") or row["doc_id"], row["text"])


def _item(asked: Mapping[str, Any], spans: Spans) -> Item:
    """A question that may have no answer, with the word as a text to be judged."""
    question, query = f"{asked['question']} {NO_ANSWER}", asked["question"]
    return Item(str(asked["id"]), question, tuple(asked["answers"]), (UNANSWERABLE,), None, spans, query=query)


@lru_cache(maxsize=2)
def _others(data: Path, split: str) -> list[dict[str, Any]]:
    return rows(set_file(data, "qa", ELSEWHERE, split), "questions")
