"""How often gates accept the questions that they should, and refuse others: question sets as collections."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from preread.bench.holdings import PASSAGE_TOKENS
from preread.core.intervals import Interval, interval
from preread.core.progress import progress
from preread.core.types import Document
from preread.data.corpora import records
from preread.data.passages import split
from preread.data.questions import from_template
from preread.retrieval.embedder import Embedder
from preread.retrieval.gate import Gate, subject

ARTICLES = "squad2_articles.train.jsonl.gz"
SETS = {
    "fairytaleqa.train.jsonl.gz": 20,
    "hotpotqa_distractor.train.jsonl.gz": 200,
    "narrativeqa_literary.train.jsonl.xz": 6,
    "nq_oracle.train.jsonl.gz": 300,
    "qmsum.train.jsonl.gz": 30,
    ARTICLES: 18,
    "squality.train.jsonl.gz": 30,
    "timeqa.train.jsonl.gz": 60,
}
"""Question sets that are a collection each, and how many documents of each are taken."""
QUESTIONS = 240
"""Most questions of a collection, and as many by templates: half are taught, a quarter held out, a quarter put."""
OTHERS = 60
"""Questions of every other collection that are put to a gate."""

HOW = ("labels", "templates")
"""What a gate is fitted by: questions of people, or those that templates make of the documents."""

Put = tuple[str, np.ndarray]
"""A question's document, and its vector."""
Questions = Mapping[str, Sequence[Put]]
"""A collection's questions in random order, by whose they are, as in `HOW`."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What the gate of a collection does, or what those of several do together.

    Args:
        collection: its name.
        studied_with: `labels`, a set's own questions, or `templates` over its documents.
        documents: how many there are.
        accepted: share of its own questions, asked by people and not studied with, that are accepted.
        own: how many were put.
        refused: share of the other collections' questions that are refused.
        others: how many were put.
    """

    collection: str
    studied_with: str
    documents: int
    accepted: Interval
    own: int
    refused: Interval
    others: int


@dataclass(frozen=True, slots=True)
class Judged:
    """A question that was put to a gate.

    Args:
        unit: what is drawn again for the interval: the question's document, or the collection of one document.
        own: whether it is of the gate's collection.
        accepted: whether it was.
    """

    unit: str
    own: bool
    accepted: bool


def gate_rates(data: Path, tokenizer: PreTrainedTokenizerBase, embedder: Embedder, seed: int = 0) -> list[Rates]:
    """Rates for each question set as a collection, and over articles that are a collection each; some two minutes.

    Args:
        data: folder with the files `SETS`.
        tokenizer: the decoder's, for passages.
        embedder: whose vectors are compared.
        seed: of what is drawn.

    Raises:
        UnreadableDocument: a file is missing.
    """
    draw = random.Random(seed)  # noqa: S311  # no secret
    sets = {name.partition(".")[0]: list(islice(records(data / name), count)) for name, count in SETS.items()}
    articles = {str(row["doc_id"]): [row] for row in sets[ARTICLES.partition(".")[0]]}
    wide, narrow = (_embedded(some, tokenizer, embedder, draw) for some in (sets, articles))
    rates = []
    for how in HOW:
        for name, rows in sets.items():
            rates.append(_rates(name, how, len(rows), judged(name, wide, how)))
        together = [replace(one, unit=name) for name in narrow for one in judged(name, narrow, how)]
        rates.append(_rates("each SQuAD article", how, len(narrow), together))
    return rates


def judged(name: str, collections: Mapping[str, Questions], how: str) -> list[Judged]:
    """Fit the gate of one collection, and put questions of people to it: the last of its own, and the others'.

    Args:
        name: the collection's.
        collections: all of them.
        how: what its gate is fitted by.
    """
    own = collections[name]
    taught, held_out, _ = _parted(own[how])
    gate = Gate.fit(_rows(taught), _rows(held_out), "")
    put = [(True, one) for one in _parted(own["labels"])[2]]
    put += [
        (False, one)
        for other, questions in collections.items()
        if other != name
        for one in questions["labels"][:OTHERS]
    ]
    return [Judged(document, mine, gate.decide(vector[None]).accepted) for mine, (document, vector) in put]


def _parted(questions: Sequence[Put]) -> tuple[Sequence[Put], Sequence[Put], Sequence[Put]]:
    """Half that is taught, a quarter that is held out, a quarter that is put."""
    first, second = len(questions) // 2, 3 * len(questions) // 4
    return questions[:first], questions[first:second], questions[second:]


def _rows(questions: Sequence[Put]) -> np.ndarray:
    return np.stack([vector for _, vector in questions])


def _rates(name: str, how: str, documents: int, put: Sequence[Judged]) -> Rates:
    def share(own: bool) -> Interval:
        units: dict[str, list[tuple[float, float]]] = {}
        for one in put:
            if one.own is own:
                units.setdefault(one.unit, []).append((float(one.accepted is own), 1.0))
        return interval(units)

    own = sum(one.own for one in put)
    return Rates(name, how, documents, share(own=True), own, share(own=False), len(put) - own)


def _embedded(
    collections: Mapping[str, Sequence[Mapping[str, Any]]],
    tokenizer: PreTrainedTokenizerBase,
    embedder: Embedder,
    draw: random.Random,
) -> dict[str, Questions]:
    """The questions of each collection, of people and by templates."""
    found: dict[str, Questions] = {}
    with progress("embedding the questions of collections", len(collections)) as advance:
        for name, rows in collections.items():
            asked = [(row["doc_id"], q["question"]) for row in rows for q in row["questions"] if q["answers"]]
            asked = list(dict.fromkeys(draw.sample(asked, min(QUESTIONS, len(asked)))))
            made = _by_templates(rows, tokenizer, draw)
            vectors = embedder.embed([subject(text) for _, text in (*asked, *made)], "question")
            put = [(document, vector) for (document, _), vector in zip((*asked, *made), vectors, strict=True)]
            found[name] = {"labels": put[: len(asked)], "templates": put[len(asked) :]}
            advance()
    return found


def _by_templates(
    rows: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, draw: random.Random
) -> list[tuple[str, str]]:
    """Questions that templates make of random passages of random documents."""
    passages = [split(Document(row["doc_id"], row["title"], row["text"]), tokenizer, PASSAGE_TOKENS) for row in rows]
    made: dict[str, str] = {}
    for _ in range(2 * QUESTIONS):
        at = draw.randrange(len(rows))
        question = from_template(draw.choice(passages[at]).text, draw)
        if question is not None and len(made) < QUESTIONS:
            made[question.text] = rows[at]["doc_id"]
    return [(document, text) for text, document in made.items()]
