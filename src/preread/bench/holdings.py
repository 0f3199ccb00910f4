"""Question sets as collections hold them: documents with passages, vectors, and questions whose answers they hold."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from preread.core.errors import UsageError
from preread.core.progress import progress
from preread.core.types import Document, Passage
from preread.data.corpora import records
from preread.data.passages import split
from preread.models.loading import fetch
from preread.retrieval.embedder import Embedder
from preread.retrieval.relevance import stems
from preread.store.store import Store

PASSAGE_TOKENS = 240
_BROKEN = 1e6
"""What it costs to put a question to a paragraph without its answer: more than all words together can give."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A question that its document answers.

    Args:
        text: the question.
        gold: numbers of the passages that overlap the answer where it was asked; empty where that is not known.
    """

    text: str
    gold: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Held:
    """A document with its questions.

    Args:
        document: the document.
        passages: all of it, in order.
        vectors: [n, d] one a passage.
        asks: the questions that it answers.
    """

    document: Document
    passages: Sequence[Passage]
    vectors: np.ndarray
    asks: Sequence[Ask]


def default_tokenizer() -> PreTrainedTokenizerBase:
    """The default decoder's tokenizer, without its weights."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(fetch("default").folder)
    return tokenizer


def holdings(
    path: Path, tokenizer: PreTrainedTokenizerBase, embedder: Embedder, documents: int | None = None, gold: bool = False
) -> list[Held]:
    """The first documents of a question set (JSON lines), all of them by default.

    Args:
        path: the file.
        tokenizer: the decoder's.
        embedder: for the passages.
        documents: how many; all by default.
        gold: find for each question the passages of its answer. The set must ask paragraph by paragraph, as SQuAD does.

    Raises:
        UnreadableDocument: no such file, or it is not JSON lines.
        UsageError: fewer than two documents.
    """
    found = list(islice(records(path), documents))
    if len(found) < 2:
        raise UsageError(
            expected=f"two documents or more in {path}",
            got=str(len(found)),
            consequence="Nothing was measured.",
            remedy="Choose another set.",
        )
    texts = [Document(row["doc_id"], row.get("title") or row["doc_id"], row["text"]) for row in found]
    passages = [split(document, tokenizer, PASSAGE_TOKENS) for document in texts]
    flat = [passage.text for own in passages for passage in own]
    with progress(f"embedding {path.name}", len(flat)) as advance:
        vectors = embedder.embed(flat, advance=advance)
    ends = [0, *accumulate(map(len, passages))]
    return [
        Held(document, own, vectors[first:last], _asks(row, own, gold))
        for row, document, own, (first, last) in zip(found, texts, passages, pairwise(ends), strict=True)
    ]


def filled(folder: Path, embedder: Embedder, collections: Mapping[str, Sequence[Held]]) -> Store:
    """A store that holds them, without memories."""
    store = Store(folder)
    store.bind(embedder.fingerprint)
    for name, documents in collections.items():
        for held in documents:
            store.commit(name, held.document, held.passages, held.vectors, [{}] * len(held.passages), {})
    store.optimize()
    return store


def _asks(row: Mapping[str, Any], passages: Sequence[Passage], gold: bool) -> list[Ask]:
    if not gold:
        return [Ask(asked["question"]) for asked in row["questions"] if asked["answers"]]
    homes = paragraphs_of(row["text"], [(asked["question"], asked["answers"]) for asked in row["questions"]])
    return [
        Ask(asked["question"], _overlapping(row["text"], home, asked["answers"], passages))
        for asked, home in zip(row["questions"], homes, strict=True)
        if asked["answers"]
    ]


def _overlapping(
    text: str, home: tuple[int, int], answers: Sequence[str], passages: Sequence[Passage]
) -> frozenset[int]:
    """The passages that overlap an answer inside a paragraph."""
    start, end = home
    spans = [(m.start(), m.end()) for a in answers for m in re.compile(re.escape(a)).finditer(text, start, end)]
    return frozenset(p.index for p in passages if any(p.start < last and first < p.end for first, last in spans))


def paragraphs_of(text: str, asked: Sequence[tuple[str, Sequence[str]]]) -> list[tuple[int, int]]:
    """For each question its paragraph as [start, end) in the text, where the set does not say it.

    Questions stand in the order of their paragraphs. Of all assignments that keep this order the one is taken that
    puts the fewest questions to paragraphs without their answers and, of those, shares the most words, rare ones
    counting more.

    Args:
        text: paragraphs between empty lines.
        asked: each question with its answers, all of which its paragraph holds.
    """
    cuts = [0, *(match.end() for match in re.finditer(r"\n\n", text)), len(text)]
    spans = list(pairwise(cuts))
    words = [stems(text[start:end]) for start, end in spans]
    frequency = Counter(word for own in words for word in own)
    best = [0.0] * len(spans)
    before: list[list[int]] = []
    for question, answers in asked:
        came = _best_so_far(best)
        shared = [sum(math.log((len(spans) + 1) / frequency[word]) for word in stems(question) & own) for own in words]
        lacks = [any(answer not in text[start:end] for answer in answers) for start, end in spans]
        best = [best[c] + s - _BROKEN * lack for c, s, lack in zip(came, shared, lacks, strict=True)]
        before.append(came)
    here = max(range(len(spans)), key=best.__getitem__)
    homes = []
    for came in reversed(before):
        homes.append(spans[here])
        here = came[here]
    return homes[::-1]


def _best_so_far(scores: Sequence[float]) -> list[int]:
    """For each place the first of the best ones up to it."""
    best: list[int] = []
    for place, score in enumerate(scores):
        best.append(place if not best or score > scores[best[-1]] else best[-1])
    return best
