"""Question sets as collections hold them: documents with passages, vectors, and questions whose answers they hold."""

from __future__ import annotations

import re
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
from preread.retrieval.paragraphs import paragraphs_of
from preread.store.store import Store

PASSAGE_TOKENS = 240


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
