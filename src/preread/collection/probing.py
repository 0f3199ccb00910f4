"""What a quiz asks: the questions of each passage, put to its text, to its memory and to nothing.

What is judged is how likely the decoder finds the right answer, so that nothing hangs on how it words one. Text and
memory are of the same passages, one between its neighbours: what a search misses is no fault of the memory.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

from preread.collection.context import positions, whole_document
from preread.collection.kept import Asked, kind_of
from preread.collection.memories import Memories
from preread.core.errors import UsageError
from preread.core.memory import Memory
from preread.core.types import Passage, sha256
from preread.data.questions import Question, from_template
from preread.nn.judging import answer_nats
from preread.store.rows import Entry

if TYPE_CHECKING:
    from preread.library import Collection

VERSION = "quiz-1"
"""Changes with anything that changes a number; what was asked before is then asked again."""
ROOM_FOR_WORDS = 512
"""Positions of the window that are left for question, template and answer."""
FOUND = 20
"""Passages among which the one that a labelled question is about is looked for."""
TRIES = 4
"""Draws for each question that is wanted of a passage; one without names or prose gives fewer questions."""


@dataclass(frozen=True, slots=True)
class Probe:
    """A passage, where it is, and what is asked about it.

    Args:
        entry: its document.
        own: all passages of that.
        passage: the one.
        place: page or section that it begins on; its characters where the document has none.
        questions: those asked.
    """

    entry: Entry
    own: Sequence[Passage]
    passage: Passage
    place: str
    questions: tuple[Question, ...] = ()

    @property
    def page(self) -> tuple[str, str]:
        """Equal for passages of the same page, or section, of the same document."""
        return self.entry.source, self.place


def probes(
    collection: Collection,
    entries: Sequence[Entry],
    labelled: Mapping[tuple[str, int], Sequence[Question]],
    per_page: int,
    seed: int,
) -> list[Probe]:
    """Every passage of some documents, in order, with the questions that templates draw from it and the labelled ones.

    Args:
        collection: whose documents they are.
        entries: the documents.
        labelled: as `placed` gives them.
        per_page: questions that are drawn from a page; every passage of it has one at least.
        seed: of the draws.
    """
    found = []
    for _, page in groupby(_passages(collection, entries), lambda probe: probe.page):
        group = list(page)
        count = math.ceil(per_page / len(group))
        for probe in group:
            at = probe.passage.index
            draw = random.Random(f"{seed}/{probe.entry.hash}/{at}")  # noqa: S311  # no secret depends on it
            drawn = _drawn(probe.passage.text, draw, count)
            found.append(replace(probe, questions=(*drawn, *labelled.get((probe.entry.source, at), ()))))
    return found


def _passages(collection: Collection, entries: Sequence[Entry]) -> Iterator[Probe]:
    for entry in entries:
        document = collection.store.document(collection.name, entry.source)
        own = [stored.passage for stored in collection.store.passages(collection.name, entry.source)]
        for passage in own:
            place = document.place(passage.start) or f"characters {passage.start:,}-{passage.end:,}"
            yield Probe(entry, own, passage, place)


def _drawn(text: str, draw: random.Random, count: int) -> list[Question]:
    made = (from_template(text, draw) for _ in range(TRIES * count))
    return list(dict.fromkeys(question for question in made if question is not None))[:count]


def placed(
    collection: Collection, entries: Sequence[Entry], labelled: Sequence[Question]
) -> dict[tuple[str, int], list[Question]]:
    """Labelled questions by source and number of the passage that a search for question and answer finds.

    One for which it finds none in these documents is left out.
    """
    sources = {entry.source for entry in entries}
    found: dict[tuple[str, int], list[Question]] = {}
    for question in labelled:
        hits = collection.library.retriever.search(collection.name, f"{question.text} {question.answer}", FOUND)
        if best := next((hit for hit in hits if hit.source in sources), None):
            found.setdefault((best.source, best.passage.index), []).append(question)
    return found


class Prober:
    """Puts the questions of a passage to text, memory and nothing.

    Raises:
        UsageError: the collection's method keeps no memories, or an adapter is asked for and none is there.
    """

    def __init__(self, collection: Collection, adapter: bool) -> None:
        self.collection, self.decoder = collection, collection.decoder
        self.student, self.reader = collection.handle(collection.settings.method), collection.handle("text")
        self.memories = Memories(collection.store, self.student)
        self.adapter = collection.adapters.attach(self.student, self.decoder) if adapter else None
        if not self.student.scopes:
            raise _missing(collection, "memories", "Choose a collection of another method than text.")
        if adapter and self.adapter is None:
            raise _missing(collection, "an adapter that reads its memories", "Study first, or leave --adapter out.")
        self._whole: dict[str, list[Memory]] = {}

    def asked(self, probe: Probe) -> tuple[Asked, ...]:
        """The likelihoods of all answers, from an earlier quiz where it read the same."""
        if not probe.questions:
            return ()
        around = self._around(probe)
        whole = self._reads_whole(probe)
        read = self.memories.keys(around, "passage") + (self.memories.keys(probe.own, "document") if whole else [])
        texts = [sha256(question.text, question.answer) for question in probe.questions]
        key = sha256(VERSION, self.adapter or "", str(len(read)), *read, *texts)
        if self.collection.store.missing([key]):
            nats = self._nats(probe, around, whole)
            self.collection.store.put({key: json.dumps(nats).encode()})
        nats = json.loads(self.collection.store.payloads([key])[key])
        return tuple(
            Asked(question.text, question.answer, kind_of(question.answer), int(tokens), nothing, text, memory)
            for question, (tokens, nothing, text, memory) in zip(probe.questions, nats, strict=True)
        )

    def _nats(self, probe: Probe, around: Sequence[Passage], whole: bool) -> list[tuple[float, ...]]:
        """For each question the tokens of its answer, and its nats behind nothing, text and memory."""
        answers = [self.decoder.tokens(question.answer) for question in probe.questions]
        text = list(self.reader.encode(around))
        memory = self._document(probe) if whole else self.memories.load(around)
        readings = [
            [self.reader.prompt(question.text, []) for question in probe.questions],
            [self.reader.prompt(question.text, text) for question in probe.questions],
            [self.student.prompt(question.text, memory, self.adapter) for question in probe.questions],
        ]
        nats = [answer_nats(self.decoder, prompts, answers) for prompts in readings]
        return list(zip(map(len, answers), *nats, strict=True))

    def _around(self, probe: Probe) -> Sequence[Passage]:
        """The passage between its neighbours, or alone where the window holds no more."""
        at = probe.passage.index
        near = probe.own[max(0, at - 1) : at + 2]
        fits = sum(len(passage.ids) for passage in near) + ROOM_FOR_WORDS <= self.decoder.window
        return near if fits else [probe.passage]

    def _reads_whole(self, probe: Probe) -> bool:
        """Whether the document has an undivided memory that fits the window: it is what questions are put to."""
        if "document" not in self.student.scopes:
            return False
        return positions(self._document(probe)) + ROOM_FOR_WORDS <= self.decoder.window

    def _document(self, probe: Probe) -> list[Memory]:
        if probe.entry.source not in self._whole:
            self._whole = {probe.entry.source: whole_document(self.memories, probe.own)}
        return self._whole[probe.entry.source]


def _missing(collection: Collection, expected: str, remedy: str) -> UsageError:
    return UsageError(f"{expected} in {collection.name}", "none", "Nothing was asked.", remedy)
