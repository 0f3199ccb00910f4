"""`study`: teach a collection's adapter to answer from its memories, and use it only where it does not lose."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from filelock import FileLock, Timeout

from preread.collection.adapters import CollectionAdapters, Record, fit_gate
from preread.collection.lessons import Lessons, StudyConfig
from preread.core.config import build
from preread.core.errors import IntegrityError, LibraryBusy, PrereadError
from preread.core.method import Handle
from preread.core.progress import progress
from preread.core.types import sha256
from preread.data.questions import Question
from preread.engines.base import Engine
from preread.nn.hf import Decoder
from preread.nn.lora import Lora, digest
from preread.training import selfstudy
from preread.training.judging import Verdict, judge
from preread.training.loop import Outcome, train

if TYPE_CHECKING:
    from preread.library import Collection

DONE = "studied.json"
"""What a finished study gave: the same study would end the same way, so it is not done again."""
RUN, WRITTEN = "run", "questions.jsonl"
"""Folder of a study that is not finished, and what the model wrote in it."""


@dataclass(frozen=True, slots=True)
class Studied:
    """What studying gave.

    Args:
        verdict: what was found on held-out questions; None where the study is not finished.
        published: whether the adapter is in use now.
        outcome: what the loop did.
        questions: how many were taught, by kind.
        dropped: how many the model wrote beside them, by what was wrong.
        replayed: documents that the adapter knew already, where it is the one in use taught further.
    """

    verdict: Verdict | None
    published: bool
    outcome: Outcome
    questions: dict[str, int]
    dropped: dict[str, int]
    replayed: int = 0

    @property
    def lost(self) -> bool:
        """Whether the adapter is not used because it did not help."""
        return self.verdict is not None and not self.verdict.helps


def study(collection: Collection, questions: Sequence[Question] = (), config: StudyConfig | None = None) -> Studied:
    """Teach the collection's adapter, or go on where an interrupted call stopped.

    Where documents came or changed since the adapter in use was taught, it is taught further.

    Raises:
        UsageError: the collection is empty, or the method has no adapter stage, or there is nothing to ask about.
        LibraryBusy: the collection is being studied already.
        KeyboardInterrupt: by the user; what was written and learned up to the step at hand is kept.
    """
    start = time.monotonic()
    collection.require_documents()
    student = collection.handle(collection.settings.method)
    with _alone(collection, student):
        return _studied(collection, student, questions, config or StudyConfig(), start)


@contextmanager
def _alone(collection: Collection, student: Handle) -> Iterator[None]:
    """Keep a second study away: it would write into the same run, or replace what it was not held against."""
    path = collection.adapters.folder(student.name, "").with_suffix(".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise LibraryBusy(
            expected=f"to be the only one who studies {collection.name}",
            got="another study of it, which still runs",
            consequence="Nothing was studied.",
            remedy="Wait for it to end and repeat the command; asking works meanwhile.",
        ) from None
    try:
        yield
    finally:
        lock.release()


def _studied(
    collection: Collection, student: Handle, questions: Sequence[Question], config: StudyConfig, start: float
) -> Studied:
    """As `study`, which nobody else does meanwhile."""
    teacher = collection.handle("text")
    decoder, adapters = collection.decoder, collection.adapters
    documents = {entry.source: entry.hash for entry in collection.documents()}
    decisive = replace(config, training=replace(config.training, minutes=None, save_every=1))
    producer = student.producer("passage").key
    task = sha256(str(decisive), producer, str(sorted(documents.items())), *map(str, questions))[:16]
    before = adapters.record(student.name)
    if done := _done(collection, student, task, before):
        return done
    known = _known(before, producer, documents)
    version = task if before is None or known is None else f"{task}-{before.version[:8]}"
    name, folder = adapters.name(student.name, version), adapters.folder(student.name, version)
    if (lost := _read(folder)) and not lost.published:
        return lost
    in_use = _in_use(adapters, student, decoder)
    lessons = Lessons(collection, student, teacher, questions, name, config, known or ())
    decoder.adapters.add(name, _beginning(config, decoder, None if known is None else in_use))
    studied = None
    try:
        studied = _study(collection, lessons, folder, start, in_use if in_use != name else None)
    finally:
        if studied is None or not studied.published:
            decoder.adapters.remove(name)
    return studied


def _study(collection: Collection, lessons: Lessons, folder: Path, start: float, in_use: str | None) -> Studied:
    """Write, teach, judge, publish."""
    config, decoder = lessons.config, collection.decoder
    until = None if config.training.minutes is None else start + 60 * config.training.minutes
    unfinished = Studied(None, False, Outcome(0, False, {}, 0.0), {}, {}, len(lessons.known))
    if not _write(lessons, collection.engine, folder / RUN / WRITTEN, until):
        return replace(unfinished, outcome=Outcome(0, False, {}, time.monotonic() - start))
    objective = lessons.student.objective(
        "adapter", adapter=lessons.adapter, ce=config.ce, distil=config.distil, together=True
    )
    objective.train()
    left = None if until is None else max(0.0, until - time.monotonic()) / 60
    training = replace(config.training, steps=lessons.steps, minutes=left)
    outcome = train(objective, lessons.batch, training, folder / RUN, f"studying {collection.name}")
    if not outcome.finished:
        return replace(unfinished, outcome=outcome)
    objective.eval()
    held_out = lessons.held_out()
    verdict = judge(
        decoder,
        [lessons.lesson(*one) for one in held_out],
        [question.kind for question, _ in held_out],
        [f"{piece.start}" for _, piece in held_out],
        lessons.adapter,
        in_use,
    )
    dropped = sum((Counter(one.dropped) for one in lessons.written), Counter())
    kinds = Counter(question.kind for question in lessons.taught())
    studied = Studied(verdict, False, outcome, dict(kinds), dict(dropped), len(lessons.known))
    gate = ""
    if not studied.lost:
        objective.save(folder, {**asdict(studied), "documents": lessons.documents})
        gate = fit_gate(folder, collection.library.retriever.embedder, *lessons.questions())
    producer = lessons.student.producer("passage").key
    record = Record(folder.name, producer, lessons.documents, digest(decoder.adapters[lessons.adapter]), gate)
    return _conclude(collection, lessons.student.name, record, studied)


def _write(lessons: Lessons, engine: Engine, path: Path, until: float | None) -> bool:
    """Have the model write its questions, or go on where it was stopped; whether all are there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for written in selfstudy.load(path):
        lessons.take(written)
    wanted, there = lessons.to_write, len(lessons.written)
    if there >= wanted:
        return True
    with progress("writing questions, pieces", wanted, there) as advance:
        while len(lessons.written) < wanted:
            if until is not None and time.monotonic() > until:
                return False
            written = lessons.write(engine)
            selfstudy.keep(path, written)
            lessons.take(written)
            advance()
    return True


def _conclude(collection: Collection, method: str, record: Record, studied: Studied) -> Studied:
    """Put the adapter in use if it helps, or remove its weights; and write down what the study gave."""
    folder = collection.adapters.folder(method, record.version)
    with collection.store.writing():  # so that no `forget` comes between the adapter's use and its record
        if not studied.lost:
            studied = replace(studied, published=True)
            _note(folder, studied)  # first: killed in between, what is in use is not taught once more
            studied = replace(studied, published=collection.adapters.publish(method, record))
        # A `forget` meanwhile has taken it. Where documents changed, nothing is noted: that study may be repeated.
        shutil.rmtree(folder / RUN if studied.published else folder, ignore_errors=True)
        if studied.lost:
            _note(folder, studied)
    return studied


def _note(folder: Path, studied: Studied) -> None:
    """Write down what a study gave, in one write."""
    folder.mkdir(parents=True, exist_ok=True)
    half = folder / f"{DONE}.part"
    half.write_text(json.dumps(asdict(studied)), encoding="utf-8")
    half.replace(folder / DONE)


def _done(collection: Collection, student: Handle, task: str, record: Record | None) -> Studied | None:
    """What this very study gave, if the adapter in use came of it and is whole."""
    if record is None or record.version.partition("-")[0] != task:
        return None
    embedder = collection.library.retriever.embedder
    if not collection.adapters.intact(student.name, record.version, collection.decoder, embedder):
        return None
    folder = collection.adapters.folder(student.name, record.version)
    shutil.rmtree(folder / RUN, ignore_errors=True)  # left where the study was killed when it was all but over
    return _read(folder)


def _read(folder: Path) -> Studied | None:
    """What a finished study gave; None where there was none, or its record is damaged."""
    try:
        return build(Studied, json.loads((folder / DONE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, PrereadError):
        return None


def _known(record: Record | None, producer: str, documents: dict[str, str]) -> frozenset[str] | None:
    """Hashes of the documents that the adapter in use knows; None where it is not to be taught further.

    It is where it reads these memories and some document is new to it.
    """
    if record is None or record.producer != producer or documents.items() <= record.documents.items():
        return None
    return frozenset(set(documents.values()) & set(record.documents.values()))


def _in_use(adapters: CollectionAdapters, student: Handle, decoder: Decoder) -> str | None:
    """Name of the adapter in use; None where there is none, or it is damaged and so to be replaced."""
    try:
        return adapters.attach(student, decoder)
    except IntegrityError:
        return None


def _beginning(config: StudyConfig, decoder: Decoder, in_use: str | None) -> Lora:
    """A new adapter, or a copy of the one in use where that has the same shape."""
    torch.manual_seed(config.training.seed)
    lora = Lora(config.lora, decoder.projections)
    if in_use is not None and decoder.adapters[in_use].config == config.lora:
        lora.load_state_dict(decoder.adapters[in_use].state_dict())
    return lora
