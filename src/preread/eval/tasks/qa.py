"""Question sets: files of JSON lines, a document each with its questions (`docs/evaluation.md` has the format)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from statistics import mean
from typing import Any, ClassVar

from preread.core.types import Document, sha256
from preread.eval.case import Case, Item, Record, with_others
from preread.eval.evidence import evidence
from preread.eval.kit import Kit
from preread.eval.metrics import ROUGES, score
from preread.eval.task import Group, QuestionTask
from preread.eval.tasks.sets import draw, expect, rows, set_file

SHORT = "Answer in a few words."
NO_ANSWER = 'Answer in a few words, or "unanswerable" if the text does not say.'


@dataclass(frozen=True, slots=True)
class Style:
    """How a question set is asked and judged.

    Args:
        group: which sets it is reported with.
        metrics: of written answers, the headline first.
        max_tokens: of an answer.
        ask: what is put behind the question, the same for every answerer.
    """

    group: Group
    metrics: tuple[str, ...]
    max_tokens: int
    ask: str = ""


ANSWER = Style("single document", ("f1", "em"), 32, SHORT)
MAYBE = Style("single document", ("f1", "em"), 32, NO_ANSWER)
SUMMARY = Style("summarisation", ("rouge", "rouge1", "rouge2", "rougeL"), 128)
CHOICE = Style("single document", ("accuracy",), 0)
HOPS = Style("several documents", ("f1", "em"), 32, SHORT)

STYLES: Mapping[str, Style] = {
    "qmsum": SUMMARY,
    "squality": SUMMARY,
    "fairytaleqa": ANSWER,
    "timeqa": MAYBE,
    "narrativeqa_literary": ANSWER,
    "hotpotqa_distractor": HOPS,
    "squad2_articles": MAYBE,
    "qasper_subset": ANSWER,
    "leval_quality": CHOICE,
    "leval_legal_contract_qa": ANSWER,
    "leval_natural_question": ANSWER,
    "leval_multidoc_qa": Style("several documents", ("f1", "em"), 64),
    "leval_scientific_qa": ANSWER,
    "leval_gov_report_summ": SUMMARY,
    "leval_patent_summ": SUMMARY,
    "nq_oracle": ANSWER,
    "narrativeqa": ANSWER,  # the papers' own, from a hub
    "qasper": MAYBE,
    "quality": CHOICE,
    "hotpotqa": HOPS,
}
"""By name of the set; any other is judged as `ANSWER`, and by the likelihood of choices where it has any."""


@dataclass(frozen=True)
class Qa(QuestionTask):
    """Questions about whole documents.

    Args:
        set: name of the question set, or a path of a file in its format.
        split: `test`, or another part where settings are chosen.
        documents: most documents, in the order of a shuffle that depends on their ids alone; None takes all.
        questions: most questions of a document, drawn likewise; None takes all.
        characters: longest document; None takes any.
    """

    set: str
    split: str = "test"
    documents: int | None = None
    questions: int | None = None
    characters: int | None = None
    kind: ClassVar[str] = "qa"

    def __post_init__(self) -> None:
        expect(1, documents=self.documents, questions=self.questions, characters=self.characters)

    @property
    def style(self) -> Style:
        """How the set is asked and judged."""
        return STYLES.get(Path(self.set).name.split(".")[0], ANSWER)

    @property
    def label(self) -> str:
        """As tables name it."""
        return Path(self.set).name.split(".")[0] + ("" if self.split == "test" else f" ({self.split})")

    @property
    def group(self) -> Group:
        """The set's."""
        return self.style.group

    @property
    def headline(self) -> str:
        """The set's first metric."""
        return self.style.metrics[0]

    @property
    def max_tokens(self) -> int:
        """The set's."""
        return self.style.max_tokens

    @property
    def key(self) -> str:
        """How a case is judged, however many there are: a larger subsample goes on from a smaller one."""
        return sha256(self.kind, self.set, self.split, repr(self.style))

    def units(self, kit: Kit) -> Sequence[Case]:
        """The first documents of the shuffle, each with the first of its questions."""
        found = rows(question_file(kit.data, self.set, self.split), "text", "questions")
        short = [row for row in found if len(row["text"]) <= (self.characters or len(row["text"]))]
        cases = [case for case in map(self._case, short) if case.items]
        return with_others(cases)[: self.documents]  # the same other document in any subsample

    def score(self, item: Item, answer: str) -> Mapping[str, float]:
        """The set's metrics."""
        return {name: score(name, answer, item.answers) for name in self.style.metrics}

    def overall(self, records: Sequence[Record]) -> Mapping[str, float]:
        """A set's ROUGE is the geometric mean of its three means (SCROLLS), not the mean of its answers' ones.

        A single answer often has no pair of words right, and its own geometric mean is 0 then.
        """
        if "rouge" not in self.style.metrics:
            return {}
        means = [mean(record.scores[kind] for record in records) for kind in ROUGES]
        return {"rouge": prod(means) ** (1 / len(means))}

    def _case(self, row: Mapping[str, Any]) -> Case:
        document = Document(row["doc_id"], row.get("title") or row["doc_id"], row["text"])
        found = evidence(self.set, row)
        asked = sorted(enumerate(row["questions"]), key=lambda pair: draw(str(pair[1]["id"])))[: self.questions]
        items = [self._item(row["questions"][i], found[i]) for i, _ in sorted(asked, key=lambda pair: pair[0])]
        return Case(row["doc_id"], document, tuple(items))

    def _item(self, asked: Mapping[str, Any], spans: tuple[tuple[int, int], ...]) -> Item:
        question = f"{asked['question']} {self.style.ask}".strip()
        answers, choices = tuple(asked["answers"]), tuple(asked.get("choices", ()))
        return Item(
            str(asked["id"]), question, answers, choices, asked.get("gold_choice"), spans, query=asked["question"]
        )


def question_file(data: Path, name: str, split: str) -> Path:
    """The file of a question set's split; as `set_file`."""
    return set_file(data, "qa", name, split)
