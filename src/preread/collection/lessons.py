"""`study`: teach a collection's adapter to answer from its memories (LLoCO, arXiv 2404.07979, section 3.2).

Questions come from the user or from templates; what the adapter learns is the distribution of the same decoder reading
the text of the passages, so that no labels are needed.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from preread.collection.adapters import Record, fit_gate
from preread.collection.context import positions, whole_document
from preread.collection.memories import Memories
from preread.core.config import build
from preread.core.errors import PrereadError, UsageError
from preread.core.method import Handle, Objective
from preread.core.progress import progress
from preread.core.types import Lesson, Passage, sha256
from preread.data.questions import Question, from_template
from preread.nn.lora import Lora, LoraConfig, digest
from preread.training.loop import Outcome, TrainingConfig, train

if TYPE_CHECKING:
    from preread.library import Collection

ROOM_FOR_WORDS = 512
"""Positions of the window that are left for question, template and answer."""
DONE = "studied.json"
"""What a finished study gave: the same study would end the same way, so it is not done again."""
HELD_OUT = 8
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
        whole: share of lessons in which the student reads all of the document's memory, as `ask` does by default.
    """

    lora: LoraConfig = LoraConfig()
    training: TrainingConfig = TrainingConfig(steps=60, learning_rate=1e-3, save_every=20)
    ce: float = 0.5
    distil: float = 1.0
    rows: int = 2
    most_passages: int = 4
    whole: float = 0.25


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
        config: how it is studied.
    """

    def __init__(
        self,
        collection: Collection,
        student: Handle,
        teacher: Handle,
        questions: Sequence[Question],
        adapter: str,
        config: StudyConfig,
    ) -> None:
        self.collection, self.student, self.teacher = collection, student, teacher
        self.read = Memories(collection.store, student)
        self.adapter, self.config = adapter, config
        # Labelled questions are divided once: what is held out is never taught.
        held = min(HELD_OUT, len(questions) // 2)
        self.held, self.taught = list(questions[:held]), list(questions[held:])
        # What is there now is what is taught; a document that comes while the lessons go on is not.
        self.documents = {entry.source: entry.hash for entry in collection.documents()}
        self.passages: list[list[Passage]] = [
            [stored.passage for stored in collection.store.passages(collection.name, source)]
            for source in self.documents
        ]

    def lesson(self, number: int) -> Lesson:
        """One lesson: a question, the memories of some neighbouring passages, the text of the same for the teacher."""
        draw = random.Random(f"{self.config.training.seed}/{number}")  # noqa: S311 no secret depends on it
        labelled = self.held if number < HELD_OUT else self.taught
        if labelled:
            question = labelled[number % len(labelled)]
            document, passages = self._where(question)
        else:
            taken = self._held_templates if number >= HELD_OUT else frozenset()
            document, passages, question = self._from_template(draw, taken)
        read = whole_document(self.read, document) if draw.random() < self.config.whole else self.read.load(passages)
        if positions(read) > self.collection.decoder.window - ROOM_FOR_WORDS:
            read = self.read.load(passages)
        decoder = self.collection.decoder
        end = torch.tensor([decoder.tokenizer.eos_token_id])
        return Lesson(
            self.student.prompt(question.text, read, self.adapter),
            torch.cat([decoder.tokens(question.answer), end]),
            self.teacher.prompt(question.text, list(self.teacher.encode(passages))),
        )

    def questions(self) -> tuple[list[str], list[str]]:
        """Texts of the questions that are taught, and of those that are held out."""
        count = HELD_OUT + self.config.training.steps * self.config.rows
        if self.held:
            return [question.text for question in self.taught], [question.text for question in self.held]
        draws = [random.Random(f"{self.config.training.seed}/{number}") for number in range(HELD_OUT, count)]  # noqa: S311
        taken = self._held_templates
        return [self._from_template(draw, taken)[2].text for draw in draws], [question.text for question in taken]

    def batch(self, numbers: Sequence[int]) -> list[Lesson]:
        """The lessons with these numbers."""
        return [self.lesson(number) for number in numbers]

    @cached_property
    def _held_templates(self) -> frozenset[Question]:
        """The held-out questions made by templates; lessons that are taught leave them out."""
        if self.held:
            return frozenset()
        draws = [random.Random(f"{self.config.training.seed}/{number}") for number in range(HELD_OUT)]  # noqa: S311
        return frozenset(self._from_template(draw, frozenset())[2] for draw in draws)

    def _where(self, question: Question) -> tuple[list[Passage], list[Passage]]:
        """The document that a labelled question is about, and its and other documents' best passages for it."""
        retriever, most = self.collection.library.retriever, self.config.most_passages
        hits = retriever.search(self.collection.name, question.text, 5 * most)
        known = {own[0].document: own for own in self.passages}
        passages = [hit.passage for hit in hits if hit.passage.document in known][:most] or self.passages[0][:most]
        return known[passages[0].document], passages

    def _from_template(
        self, draw: random.Random, taken: frozenset[Question]
    ) -> tuple[list[Passage], list[Passage], Question]:
        for _ in range(100):
            document = draw.choice(self.passages)
            count = min(draw.randint(1, self.config.most_passages), len(document))
            first = draw.randrange(len(document) - count + 1)
            passages = document[first : first + count]
            question = from_template(draw.choice(passages).text, draw)
            if question is not None and question not in taken:
                return document, passages, question
        raise UsageError(
            expected="prose that questions can be made from",
            got="100 draws without a new one: no sentence of 28 words, no name, no number",
            consequence="Nothing was studied.",
            remedy="Give labelled questions with --questions FILE.",
        )


def study(collection: Collection, questions: Sequence[Question] = (), config: StudyConfig | None = None) -> Studied:
    """Teach the collection's adapter, or go on where an interrupted call stopped.

    Raises:
        UsageError: the collection is empty, or the method has no adapter stage.
        KeyboardInterrupt: by the user, behind the step at hand; its checkpoint is kept.
    """
    config = config or StudyConfig()
    collection.require_documents()
    student, teacher = collection.handle(collection.settings.method), collection.handle("text")
    decoder, embedder = collection.decoder, collection.library.retriever.embedder
    adapters, producer = collection.adapters, student.producer("passage").key
    documents = {entry.source: entry.hash for entry in collection.documents()}
    decisive = replace(config, training=replace(config.training, minutes=None, save_every=1))
    version = sha256(str(decisive), producer, str(sorted(documents.items())), *map(str, questions))[:16]
    name, folder = adapters.name(student.name, version), adapters.folder(student.name, version)
    if (done := _done(folder)) and (not done.published or adapters.intact(student.name, version, decoder, embedder)):
        return done
    lessons = Lessons(collection, student, teacher, questions, name, config)
    torch.manual_seed(config.training.seed)
    decoder.adapters.add(name, Lora(config.lora, decoder.projections))
    objective = student.objective("adapter", adapter=name, ce=config.ce, distil=config.distil)

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
    objective.save(folder, {"before": before, "after": after, "documents": documents})
    gate = fit_gate(folder, embedder, *lessons.questions())
    record = Record(version, producer, documents, digest(decoder.adapters[name]), gate)
    studied = _conclude(collection, student.name, record, Studied(before, after, published=False, outcome=outcome))
    if not studied.published:
        decoder.adapters.remove(name)
    return studied


def _conclude(collection: Collection, method: str, record: Record, studied: Studied) -> Studied:
    """Put the adapter in use if it helps, or remove its weights; and write down what the study gave."""
    folder = collection.adapters.folder(method, record.version)
    helps = sum(studied.after.values()) < sum(studied.before.values())
    with collection.store.writing():  # so that no `forget` comes between the adapter's use and its record
        studied = replace(studied, published=helps and collection.adapters.publish(method, record))
        shutil.rmtree(folder / "run", ignore_errors=True)  # a `forget` meanwhile has taken it
        if not studied.published:
            shutil.rmtree(folder, ignore_errors=True)
        if studied.published or not helps:  # not where documents changed meanwhile: that study may be repeated
            folder.mkdir(parents=True, exist_ok=True)
            half = folder / f"{DONE}.part"
            half.write_text(json.dumps(asdict(studied)), encoding="utf-8")
            half.replace(folder / DONE)
    return studied


def _done(folder: Path) -> Studied | None:
    """What a finished study of this version gave; None where there was none, or its record is damaged."""
    try:
        return build(Studied, json.loads((folder / DONE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, PrereadError):
        return None


@torch.no_grad()
def _loss(objective: Objective, lessons: Sequence[Lesson]) -> dict[str, float]:
    """Mean of each term over single lessons, so that long and short answers count alike."""
    sums: dict[str, float] = {}
    with progress("judging the adapter", len(lessons)) as advance:
        for lesson in lessons:
            for name, value in objective([lesson]).items():
                sums[name] = sums.get(name, 0.0) + float(value) / len(lessons)
            advance()
    return sums
