"""How the relevance of passages to a question is fitted: on training questions, with and without their documents."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from transformers import PreTrainedTokenizerBase

from preread.bench.holdings import Held, filled, holdings
from preread.core.progress import progress
from preread.retrieval.embedder import Embedder
from preread.retrieval.relevance import Calibration, Evidence
from preread.retrieval.retriever import Retriever

SETS = {
    "fairytaleqa.train.jsonl.gz": 30,
    "hotpotqa_distractor.train.jsonl.gz": 120,
    "nq_oracle.train.jsonl.gz": 300,
    "qmsum.train.jsonl.gz": 14,
    "squad2_articles.train.jsonl.gz": 18,
    "squality.train.jsonl.gz": 24,
    "timeqa.train.jsonl.gz": 50,
}
"""Training files, and how many documents of each are looked at."""
MISSED = 0.05
"""Share of answerable training questions that fall below the threshold."""
QUESTIONS = 200
"""Most questions of a set."""

Seen = tuple[Evidence, bool, float]
"""Evidence for a question, whether its document was there, and how much it counts."""


def fit(data: Path, tokenizer: PreTrainedTokenizerBase, embedder: Embedder, seed: int = 0) -> dict[str, Any]:
    """Calibrations, as `retrieval/relevance.json` keeps them; takes some five minutes on two cores.

    The documents of each set are cut in two halves, each half a library of its own; each question is put to both. All
    sets count the same.

    Args:
        data: folder with the files `SETS`.
        tokenizer: the decoder's, for passages.
        embedder: whose vectors are searched.
        seed: of halves and questions.

    Raises:
        UnreadableDocument: a file is missing.
    """
    draw = random.Random(seed)  # noqa: S311  # no secret
    seen: list[Seen] = []
    for name, documents in SETS.items():
        seen += halves(holdings(data / name, tokenizer, embedder, documents), embedder, draw)
    words = [(Evidence(None, evidence.words), held, weight) for evidence, held, weight in seen]
    how = {
        "command": f"preread train relevance --data DATA --seed {seed}",
        "sets": SETS,
        "questions": len(seen) // 2,
        "embedder": embedder.name,
        "what": "logistic regression; each question once with and once without its document; sets count the same; the "
        f"threshold is the {MISSED:.0%} quantile of the questions with their documents",
    }
    return {"embedders": {embedder.fingerprint: _row(seen)}, "words": _row(words), "how": how}


def halves(documents: Sequence[Held], embedder: Embedder, draw: random.Random) -> list[Seen]:
    """Evidence of up to `QUESTIONS` questions in a library with their document and in one without."""
    mixed = draw.sample(documents, len(documents))
    every = [(number, ask.text) for number, held in enumerate(mixed) for ask in held.asks]
    asked = draw.sample(every, min(QUESTIONS, len(every)))
    seen: list[Seen] = []
    for side in (0, 1):
        with tempfile.TemporaryDirectory() as folder, progress("weighing evidence", len(asked)) as advance:
            retriever = Retriever(filled(Path(folder), embedder, {"half": mixed[side::2]}), embedder)
            for number, question in asked:
                found = retriever.evidence("half", question)
                seen.append((found, number % 2 == side, 0.5 / len(asked)))
                advance()
    return seen


def fitted(seen: Sequence[Seen]) -> Calibration:
    """The logistic model and its threshold; without cosines, of words alone."""
    with_cosine = seen[0][0].cosine is not None
    rows = np.array([[one.words, one.cosine or 0.0] if with_cosine else [one.words] for one, _, _ in seen])
    held, weights = np.array([held for _, held, _ in seen]), np.array([weight for _, _, weight in seen])
    model = LogisticRegression(C=np.inf).fit(rows, held, sample_weight=weights * len(seen) / weights.sum())
    words, *cosine = model.coef_[0].tolist()
    model_of = Calibration(float(model.intercept_[0]), cosine[0] if cosine else 0.0, words, 0.0, MISSED)
    found = np.array([model_of.relevance(one) for one, _, _ in seen])
    return Calibration(model_of.bias, model_of.cosine, model_of.words, _quantile(found[held], weights[held]), MISSED)


def _quantile(values: np.ndarray, weights: np.ndarray) -> float:
    """The value below which the share `MISSED` of the weight lies."""
    order = np.argsort(values)
    share = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][np.searchsorted(share, MISSED)])


def _row(seen: Sequence[Seen]) -> Mapping[str, float]:
    made = fitted(seen)
    return {name: round(getattr(made, name), 4) for name in Calibration.__slots__}
