"""What a LoRA of a tuned row is taught: documents, with questions about them and answers."""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from preread.core.config import build
from preread.core.errors import UsageError
from preread.core.progress import progress
from preread.core.types import Passage, sha256, text_hash
from preread.engines.local import LocalEngine
from preread.eval.case import Case, Item
from preread.eval.kit import Kit
from preread.eval.task import QuestionTask
from preread.eval.tasks import TASKS
from preread.eval.tasks.qa import NO_ANSWER, Qa
from preread.eval.tasks.sets import expect
from preread.methods.text import Text
from preread.training import selfstudy

SELF_STUDY = "selfstudy"
"""Kind of lessons, beside those of generated tasks."""
UNANSWERABLE = "unanswerable"
"""What is taught where a question has no answer and its set asks to say so (`NO_ANSWER`)."""
PROTOCOL = 1
"""Of what the decoder writes for itself; raised whenever the same settings would write otherwise."""


class Taught(ABC):
    """Where lessons come from."""

    missing: tuple[str, ...] = ()
    """What is taught as the answers of a question that has none."""

    @property
    @abstractmethod
    def label(self) -> str:
        """As rows say what they were taught."""

    @abstractmethod
    def cases(self, kit: Kit) -> list[Case]:
        """The documents with those of their questions that have something to teach; once it is ready."""

    def documents(self, kit: Kit) -> list[str]:
        """Hashes of the documents' texts; also before it is ready."""
        return [text_hash(case.document.text) for case in self.cases(kit)]

    def content(self, kit: Kit) -> object:
        """What tells these lessons from any others; also before it is ready."""
        return [
            (case.document.hash, [(i.question, i.query, i.answers or self.missing, i.evidence) for i in case.items])
            for case in self.cases(kit)
        ]

    def ready(self, kit: Kit, until: float | None) -> bool:  # noqa: ARG002
        """Do, with progress, what must be done before; whether there was time for it."""
        return True


@dataclass(frozen=True)
class Labelled(Taught):
    """The questions of a set, with its answers.

    Args:
        task: the set's training part.
    """

    task: Qa

    @property
    def label(self) -> str:
        """The set and its split."""
        return f"{self.task.set} {self.task.split}"

    @property
    def missing(self) -> tuple[str, ...]:  # type: ignore[override]  # here it depends on the set
        """Sets that ask to say so teach it."""
        return (UNANSWERABLE,) if self.task.style.ask == NO_ANSWER else ()

    def cases(self, kit: Kit) -> list[Case]:
        """Those with answers, or with `missing` ones."""
        cases = self.task.units(kit)
        taught = [(case, tuple(item for item in case.items if item.answers or self.missing)) for case in cases]
        return [replace(case, items=items) for case, items in taught if items]


@dataclass(frozen=True)
class Generated(Taught):
    """The questions of a generated task, such as needles in training books.

    Args:
        task: with a part for training.
    """

    task: QuestionTask

    def __post_init__(self) -> None:
        if getattr(self.task, "split", None) != "train":
            raise UsageError(
                expected="a task with `split: train` to be taught",
                got=self.task.label,
                consequence="Nothing was trained or judged.",
                remedy="Set it in `lessons`, or choose needle.",
            )

    @property
    def label(self) -> str:
        """The task's."""
        return self.task.label

    def cases(self, kit: Kit) -> list[Case]:
        """All of them."""
        return [unit for unit in self.task.units(kit) if isinstance(unit, Case)]


@dataclass(frozen=True)
class Writing:
    """How the decoder writes its own questions.

    Args:
        pieces: of each document, drawn; a question of each kind is written about each.
        passages: neighbours that make a piece.
        temperature: of the questions; the answers are the likeliest.
        seed: of all draws.
    """

    pieces: int = 4
    passages: int = 4
    temperature: float = 0.7
    seed: int = 0

    def __post_init__(self) -> None:
        expect(1, pieces=self.pieces, passages=self.passages)


@dataclass(frozen=True)
class SelfStudied(Taught):
    """Questions that the decoder wrote about a set's documents, with its own answers: no label is looked at.

    What was written is kept in the kit's folder, a line a piece, so that a run that was stopped goes on.

    Args:
        task: the set's training part, whose documents are read.
        writing: of the questions.
    """

    task: Qa
    writing: Writing

    @property
    def label(self) -> str:
        """That nobody labelled them."""
        return f"{self.task.set} {self.task.split}, written and answered by the decoder itself"

    def documents(self, kit: Kit) -> list[str]:
        """Of the set."""
        return [text_hash(case.document.text) for case in self.task.units(kit)]

    def content(self, kit: Kit) -> object:
        """The documents and the settings decide what is written, on one kind of device."""
        return PROTOCOL, [case.document.hash for case in self.task.units(kit)], repr(self.writing)

    def ready(self, kit: Kit, until: float | None) -> bool:
        """Write what is not written yet."""
        path, todo = self._path(kit), self._pieces(kit)
        written = selfstudy.load(path)
        if len(written) == len(todo):
            return True
        kit.work.mkdir(parents=True, exist_ok=True)
        handle = Text().attach(kit.decoder)
        engine = LocalEngine(kit.decoder)
        taken: dict[str, set[str]] = {case.document.hash: set() for case, _ in todo}
        with progress(f"writing questions about {self.task.label}", len(todo), len(written)) as advance:
            for number, (case, piece) in enumerate(todo):
                if number >= len(written):
                    if until is not None and time.monotonic() >= until:
                        return False
                    seed = f"{self.writing.seed}/{case.document.hash}/{number}"
                    asked = taken[case.document.hash]
                    written.append(selfstudy.write(engine, handle, piece, seed, self.writing.temperature, asked))
                    selfstudy.keep(path, written[number])
                    advance()
                taken[case.document.hash] |= {one.text.casefold() for one in written[number].questions}
        handle.detach()
        return True

    def cases(self, kit: Kit) -> list[Case]:
        """Those documents that any question was written about."""
        found: dict[str, list[Item]] = {}
        todo = self._pieces(kit)
        for (case, _), written in zip(todo, selfstudy.load(self._path(kit)), strict=False):
            items = found.setdefault(case.id, [])
            for question in written.questions:
                items.append(Item(f"{case.id} {len(items)}", question.text, (question.answer,), query=question.text))
        cases = {case.id: case for case, _ in todo}
        return [replace(cases[id], items=tuple(items)) for id, items in found.items() if items]  # noqa: A001

    def _pieces(self, kit: Kit) -> list[tuple[Case, Sequence[Passage]]]:
        """Neighbouring passages of each document, from places that are drawn."""
        found: list[tuple[Case, Sequence[Passage]]] = []
        for case in self.task.units(kit):
            passages = kit.passages(case.document)
            last = max(0, len(passages) - self.writing.passages)
            draw = random.Random(f"{self.writing.seed}/{case.document.hash}")  # noqa: S311 no secret depends on it
            starts = sorted(draw.sample(range(last + 1), min(self.writing.pieces, last + 1)))
            found += [(case, passages[start : start + self.writing.passages]) for start in starts]
        return found

    def _path(self, kit: Kit) -> Path:
        where = (kit.decoder.fingerprint, str(kit.decoder.dtype), kit.decoder.device.type)
        return kit.work / f"selfstudy-{sha256(*where, repr(self.content(kit)))[:16]}.jsonl"


def taught(lessons: Mapping[str, Any] | None, task: Qa | None) -> Taught | None:
    """What a recipe means by its lessons.

    Args:
        lessons: `kind` and settings: `selfstudy`, or a generated task with a part for training; None is the labels.
        task: the training part of the set that a row is judged on or the recipe names; None where there is none.

    Returns:
        None where that would be needed.

    Raises:
        UsageError: an unknown kind or setting.
    """
    if lessons is None:
        return Labelled(task) if task else None
    if lessons.get("kind") == SELF_STUDY:
        writing = build(Writing, {name: value for name, value in lessons.items() if name != "kind"})
        return SelfStudied(task, writing) if task else None
    from preread.eval.recipe import built  # which builds those who are taught

    generated = {kind: made for kind, made in TASKS.items() if issubclass(made, QuestionTask)}
    made = built(generated, lessons, f"lessons ({SELF_STUDY}, or a generated task)")
    assert isinstance(made, QuestionTask)
    return Generated(made)
