"""What is asked of answerers: a source of units, and how each is judged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import ClassVar, Literal

from preread.core.types import sha256
from preread.eval.answerer import Answerer
from preread.eval.case import Case, Item, Record, Response, Stretch, Unit
from preread.eval.kit import Kit

Group = Literal[
    "single document",
    "several documents",
    "summarisation",
    "language modelling",
    "retrieval",
    "in-context learning",
    "abstention",
    "general ability",
]


class Task(ABC):
    """A set of units with its metrics; a frozen dataclass of its settings.

    Class attributes:
        kind: as recipes name it.
        higher: whether more of the headline metric is better.
    """

    kind: ClassVar[str]
    higher: ClassVar[bool] = True

    @property
    @abstractmethod
    def label(self) -> str:
        """As tables name it; unique in a recipe."""

    @property
    @abstractmethod
    def group(self) -> Group:
        """Which kind of tasks it is reported with."""

    @property
    @abstractmethod
    def headline(self) -> str:
        """The metric that stands first and in plots."""

    @property
    def note(self) -> str:
        """What every table of it must say."""
        return ""

    @property
    def key(self) -> str:
        """Everything of it that decides how a unit is judged; units have keys of their own."""
        return sha256(self.kind, repr(sorted(asdict(self).items())))  # type: ignore[call-overload]  # a dataclass

    @abstractmethod
    def units(self, kit: Kit) -> Sequence[Unit]:
        """What is judged, in a fixed order.

        Raises:
            UnreadableDocument: its file is not there or not what it should be.
        """

    @abstractmethod
    def judge(self, kit: Kit, answerer: Answerer, unit: Unit) -> tuple[Iterable[Record], int]:
        """The records of one unit by one answerer, and the bytes that the answerer keeps of its context.

        Raises:
            Unfit: the answerer cannot do this unit.
        """

    def overall(self, records: Sequence[Record]) -> Mapping[str, float]:  # noqa: ARG002
        """Metrics of many records together that are no mean of theirs, such as an AUROC; none by default."""
        return {}


class QuestionTask(Task):
    """Cases with questions: answers are written and scored, references and choices are judged by likelihood."""

    @property
    @abstractmethod
    def max_tokens(self) -> int:
        """Most tokens of an answer; 0 writes none."""

    @abstractmethod
    def score(self, item: Item, answer: str) -> Mapping[str, float]:
        """Metrics of a written answer, from 0 to 100."""

    def drawn(self, case: Case) -> str:
        """What an interval draws again: the case, unless several were made of one draw and are no news beside it."""
        return case.id

    def judge(self, kit: Kit, answerer: Answerer, unit: Unit) -> tuple[Iterable[Record], int]:
        """As `Task.judge`: `score`, `nll` (mean over the references, nats a token) and, with choices, `accuracy`."""
        assert isinstance(unit, Case), "a task of questions has cases"
        answers = answerer.respond(kit, unit, self.max_tokens)
        records = [self._record(unit, *pair) for pair in zip(unit.items, answers.responses, strict=True)]
        return records, answers.stored_bytes

    def _record(self, case: Case, item: Item, response: Response) -> Record:
        scores = dict(self.score(item, response.answer)) if self.max_tokens else {}
        if response.references:
            scores["nll"] = sum(one.mean for one in response.references) / len(response.references)
        if response.choices:
            means = [one.mean for one in response.choices]
            scores["accuracy"] = 100.0 * (means.index(min(means)) == item.gold)
        return Record(
            self.drawn(case), item.id, scores, answer=response.answer, positions=response.positions, at=item.at
        )


class TextTask(Task):
    """Stretches of running text, judged by the likelihood of their targets."""

    higher: ClassVar[bool] = False

    @property
    def headline(self) -> str:
        """Nats a token; tables show its exponential, the perplexity, too."""
        return "nll"

    @property
    def group(self) -> Group:
        """Running text."""
        return "language modelling"

    def judge(self, kit: Kit, answerer: Answerer, unit: Unit) -> tuple[Iterable[Record], int]:
        """As `Task.judge`: mean `nll` of the target in nats a token, weighted by its tokens."""
        assert isinstance(unit, Stretch), "a task of running text has stretches"
        found = answerer.losses(kit, unit)
        scores = {"nll": float(found.nats.double().mean())}
        record = Record(unit.source, unit.id, scores, len(found.nats), positions=found.positions, at=unit.at)
        return [record], found.stored_bytes
