"""What is judged: a context with its questions, or a stretch of running text; and what came of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from torch import Tensor

from preread.core.errors import PrereadError
from preread.core.types import Document, sha256

ROOM = 256
"""Positions that are left for an answer where its task does not ask for more."""


class Unfit(PrereadError):
    """An answerer cannot do this unit, such as a text longer than its window: the row says so, and the run goes on."""


@dataclass(frozen=True, slots=True)
class Item:
    """A question with what is right.

    Args:
        id: unique in its task.
        question: as the decoder is asked, instructions included.
        answers: reference answers, of which the best counts; empty where the context holds none.
        choices: what to choose from by likelihood, or nothing.
        gold: number of the right choice.
        evidence: [start, end) characters of the case's text that hold the answer, where the set says or shows it.
        at: coordinates in a grid, such as `(("length", 4096), ("depth", 0.5))`; results have a cell for each.
        query: what passages are searched for: the question without its instructions; empty where it has none.
        room: positions to leave for its answer by whoever shortens or stretches the context, at least; as many as the
            task lets be written, which is a part of the task's key and not of the item's.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    choices: tuple[str, ...] = ()
    gold: int | None = None
    evidence: tuple[tuple[int, int], ...] = ()
    at: tuple[tuple[str, float], ...] = ()
    query: str = ""
    room: int = field(default=ROOM, repr=False)


@dataclass(frozen=True, slots=True)
class Case:
    """A context with all that is asked about it; it is read once for all its items.

    Args:
        id: unique in its task, and what an interval draws again, with all its items.
        document: the context. Several documents are one text, with a `section` mark where each begins.
        items: the questions.
        near: how many of those sections, from the first, stand in the decoder where a method reads the rest in
            another way (CEPE, arXiv 2402.16617, section 4.3); 0 where the task does not tell them apart.
        other: another document of the task; what a control reads.
    """

    id: str
    document: Document
    items: tuple[Item, ...]
    near: int = 0
    other: Document | None = None

    @property
    def key(self) -> str:
        """Hash of everything that could change an answer or its score."""
        other = self.other.hash if self.other else ""
        return sha256(self.id, self.document.hash, repr(self.items), repr(self.near), other)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Running text whose last part is to be predicted: `far`, then `near`, then `target`, all of one document.

    Args:
        id: unique in its task.
        source: the document it was cut from, which an interval draws again with all its stretches.
        document: hash of the document's text, for the leak check.
        far: token ids of what a method may read in its own way, or leave out.
        near: token ids that stand in the decoder as they are.
        target: token ids to predict, each from all before it.
        passages: [start, end) pieces of `far` that are passages of their own, such as retrieved ones; empty: one text.
        scores: how relevant each of those passages is, higher is better; as many as passages.
        at: as an item's.
        other: a stretch of another document, whose far text a control reads.
    """

    id: str
    source: str
    document: str
    far: tuple[int, ...]
    near: tuple[int, ...]
    target: tuple[int, ...]
    passages: tuple[tuple[int, int], ...] = ()
    scores: tuple[float, ...] = ()
    at: tuple[tuple[str, float], ...] = ()
    other: Stretch | None = None

    @property
    def key(self) -> str:
        """Hash of everything that could change its likelihood."""
        read = repr((self.far, self.near, self.target, self.passages, self.scores, self.at))
        return sha256(self.id, read, self.other.key if self.other else "")


U = TypeVar("U", bound="Case | Stretch")
Unit = Case | Stretch
"""What is judged at once, and cached."""


def with_others(units: Sequence[U]) -> list[U]:
    """The units of a task, each with the next one's document that is not its own, the first following the last.

    In a grid it is the next one at the same place: what has the same needle at another depth, or the same question
    with more passages, would be no control. So a unit keeps its other document however many units are judged after
    it. A unit that comes with another keeps that.
    """
    places: dict[tuple[tuple[str, float], ...], list[int]] = defaultdict(list)
    for number, unit in enumerate(units):
        places[_place(unit)].append(number)
    found = list(units)
    for numbers in places.values():
        ahead: U | None = None
        other: U | None = None
        for number in reversed([*numbers, *numbers]):
            unit = units[number]
            if ahead is not None and _text(ahead) != _text(unit):
                other = ahead
            ahead = unit
            found[number] = unit if unit.other else _beside(unit, other)
    return found


def _place(unit: Unit) -> tuple[tuple[str, float], ...]:
    """In a grid; a case that is asked at several depths stands where its first question does."""
    if isinstance(unit, Case):
        return unit.items[0].at if unit.items else ()
    return unit.at


def _text(unit: Unit) -> str:
    return unit.document.text if isinstance(unit, Case) else unit.document


def _beside(unit: U, other: U | None) -> U:
    if isinstance(unit, Case):
        return replace(unit, other=other.document) if isinstance(other, Case) else unit
    return replace(unit, other=other) if isinstance(other, Stretch) else unit


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Negative log-likelihood of one text: the sum over its tokens in nats, and how many there are (no end token)."""

    nats: float
    tokens: int

    @property
    def mean(self) -> float:
        """Nats a token."""
        return self.nats / self.tokens


@dataclass(frozen=True, slots=True)
class Response:
    """What an answerer did with one item.

    Args:
        answer: what it wrote, greedily.
        references: likelihood of each reference answer that is judged by it, in order.
        choices: likelihood of each choice, in order.
        positions: positions of the decoder that its prompt takes, question and template included.
        written: tokens of the answer.
    """

    answer: str
    references: tuple[Likelihood, ...]
    choices: tuple[Likelihood, ...]
    positions: int
    written: int


@dataclass(frozen=True, slots=True)
class Record:
    """One judged item, as it is kept and drawn again.

    Args:
        unit: what an interval draws again: as `QuestionTask.drawn` has it, or the stretch's source.
        item: id of the item or stretch.
        scores: metric -> value; F1, ROUGE, exact match and accuracy from 0 to 100, likelihoods in nats a token.
        weight: in means over records; target tokens for running text.
        answer: what was written.
        positions: positions that the decoder read.
        at: coordinates in a grid.
    """

    unit: str
    item: str
    scores: Mapping[str, float]
    weight: float = 1.0
    answer: str = ""
    positions: int = 0
    at: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one answerer did with one unit.

    Args:
        unit: key of the unit.
        records: one an item; none where it was unfit.
        seconds: reading and answering together; compares within one run alone.
        peak_bytes: most memory above what was there before; the device's where there is one, else the process's.
        stored_bytes: what is kept on disk so that the next question need not read the text again.
        unfit: why it could not be done, or an empty string.
        notes: what was warned of on the way.
    """

    unit: str
    records: tuple[Record, ...]
    seconds: float = 0.0
    peak_bytes: int = 0
    stored_bytes: int = 0
    unfit: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answers:
    """What an answerer did with a case: a response an item, and the bytes it keeps of the context."""

    responses: tuple[Response, ...]
    stored_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Losses:
    """What an answerer did with a stretch.

    Args:
        nats: [T] negative log-likelihood of each target token in nats, float32 on the CPU.
        positions: positions that the decoder read, the target's included.
        stored_bytes: what it keeps of `far`.
    """

    nats: Tensor
    positions: int
    stored_bytes: int = 0
