"""`study`: teach a collection's adapter to answer from its memories (LLoCO, arXiv 2404.07979, section 3.2).

Questions come from the user or from templates; what the adapter learns is the distribution of the same decoder reading
the text of the passages, so that no labels are needed.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from preread.core.errors import UsageError
from preread.core.method import Handle, Objective
from preread.core.types import Lesson, Passage, sha256
from preread.data.questions import Question, from_template
from preread.nn.lora import Lora, LoraConfig
from preread.training.loop import Outcome, TrainingConfig, train

if TYPE_CHECKING:
    from preread.library import Collection

HELD_OUT = 16
"""Lessons that are never taught, to tell whether the adapter helps."""


@dataclass(frozen=True)
class StudyConfig:
    """How a collection is studied.

    Args:
        lora: shape of the adapter.
        training: the loop's settings; paper: 3 epochs, lr 2e-5, batch 8, cosine, warm-up 0.04.
        ce: weight of the answers themselves.
        distil: weight of the teacher's distribution.
        rows: lessons a micro-step.
        most_passages: memories side by side in a lesson are drawn from 1 to this many.
    """

    lora: LoraConfig = LoraConfig()
    training: TrainingConfig = TrainingConfig(steps=60, learning_rate=1e-3, save_every=20)
    ce: float = 0.5
    distil: float = 1.0
    rows: int = 2
    most_passages: int = 4


@dataclass(frozen=True, slots=True)
class Studied:
    """What studying gave.

    Args:
        before: loss terms on the held-out lessons without the adapter.
        after: the same with it.
        published: whether the adapter is in use now: only if it lost nothing on them.
        outcome: what the loop did.
    """

    before: dict[str, float]
    after: dict[str, float]
    published: bool
    outcome: Outcome


class Lessons:
    """Lessons of a collection by number; the same number gives the same lesson.

    Args:
        collection: whose passages are asked about.
        student: the method that reads memories.
        teacher: the method that reads text.
        questions: labelled questions; none means templates.
        adapter: name of the adapter that is taught.
        most_passages: as in `StudyConfig`.
        seed: decides all draws.
    """

    def __init__(
        self,
        collection: Collection,
        student: Handle,
        teacher: Handle,
        questions: Sequence[Question],
        adapter: str,
        most_passages: int,
        seed: int,
    ) -> None:
        self.collection, self.student, self.teacher = collection, student, teacher
        self.questions, self.adapter = list(questions), adapter
        self.most_passages, self.seed = most_passages, seed
        self.passages: list[list[Passage]] = [
            [stored.passage for stored in collection.store.passages(collection.name, entry.source)]
            for entry in collection.documents()
        ]
        if not self.passages:
            raise UsageError(
                expected=f"documents in {collection.name}",
                got="none",
                consequence="Nothing was studied.",
                remedy=f"Add some first: preread add FILE --collection {collection.name}",
            )

    def lesson(self, number: int) -> Lesson:
        """One lesson: a question, the memories of some neighbouring passages, the text of the same for the teacher."""
        draw = random.Random(f"{self.seed}/{number}")  # noqa: S311 no secret depends on it
        if self.questions:
            question = self.questions[number % len(self.questions)]
            hits = self.collection.library.retriever.search(self.collection.name, question.text, self.most_passages)
            passages = [hit.passage for hit in hits]
        else:
            passages, question = self._from_template(draw)
        decoder = self.collection.decoder
        end = torch.tensor([decoder.tokenizer.eos_token_id])
        return Lesson(
            self.student.prompt(question.text, self.collection.memories(self.student, passages), self.adapter),
            torch.cat([decoder.tokens(question.answer), end]),
            self.teacher.prompt(question.text, self.collection.memories(self.teacher, passages)),
        )

    def batch(self, numbers: Sequence[int]) -> list[Lesson]:
        """The lessons with these numbers."""
        return [self.lesson(number) for number in numbers]

    def _from_template(self, draw: random.Random) -> tuple[list[Passage], Question]:
        for _ in range(100):
            document = draw.choice(self.passages)
            count = min(draw.randint(1, self.most_passages), len(document))
            first = draw.randrange(len(document) - count + 1)
            passages = document[first : first + count]
            question = from_template(draw.choice(passages).text, draw)
            if question is not None:
                return passages, question
        raise UsageError(
            expected="prose that questions can be made from",
            got="100 passages without a sentence of 28 words, a name or a number",
            consequence="Nothing was studied.",
            remedy="Give labelled questions with --questions FILE.",
        )


def study(collection: Collection, questions: Sequence[Question] = (), config: StudyConfig | None = None) -> Studied:
    """Teach the collection's adapter, or go on where an interrupted call stopped.

    Raises:
        UsageError: the collection is empty, or the method has no adapter stage.
        Interrupted: by the user; the checkpoint is kept.
    """
    config = config or StudyConfig()
    student, teacher = collection.handle(collection.settings.method), collection.handle("text")
    decoder = collection.decoder
    documents = [entry.hash for entry in collection.documents()]
    version = sha256(str(asdict(config)), student.producer("passage").key, *documents, *map(str, questions))[:16]
    name = f"{collection.name}/{student.name}/{version}"
    lessons = Lessons(collection, student, teacher, questions, name, config.most_passages, config.training.seed)
    torch.manual_seed(config.training.seed)
    decoder.adapters.add(name, Lora(config.lora, decoder.projections))
    objective = student.objective("adapter", adapter=name, ce=config.ce, distil=config.distil)
    place = Path("adapters") / sha256(collection.name)[:16] / student.name / version
    folder = collection.library.path / place

    def batch(step: int) -> list[Lesson]:
        return lessons.batch(range(HELD_OUT + step * config.rows, HELD_OUT + (step + 1) * config.rows))

    held_out = lessons.batch(range(HELD_OUT))
    objective.eval()
    before = _loss(objective, held_out)
    objective.train()
    outcome = train(objective, batch, config.training, folder / "run", f"studying {collection.name}")
    if not outcome.finished:
        return Studied(before, before, published=False, outcome=outcome)
    objective.eval()
    after = _loss(objective, held_out)
    published = sum(after.values()) < sum(before.values())
    if published:
        objective.save(folder, {"before": before, "after": after, "documents": documents})
        record = {"version": version, "folder": str(place), "base": decoder.fingerprint, "documents": documents}
        _publish(collection, student.name, record)
    else:
        decoder.adapters.remove(name)
    shutil.rmtree(folder / "run")
    return Studied(before, after, published, outcome)


@torch.no_grad()
def _loss(objective: Objective, lessons: Sequence[Lesson]) -> dict[str, float]:
    """Mean of each term over single lessons, so that long and short answers count alike."""
    sums: dict[str, float] = {}
    for lesson in lessons:
        for name, value in objective([lesson]).items():
            sums[name] = sums.get(name, 0.0) + float(value) / len(lessons)
    return sums


def _publish(collection: Collection, method: str, record: dict[str, Any]) -> None:
    """Put an adapter in use, in one write."""
    kept = collection.store.settings(collection.name)
    collection.store.configure(collection.name, {**kept, "adapters": {**kept["adapters"], method: record}})
