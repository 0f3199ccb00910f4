"""Whether the right passage is found, the right collection chosen, and a question without an answer known for one."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score
from transformers import PreTrainedTokenizerBase

from preread.bench.figures import Figure
from preread.bench.holdings import PASSAGE_TOKENS, Held, filled, holdings
from preread.core.progress import progress
from preread.retrieval.embedder import Embedder
from preread.retrieval.relevance import calibration
from preread.retrieval.retriever import Retriever
from preread.retrieval.router import route

ARTICLES = "squad2_articles.test.jsonl.gz"
KINDS = {
    "fairytaleqa.test.jsonl.gz": 18,
    "hotpotqa_distractor.test.jsonl.gz": 60,
    "nq_oracle.test.jsonl.gz": 240,
    "qasper_subset.test.jsonl.gz": 24,
    "qmsum.test.jsonl.gz": 10,
    ARTICLES: 10,
    "squality.test.jsonl.gz": 14,
    "timeqa.test.jsonl.gz": 30,
}
"""Question sets that are a collection each, and how many documents of each are looked at."""
K = 5
COLLECTIONS = 8
DRAWS = 1000

Value = Callable[[Sequence["Asked"]], float]


@dataclass(frozen=True, slots=True)
class Asked:
    """One question as it was put to a library.

    Args:
        document: the document that answers it.
        held: whether the library holds that document.
        relevance: that of the collection which was asked.
        right: whether what was to be found was found; False where there is nothing to find.
    """

    document: str
    held: bool
    relevance: float
    right: bool


def retrieval_figures(
    data: Path, tokenizer: PreTrainedTokenizerBase, embedder: Embedder, seed: int = 0, questions: int = 60
) -> list[Figure]:
    """Recall, routing and abstention; takes some ten minutes on two cores. No decoder is loaded.

    Args:
        data: folder with the files `KINDS`.
        tokenizer: the decoder's, for passages.
        embedder: whose vectors are searched.
        seed: of the questions and documents drawn.
        questions: most questions of a collection that are routed.

    Raises:
        UnreadableDocument: a file is missing.
    """
    articles = holdings(data / ARTICLES, tokenizer, embedder, gold=True)
    kinds = {
        name.split(".")[0]: articles if name == ARTICLES else holdings(data / name, tokenizer, embedder, documents)
        for name, documents in KINDS.items()
    }
    draw = random.Random(seed)  # noqa: S311  # no secret
    single = {held.document.source: [held] for held in articles}
    first, rest = list(single)[:COLLECTIONS], list(single)[COLLECTIONS:]
    mixed = {name: draw.sample(own, len(own)) for name, own in kinds.items()}
    inside = {name: own[: (len(own) + 1) // 2] for name, own in mixed.items()}
    outside = {name: own[(len(own) + 1) // 2 :] for name, own in mixed.items()}
    found = recall(articles, embedder)
    narrow = routed(
        {name: single[name] for name in first}, {name: single[name] for name in rest}, embedder, draw, questions
    )
    wide = routed(inside, outside, embedder, draw, questions)
    recipe = f"seed={seed} questions={questions} k={K} passage_tokens={PASSAGE_TOKENS} embedder={embedder.name}"
    command = f"preread bench retrieval --data DATA --seed {seed} --questions {questions}"
    threshold = calibration(embedder.fingerprint).threshold
    return [
        _figure("retrieval.recall_at_5", found, accuracy, _recall_note(articles), recipe, command),
        _figure("routing.accuracy", wide, accuracy, _accuracy_note(wide, narrow), recipe, command),
        _figure("routing.abstain_auroc", wide, auroc, _auroc_note(wide, narrow, threshold), recipe, command),
    ]


def recall(documents: Sequence[Held], embedder: Embedder) -> list[Asked]:
    """Search one collection of all documents; right is a gold passage among the best `K`."""
    with tempfile.TemporaryDirectory() as folder:
        retriever = Retriever(filled(Path(folder), embedder, {"all": documents}), embedder)
        pairs = [(held.document.source, ask) for held in documents for ask in held.asks if ask.gold]
        asked = []
        with progress("searching for passages", len(pairs)) as advance:
            for source, ask in pairs:
                found = retriever.find("all", ask.text, K)
                right = any(hit.source == source and hit.passage.index in ask.gold for hit in found.hits)
                asked.append(Asked(source, True, found.relevance, right))
                advance()
    return asked


def routed(
    inside: Mapping[str, Sequence[Held]],
    outside: Mapping[str, Sequence[Held]],
    embedder: Embedder,
    draw: random.Random,
    questions: int,
) -> list[Asked]:
    """Route the questions of documents that a library holds, and of others; right is the collection.

    Args:
        inside: documents of each collection.
        outside: documents of the same kinds that it does not hold.
        embedder: whose vectors are searched.
        draw: of the questions.
        questions: most questions of each of them.
    """
    put = [(name, *one) for name, own in inside.items() for one in _drawn(own, draw, questions)]
    put += [("", *one) for own in outside.values() for one in _drawn(own, draw, questions)]
    with tempfile.TemporaryDirectory() as folder:
        retriever = Retriever(filled(Path(folder), embedder, inside), embedder)
        asked = []
        with progress(f"routing to {len(inside)} collections", len(put)) as advance:
            for name, source, question in put:
                chosen = route(retriever, question, list(inside))
                asked.append(Asked(source, bool(name), chosen.relevance, chosen.collection == name))
                advance()
    return asked


def _drawn(documents: Sequence[Held], draw: random.Random, count: int) -> list[tuple[str, str]]:
    every = [(held.document.source, ask.text) for held in documents for ask in held.asks]
    return draw.sample(every, min(count, len(every)))


def accuracy(asked: Sequence[Asked]) -> float:
    """Share of the questions that the library answers for which the right thing was found."""
    return float(np.mean([one.right for one in asked if one.held]))


def auroc(asked: Sequence[Asked]) -> float:
    """How often a question that the library answers has more relevance than one that it does not."""
    return float(roc_auc_score([one.held for one in asked], [one.relevance for one in asked]))


def interval(asked: Sequence[Asked], value: Value, seed: int = 0) -> tuple[float, float]:
    """95 % of the values over documents drawn again with all of their questions, as many inside and outside."""
    groups: dict[tuple[bool, str], list[Asked]] = {}
    for one in asked:
        groups.setdefault((one.held, one.document), []).append(one)
    sides = [own for held in (True, False) if (own := [g for (side, _), g in groups.items() if side is held])]
    draw = random.Random(seed)  # noqa: S311  # no secret
    again = ([one for side in sides for own in draw.choices(side, k=len(side)) for one in own] for _ in range(DRAWS))
    low, high = np.quantile([value(drawn) for drawn in again], [0.025, 0.975])
    return float(low), float(high)


def _figure(name: str, asked: Sequence[Asked], value: Value, note: str, recipe: str, command: str) -> Figure:
    low, high = interval(asked, value)
    counted = sum(one.held for one in asked) if value is accuracy else len(asked)
    return Figure(name, value(asked), low, high, "share", counted, recipe, command, note)


def _recall_note(articles: Sequence[Held]) -> str:
    passages = sum(len(held.passages) for held in articles)
    return (
        f"all {len(articles)} SQuAD 2 articles of the test file as one collection of {passages} passages; every "
        "answerable question; gold is any passage that overlaps an answer in the question's own paragraph, which is "
        "found by the order of the questions (the file does not name it) and holds all answers; interval by bootstrap "
        "over articles; fusion weights chosen on training files"
    )


def _accuracy_note(wide: Sequence[Asked], narrow: Sequence[Asked]) -> str:
    low, high = interval(narrow, accuracy)
    held = sum(one.held for one in wide)
    return (
        f"8 question sets (test files: {', '.join(name.split('.')[0] for name in KINDS)}) as 8 collections, half of "
        f"the documents of each, {held} questions that they answer; "
        "only the question is routed; interval by bootstrap over documents. The other reading, "
        f"8 SQuAD 2 articles as 8 collections: {accuracy(narrow):.3f} ({low:.3f} to {high:.3f}, "
        f"n={sum(one.held for one in narrow)})"
    )


def _auroc_note(wide: Sequence[Asked], narrow: Sequence[Asked], threshold: float) -> str:
    low, high = interval(narrow, auroc)
    return (
        f"the library of routing.accuracy; {sum(one.held for one in wide)} questions that its documents answer against "
        f"{sum(not one.held for one in wide)} of the other half of the same question sets; relevance of the collection "
        f"that the question went to. {_flagged(wide, threshold)}. Interval by bootstrap over documents. The other "
        f"reading, 8 SQuAD 2 articles against the questions of the 2 others: {auroc(narrow):.3f} ({low:.3f} to "
        f"{high:.3f}, n={len(narrow)}; {_flagged(narrow, threshold)})"
    )


def _flagged(asked: Sequence[Asked], threshold: float) -> str:
    held, not_held = (
        np.mean([one.relevance < threshold for one in asked if one.held is side]) for side in (True, False)
    )
    return f"doubted at the threshold {threshold:.2f}: {held:.1%} of the former, {not_held:.1%} of the latter"
