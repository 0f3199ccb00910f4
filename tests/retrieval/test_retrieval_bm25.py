"""Words in memory are ranked as the formula and the store rank them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from preread.core.types import Document, Passage
from preread.retrieval.bm25 import K1, B, Words
from preread.store.store import Store

TEXTS = [
    "The keeper of the lighthouse slept while the lamp burned.",
    "Keepers write; the keeper's log is long, long and long.",
    "In winter the storm reached the island at night.",
    "A decoder reads tokens, one after the other.",
    "Storms! Storms pass islands.",
]
QUESTIONS = ["Which keepers slept?", "long storms of the winter", "The reading decoder", "XK-4471", ""]


def test_scores_are_those_of_the_formula() -> None:
    bags = [["keeper", "burn"], ["keeper", "keeper", "log"], ["log", "burn", "burn", "burn"]]
    words = Words([" ".join(bag) for bag in bags])
    mean = sum(map(len, bags)) / len(bags)
    for query in ("keeper", "burn log", "keeper burn log"):
        expected = [
            sum(
                math.log(1 + (len(bags) - df + 0.5) / (df + 0.5))
                * bag.count(word)
                / (bag.count(word) + K1 * (1 - B + B * len(bag) / mean))
                for word in query.split()
                for df in [sum(word in other for other in bags)]
            )
            for bag in bags
        ]
        assert words.scores(query) == pytest.approx(expected, rel=1e-5)


def test_endings_and_case_do_not_count_and_strangers_score_nothing() -> None:
    words = Words(TEXTS)
    assert words.scores("KEEPERS") == pytest.approx(words.scores("keeper"))
    assert words.scores("keepers").nonzero()[0].tolist() == [0, 1]
    for stranger in ("", "?!", "zebra"):
        assert words.scores(stranger).tolist() == [0.0] * len(TEXTS)


def test_the_store_ranks_alike(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.bind("none")
    document = Document("a", "a", "".join(TEXTS))
    passages, start = [], 0
    for index, text in enumerate(TEXTS):
        passages.append(Passage(document.hash, index, (1,), start, start + len(text), text, "", index))
        start += len(text)
    store.commit("c", document, passages, np.ones((len(TEXTS), 4), np.float32), [{}] * len(TEXTS), {})
    words = Words(TEXTS)
    for question in QUESTIONS:
        scores = words.scores(question)
        ours = [int(i) for i in np.argsort(-scores, kind="stable") if scores[i] > 0]
        assert [hit.passage.index for hit in store.matching("c", question, 9)] == ours
