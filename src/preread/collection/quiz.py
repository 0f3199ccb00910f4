"""`quiz`: questions from every page show what memory kept of it; the passages that it lost most of stay text."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

from preread.collection.as_text import AsText, Place, place
from preread.collection.kept import Asked, Kept, kept, kept_by_kind, weakest
from preread.collection.probing import Probe, Prober, placed, probes
from preread.core.errors import Interrupted, UsageError
from preread.core.progress import progress
from preread.core.stopping import deferred_interrupt
from preread.data.questions import Question

if TYPE_CHECKING:
    from preread.library import Collection


@dataclass(frozen=True)
class QuizConfig:
    """How a collection is asked.

    Args:
        per_page: questions from each page or section; every passage of it has one at least.
        minutes: stop after this long; the passages are asked in a drawn order, so that a part of them is a sample.
        min_kept: the share that memory should keep.
        keep_text: the share of the tokens that may stay text, from 0 to 1.
        adapter: whether the memory is read with the collection's adapter.
        seed: of questions and order.
    """

    per_page: int = 4
    minutes: float | None = None
    min_kept: float = 0.8
    keep_text: float = 0.1
    adapter: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        shares = 0 <= self.keep_text <= 1 and 0 <= self.min_kept <= 1
        if self.per_page < 1 or not shares or (self.minutes or 0) < 0:
            raise UsageError(
                expected="a question a page or more, a bar of 0 to 1, 0 to 100 % of the tokens, no minutes below 0",
                got=f"{self.per_page}, {self.min_kept:g}, {100 * self.keep_text:g} %, {self.minutes or 0:g} minutes",
                consequence="Nothing was asked.",
                remedy="Correct --per-page, --min-kept, --keep-text or --minutes.",
            )


@dataclass(frozen=True, slots=True)
class Probed:
    """A passage that was asked about.

    Args:
        index: its number in the document.
        start: first character.
        end: one past the last.
        tokens: of its text.
        kept: what its memory keeps.
        as_text: whether it stays text from now on.
        asked: the questions, with their answers and likelihoods; none where nothing could be asked, or not yet.
    """

    index: int
    start: int
    end: int
    tokens: int
    kept: Kept
    as_text: bool
    asked: tuple[Asked, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """A page or section, or a passage of a document without them."""

    source: str
    title: str
    place: str
    kept: Kept
    passages: tuple[Probed, ...]


@dataclass(frozen=True, slots=True)
class Quiz:
    """What a quiz found.

    Args:
        collection: its name.
        method: whose memories were read.
        adapter: whether they were read with the collection's adapter.
        kept: what memory keeps of all that was asked.
        with_text: the same where the passages that stay text tell all that they tell.
        kinds: what it keeps of numbers, names and prose.
        pages: in the order of the documents.
        passages: how many the documents have.
        asked: of how many a question was asked.
        unmeasured: of how many of those the text did not help, so that nothing is known of their memory.
        left: how many are still to be asked, because the time was over.
        unplaced: labelled questions that were not asked, for a search finds none of these passages for them.
        as_text: how many stay text from now on.
        text_tokens: tokens of those, out of `tokens`.
        tokens: of the documents.
        min_kept: the bar.
        passed: whether `kept` is not below it; None where nothing was measured.
        seconds: how long it took.
    """

    collection: str
    method: str
    adapter: bool
    kept: Kept
    with_text: float | None
    kinds: dict[str, Kept]
    pages: tuple[Page, ...]
    passages: int
    asked: int
    unmeasured: int
    left: int
    unplaced: int
    as_text: int
    text_tokens: int
    tokens: int
    min_kept: float
    passed: bool | None
    seconds: float


def quiz(
    collection: Collection,
    document: str | None = None,
    questions: Sequence[Question] = (),
    config: QuizConfig | None = None,
) -> Quiz:
    """Ask, say what memory kept, and have the weakest passages stay text; what was asked before is not asked again.

    Args:
        collection: whose memories are tried.
        document: one of its documents; None is all of them.
        questions: labelled ones beside those from templates; each goes to the passage that a search finds for it.
        config: how; None is the default.

    Raises:
        UsageError: the collection is empty, or keeps no memories.
        Interrupted: Ctrl-C; the answers so far are kept, and the same call goes on from them.
    """
    config, start = config or QuizConfig(), time.monotonic()
    collection.require_documents()
    entries = collection.documents() if document is None else [collection.entry(document)]
    prober = Prober(collection, config.adapter)
    labelled = placed(collection, entries, questions)
    parts = probes(collection, entries, labelled, config.per_page, config.seed)
    asked = _ask_all(prober, parts, config, start)
    total = sum(entry.tokens for entry in entries)
    tokens = {number: len(part.passage.ids) for number, part in enumerate(parts)}
    marks = AsText(collection.store, collection.name)
    chosen = _marked(parts, marks.places()) - asked.keys()  # what is not asked yet stays as an earlier quiz left it
    room = config.keep_text * total - sum(tokens[number] for number in chosen)
    chosen |= weakest(asked, tokens, config.min_kept, room)
    marks.mark((entry, [parts[n].passage.index for n in chosen if parts[n].entry is entry]) for entry in entries)
    found = kept(asked.values())
    mended = kept(_as_text(own) if number in chosen else own for number, own in asked.items())
    return Quiz(
        collection=collection.name,
        method=collection.settings.method,
        adapter=config.adapter,
        kept=found,
        with_text=mended.value,
        kinds=kept_by_kind(list(asked.values())),
        pages=_pages(parts, asked, chosen),
        passages=sum(entry.passages for entry in entries),
        asked=sum(bool(own) for own in asked.values()),
        unmeasured=sum(bool(own) and kept([own]).value is None for own in asked.values()),
        left=len(parts) - len(asked),
        unplaced=len(questions) - sum(map(len, labelled.values())),
        as_text=len(chosen),
        text_tokens=sum(tokens[number] for number in chosen),
        tokens=total,
        min_kept=config.min_kept,
        passed=None if found.value is None else found.value >= config.min_kept,
        seconds=time.monotonic() - start,
    )


def _ask_all(prober: Prober, parts: Sequence[Probe], config: QuizConfig, start: float) -> dict[int, tuple[Asked, ...]]:
    """What was asked of the passages by their numbers, in a drawn order until the time is over."""
    order = list(range(len(parts)))
    random.Random(config.seed).shuffle(order)  # noqa: S311  # no secret depends on it
    asked: dict[int, tuple[Asked, ...]] = {}
    with deferred_interrupt() as pressed, progress("asking about passages", len(parts)) as advance:
        for number in order:
            if config.minutes is not None and time.monotonic() - start > 60 * config.minutes:
                break
            if pressed():
                raise _interrupted()
            asked[number] = prober.asked(parts[number])
            advance()
    return {number: asked[number] for number in sorted(asked)}


def _pages(parts: Sequence[Probe], asked: Mapping[int, tuple[Asked, ...]], chosen: frozenset[int]) -> tuple[Page, ...]:
    """The map."""
    found = []
    for _, group in groupby(range(len(parts)), lambda number: parts[number].page):
        numbers = list(group)
        probed = tuple(
            Probed(
                index=parts[number].passage.index,
                start=parts[number].passage.start,
                end=parts[number].passage.end,
                tokens=len(parts[number].passage.ids),
                kept=kept([asked.get(number, ())]),
                as_text=number in chosen,
                asked=asked.get(number, ()),
            )
            for number in numbers
        )
        first, share = parts[numbers[0]], kept(asked.get(number, ()) for number in numbers)
        found.append(Page(first.entry.source, first.entry.title, first.place, share, probed))
    return tuple(found)


def _marked(parts: Sequence[Probe], places: frozenset[Place]) -> frozenset[int]:
    """Numbers of the passages that stayed text so far."""
    return frozenset(number for number, part in enumerate(parts) if place(part.passage) in places)


def _as_text(asked: Sequence[Asked]) -> tuple[Asked, ...]:
    """The same questions where the passage is read as text."""
    return tuple(replace(one, memory=one.text) for one in asked)


def _interrupted() -> Interrupted:
    return Interrupted(
        expected="to ask about all passages",
        got="a request to stop",
        consequence="The answers so far are kept.",
        remedy="Repeat the command: it goes on from there.",
    )
