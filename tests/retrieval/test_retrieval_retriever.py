"""The right passage comes first: by meaning where words differ, by words where meanings are alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from preread.core.errors import FingerprintMismatch, UsageError
from preread.core.types import Document, Passage
from preread.retrieval.embedder import Embedder
from preread.retrieval.fusing import WEIGHTS
from preread.retrieval.retriever import Retriever
from preread.store.store import Store

TEXTS = [
    "The physician examined the child and found a fever.",
    "Model XK-4471 has a pressure limit of nine bar.",
    "Model XK-4472 has a pressure limit of twelve bar.",
    "The orchestra played until midnight.",
    "Taxes are due at the end of April.",
]


class OtherEmbedder(Embedder):
    """The same vectors under another fingerprint."""

    fingerprint = "another"  # type: ignore[assignment]


def add(retriever: Retriever, store: Store, collection: str, source: str, texts: list[str]) -> None:
    document = Document(source, source, "".join(texts))
    passages, start = [], 0
    for index, text in enumerate(texts):
        passages.append(Passage(document.hash, index, (1,), start, start + len(text), text, "", index))
        start += len(text)
    store.commit(collection, document, passages, retriever.vectors(passages), [{}] * len(passages), {})


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> tuple[Retriever, Store]:
    store = Store(tmp_path_factory.mktemp("library"))
    retriever = Retriever(store, Embedder())
    add(retriever, store, "c", "a", TEXTS)
    add(retriever, store, "other", "a", ["A doctor saw the sick infant about XK-4472."])
    return retriever, store


@pytest.mark.parametrize("mode", ["dense", "hybrid"])
def test_meaning_finds_what_shares_no_word(library: tuple[Retriever, Store], mode: str) -> None:
    hits = library[0].search("c", "Which doctor saw a sick infant?", 1, mode)
    assert [hit.passage.text for hit in hits] == TEXTS[:1]


@pytest.mark.parametrize("mode", ["bm25", "hybrid"])
def test_words_tell_apart_what_means_the_same(library: tuple[Retriever, Store], mode: str) -> None:
    for number, text in (("4471", TEXTS[1]), ("4472", TEXTS[2])):
        assert library[0].search("c", f"How much can the XK-{number} take?", 1, mode)[0].passage.text == text


def test_scores_and_ranks_are_those_of_each_side(library: tuple[Retriever, Store]) -> None:
    retriever, _ = library
    question = "the orchestra at midnight"
    sides = {mode: retriever.search("c", question, 5, mode) for mode in ("dense", "bm25")}
    hits = retriever.search("c", question, 5)
    assert len(sides["dense"]) == len(hits) == 5
    assert len(sides["bm25"]) < 5
    for hit in hits:
        expected = 0.0
        for mode, side in sides.items():
            low, high = side[-1].score, side[0].score
            found = [(rank, one) for rank, one in enumerate(side, 1) if one.passage == hit.passage]
            assert (mode in hit.extra) == bool(found)
            for rank, one in found:
                assert (hit.extra[mode], hit.extra[f"{mode}_rank"]) == (
                    pytest.approx(one.score, abs=1e-6),
                    rank,
                )
                expected += WEIGHTS[mode] * (one.score - low) / (high - low)
        assert hit.score == pytest.approx(expected, abs=1e-5)
    assert hits[0].score == pytest.approx(1)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_ties_are_broken_by_source_and_place(tmp_path: Path) -> None:
    store = Store(tmp_path)
    retriever = Retriever(store, Embedder())
    for source in ("b", "a"):
        add(retriever, store, "c", source, [TEXTS[3], TEXTS[3]])
    for mode in ("hybrid", "dense", "bm25"):
        hits = retriever.search("c", "orchestra", 4, mode)
        assert [(hit.source, hit.passage.index) for hit in hits] == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]


def test_collections_are_apart_and_an_unknown_one_is_empty(library: tuple[Retriever, Store]) -> None:
    retriever, _ = library
    assert len(retriever.search("other", "doctor XK-4472 orchestra taxes", 9)) == 1
    assert retriever.search("nobody", "doctor", 9) == []
    assert [hit.passage.index for hit in retriever.search("c", "?!", 5, "bm25")] == []
    assert len(retriever.search("c", "?!", 5)) == 5


def test_another_embedder_is_refused_before_anything_is_written_or_searched(
    library: tuple[Retriever, Store],
) -> None:
    store = library[1]
    stranger = Retriever(store, OtherEmbedder())
    with pytest.raises(FingerprintMismatch, match="bm25"):
        stranger.search("c", "doctor")
    with pytest.raises(FingerprintMismatch):
        add(stranger, store, "c", "b", ["Text."])
    assert [entry.source for entry in store.documents("c")] == ["a"]
    assert stranger.search("c", "orchestra", 1, "bm25")[0].passage.text == TEXTS[3]


@pytest.mark.parametrize(("k", "mode"), [(0, "hybrid"), (-1, "dense"), (3, "magic")])
def test_a_senseless_search_is_refused(library: tuple[Retriever, Store], k: int, mode: str) -> None:
    with pytest.raises(UsageError):
        library[0].search("c", "doctor", k, mode)


def test_vectors_are_of_the_passages_in_order(library: tuple[Retriever, Store]) -> None:
    retriever, store = library
    passages = [one.passage for one in store.passages("c", "a")]
    vectors = retriever.vectors(passages)
    for index, vector in enumerate(vectors):
        (hit,) = store.nearest("c", np.asarray(vector), 1)
        assert hit.passage.index == index
        assert hit.score == pytest.approx(1, abs=2e-3)
