"""What a collection's adapter is taught (LLoCO, arXiv 2404.07979, section 3.2), by number, and what it is judged by.

Questions are labelled, written by the decoder itself, made by templates, or about the world. What the adapter learns is
the distribution of the same decoder reading the text of the passages, so that no labels are needed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch

from preread.collection.context import positions, whole_document
from preread.collection.memories import Memories
from preread.collection.pieces import Asked, Piece, Pieces, lot, no_prose, withholds
from preread.core.errors import UsageError
from preread.core.memory import Memory
from preread.core.method import Handle
from preread.core.types import Lesson
from preread.data.questions import GENERAL, LABELLED, Question, general
from preread.engines.base import Engine
from preread.nn.lora import LoraConfig
from preread.training import selfstudy
from preread.training.loop import TrainingConfig
from preread.training.selfstudy import Written

if TYPE_CHECKING:
    from preread.library import Collection

ROOM_FOR_WORDS = 512
"""Positions of the window that are left for question, template and answer."""
HELD_OUT = 32
"""Most questions that the adapter is judged by."""
LABELS_WITHHELD = 0.25
"""Share of the labelled questions that are never taught, while they are not more than that."""
SIZED = 8
"""Micro-steps whose size stands for all."""


@dataclass(frozen=True)
class StudyConfig:
    """How a collection is studied.

    Args:
        lora: shape of the adapter.
        training: the loop's settings; paper: 3 epochs, lr 2e-5, batch 8, cosine, warm-up 0.04. Its `minutes` are those
            of one call, the writing of questions included.
        tokens: about how many positions student and teacher read in all lessons; decides the steps where it is given.
        ce: weight of the answers themselves.
        distil: weight of the teacher's distribution.
        rows: lessons a micro-step, all about the same passages, whose text the teacher reads once.
        most_passages: memories side by side in a lesson are drawn from 1 to this many.
        whole: share of lessons in which the student reads all of the document's memory, as `ask` does by default.
        labelled: share of the lessons by labelled questions, where there are any.
        written: share of the others by questions that the model writes; a small model writes few that hold.
        temperature: of those questions.
        general: share of all lessons about the world, whose teacher reads no document.
        replay: share of the lessons about documents that the adapter in use knows, where others are new.
    """

    lora: LoraConfig = LoraConfig()
    training: TrainingConfig = TrainingConfig(steps=60, learning_rate=1e-3, save_every=20)
    tokens: int | None = None
    ce: float = 0.5
    distil: float = 1.0
    rows: int = 4
    most_passages: int = 4
    whole: float = 0.25
    labelled: float = 0.5
    written: float = 0.1
    temperature: float = 0.7
    general: float = 0.05
    replay: float = 0.5

    def __post_init__(self) -> None:
        shares = {name: getattr(self, name) for name in ("whole", "labelled", "written", "general", "replay")}
        wrong = {name: share for name, share in shares.items() if not 0 <= share <= 1}
        counts = {"rows": self.rows, "most_passages": self.most_passages, "tokens": self.tokens}
        wrong |= {name: count for name, count in counts.items() if count is not None and count < 1}
        amounts = {"temperature": self.temperature, "training.minutes": self.training.minutes or 0.0}
        wrong |= {name: amount for name, amount in amounts.items() if not amount >= 0}
        if wrong:
            raise UsageError(
                expected="shares of 0 to 1, counts of 1 or more, no temperature or minutes below 0",
                got=", ".join(f"{name}={value:g}" for name, value in wrong.items()),
                consequence="Nothing was studied.",
                remedy="Correct it: --tokens, --minutes, or --set.",
            )


class Lessons:
    """Lessons of a collection by number of the micro-step; the same number gives the same lessons.

    Args:
        collection: whose passages are asked about.
        student: the method that reads memories.
        teacher: the method that reads text.
        questions: labelled questions.
        adapter: name of the adapter that is taught.
        config: how it is studied.
        known: hashes of the documents that the adapter knew when it began.

    Attributes:
        documents: hash of each document that is taught, by source. One that comes meanwhile is not.
        known: as it was given.
        steps: optimizer steps, the recipe's or as many as its tokens allow.
        written: what the model wrote so far; `take` adds to it.

    Raises:
        UsageError: no question can be made from the documents, so that nothing could judge the adapter.
    """

    def __init__(
        self,
        collection: Collection,
        student: Handle,
        teacher: Handle,
        questions: Sequence[Question],
        adapter: str,
        config: StudyConfig,
        known: Iterable[str] = (),
    ) -> None:
        self.collection, self.student, self.teacher = collection, student, teacher
        self.read = Memories(collection.store, student)
        self.adapter, self.config, self.seed = adapter, config, config.training.seed
        self.known = frozenset(known)
        self.documents = {entry.source: entry.hash for entry in collection.documents()}
        self.pieces = Pieces(
            {
                document: [stored.passage for stored in collection.store.passages(collection.name, source)]
                for source, document in self.documents.items()
            },
            self.known,
            self.seed,
            config.most_passages,
            config.whole,
            config.replay,
        )
        held, self._labels = _apart(questions)
        self._held_labels = held[: HELD_OUT if config.labelled >= 1 else HELD_OUT // 2]
        self.written: list[Written] = []
        self._general: list[Question] = []
        self._asked: list[list[tuple[Piece, list[Question]]]] = [[] for _ in self.pieces.sides]
        self._held_written: list[Asked] = []
        self._last: tuple[Piece, list[Memory]] | None = None
        self._held_templates = list(islice(self.pieces.to_judge(), HELD_OUT - len(self._held_labels)))
        if not self._held_labels and not self._held_templates:
            raise no_prose()
        made = config.labelled if self._held_templates else 1.0  # where no template finds anything, labels are all
        self._labelled = made if self._labels else 0.0
        self.steps = config.training.steps if config.tokens is None else self._affordable(config.tokens)

    @property
    def to_write(self) -> int:
        """How many calls of `write` the lessons want, so that each question would be taught once, were none dropped."""
        wanted = self.config.written * (1 - self._labelled) * self._micro_steps * self.config.rows
        return 1 + math.ceil(wanted / len(selfstudy.KINDS))

    def write(self, engine: Engine) -> Written:
        """What the model writes next: answers to questions about the world, then questions about a piece at a time."""
        if not self.written:
            return selfstudy.answer_general(engine, self.teacher, general() if self.config.general else [])
        number, (_, piece) = len(self.written), self._next_piece
        taken = {question.text.casefold() for one in self.written for question in one.questions}
        return selfstudy.write(
            engine, self.teacher, piece.passages, f"{self.seed}/{number}", self.config.temperature, taken
        )

    def take(self, written: Written) -> None:
        """Teach and hold out what `write` gave, in the order in which it was written."""
        if not self.written:
            self._general = list(written.questions)
        else:
            side, piece = self._next_piece
            held = [question for question in written.questions if withholds(piece.start, question.kind)]
            self._held_written += [(question, piece) for question in held]
            if taught := [question for question in written.questions if question not in held]:
                self._asked[side].append((piece, taught))
        self.written.append(written)

    def batch(self, number: int) -> list[Lesson]:
        """The lessons of a micro-step."""
        return [self.lesson(question, piece) for question, piece in self._exercises(number)]

    def lesson(self, question: Question, piece: Piece | None) -> Lesson:
        """A question to the memory of a piece, and to its text for the teacher; None finds the piece by a search."""
        piece = piece or self._where(question)
        decoder, text = self.collection.decoder, [] if question.kind == GENERAL else piece.passages
        end = torch.tensor([decoder.tokenizer.eos_token_id])
        return Lesson(
            self.student.prompt(question.text, self._memories(piece), self.adapter),
            torch.cat([decoder.tokens(question.answer), end]),
            self.teacher.prompt(question.text, list(self.teacher.encode(text))),
        )

    def held_out(self) -> list[Asked]:
        """What the adapter is judged by: never taught, nor any question of the same kind about the same passage."""
        labelled = [(question, self._where(question)) for question in self._held_labels]
        own = [*labelled, *self._held_written]
        alone = self._labelled >= 1 and bool(labelled)
        return [*own, *([] if alone else self._held_templates)][:HELD_OUT]

    def taught(self) -> list[Question]:
        """Every question that is taught, once."""
        exercises = (one for number in range(self._micro_steps) for one in self._exercises(number))
        return list(dict.fromkeys(question for question, _ in exercises))

    def questions(self) -> tuple[list[str], list[str]]:
        """Texts of the questions about the documents that are taught, and of those that are held out."""
        taught = [question.text for question in self.taught() if question.kind != GENERAL]
        return taught, [question.text for question, _ in self.held_out()]

    @property
    def _next_piece(self) -> tuple[int, Piece]:
        """What the model writes about next, and its side; after the last piece the first again."""
        return self.pieces.order[(len(self.written) - 1) % len(self.pieces.order)]

    @property
    def _micro_steps(self) -> int:
        return self.steps * self.config.training.accumulation

    def _exercises(self, number: int) -> list[tuple[Question, Piece | None]]:
        """The questions of a micro-step, each with what it is about, if that needs no search."""
        draw, config = random.Random(f"{self.seed}/{number}"), self.config  # noqa: S311
        about_world, labelled, written = (draw.random() < s for s in (config.general, self._labelled, config.written))
        if about_world and self._general:
            piece = self.pieces.any(draw)
            return [(question, piece) for question in _some(draw, self._general, config.rows)]
        if labelled:
            return [(self._label(place), None) for place in range(number * config.rows, (number + 1) * config.rows)]
        if written and (asked := self._asked[self.pieces.side(draw)]):
            piece, questions = draw.choice(asked)
            return [(question, piece) for question in _some(draw, questions, config.rows)]
        return list(self._by_template(draw))

    def _label(self, place: int) -> Question:
        """The labelled question at a place, were all lessons by labels: each once a pass, and every pass shuffled."""
        a_pass, at = divmod(place, len(self._labels))
        return random.Random(f"{self.seed}/labels/{a_pass}").sample(self._labels, len(self._labels))[at]  # noqa: S311

    def _affordable(self, tokens: int) -> int:
        """Optimizer steps that read so many tokens, at the size of the first lessons, without what is yet to write."""
        read = [
            len(one.prompt) + len(one.teacher or ()) + 2 * len(one.answer)
            for number in range(SIZED)
            for one in self.batch(number)
        ]
        return max(1, round(tokens * SIZED / sum(read) / self.config.training.accumulation))

    def _by_template(self, draw: random.Random) -> list[Asked]:
        return self.pieces.by_template(draw, self.config.rows, {question.text for question, _ in self._held_templates})

    def _where(self, question: Question) -> Piece:
        """The document that a labelled question is most likely about, and its and others' best passages for it."""
        retriever, most = self.collection.library.retriever, self.config.most_passages
        documents = self.pieces.documents
        hits = retriever.search(self.collection.name, question.text, 5 * most)
        found = [hit.passage for hit in hits if hit.passage.document in documents][:most]
        found = found or list(next(iter(documents.values()))[:most])
        best, places = documents[found[0].document], {name: place for place, name in enumerate(documents)}
        found.sort(key=lambda passage: (places[passage.document], passage.index))  # as `ask` puts them
        draw = random.Random(f"{self.seed}/{question.text}")  # noqa: S311
        return Piece(best, found, draw.random() < self.config.whole)

    def _memories(self, piece: Piece) -> list[Memory]:
        """What the student reads; that of the last piece is at hand, as the lessons of a micro-step have one piece."""
        if self._last is None or self._last[0] is not piece:
            read = whole_document(self.read, piece.document) if piece.whole else []
            if not read or positions(read) > self.collection.decoder.window - ROOM_FOR_WORDS:
                read = self.read.load(piece.passages)
            self._last = piece, read
        return self._last[1]


def _apart(questions: Sequence[Question]) -> tuple[list[Question], list[Question]]:
    """Labelled questions to judge by, those first that judge longest, and to teach.

    The words of each decide, so that questions which are added to a file, or stand in another order, bring none to
    judge that was taught before, but where there was a single one.
    """
    by_words = {question.text: question for question in reversed(questions)}
    lots = {words: lot((words, LABELLED)) for words in by_words}
    ranked = sorted(lots, key=lots.__getitem__)
    least = min(1, len(ranked) // 2)
    held = [words for place, words in enumerate(ranked[:HELD_OUT]) if place < least or lots[words] < LABELS_WITHHELD]
    return [by_words[words] for words in held], [question for question in questions if question.text not in held]


def _some(draw: random.Random, questions: Sequence[Question], most: int) -> list[Question]:
    return draw.sample(questions, min(most, len(questions)))
