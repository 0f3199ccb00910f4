"""Passages for each question: the budget is never exceeded, all of them are the full text, the product's rule ranks."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preread.core.errors import UsageError
from preread.core.types import Document, Passage
from preread.data.passages import split
from preread.eval import measuring
from preread.eval.answerers.plain import Full
from preread.eval.answerers.retrieved import Retrieved
from preread.eval.case import Case, Item, Stretch
from preread.retrieval.embedder import Embedder
from preread.retrieval.retriever import Retriever
from preread.store.store import Store

WIDTH = 2**14
MODES = ("dense", "bm25", "hybrid")
NAMES = ("Ada", "Bela", "Cyril", "Dora", "Egon", "Fay", "Gus", "Hal", "Ida", "Jon", "Kim", "Lea")
TEXT = "\n\n".join(f"{name} kept the lighthouse on day {i} and saw {i * 7} ships pass." for i, name in enumerate(NAMES))
ITEMS = tuple(
    Item(name, f"What did {name} see? Answer in a few words of your own.", (name,), query=f"What did {name} see?")
    for name in NAMES
)
CASE = Case("c", Document("a", "a", TEXT), ITEMS)
LINE = 28
"""Tokens of a passage that is a line."""


class Counted:
    """Vectors of hashed words, and how many texts were embedded as passages."""

    name, fingerprint, passages = "counted", "counted", 0

    def embed(self, texts, role="passage", advance=None):
        self.passages += len(texts) * (role == "passage")
        rows = np.full((len(texts), WIDTH), 1e-3, np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.lower().split():
                row[int(hashlib.sha256(word.strip(".,?!").encode()).hexdigest(), 16) % WIDTH] += 1
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def kit(kit):
    vars(kit)["embedder"] = Counted()
    return kit


@given(
    st.lists(st.integers(1, 9), max_size=8).flatmap(lambda sizes: st.tuples(st.just(sizes), st.permutations(sizes))),
    st.integers(0, 60),
    st.none() | st.integers(1, 8),
    st.randoms(use_true_random=False),
)
def test_what_is_read_fills_the_budget_in_rank_order_and_stands_in_text_order(sizes, limit, most, draw) -> None:
    start, passages = 0, []
    for index, size in enumerate(sizes[0]):
        ids = tuple(range(start, start + size))
        passages.append(Passage("d", index, ids, start, start + size, "", "", start))
        start += size
    ranking = draw.sample(passages, len(passages))
    read = Retrieved(passages=most).read(ranking, limit)
    best = [token for passage in ranking[:most] for token in passage.ids]
    assert read == sorted(best[:limit])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("settings", [{}, {"positions": 10_000}, {"ratio": 1}, {"passages": 500}])
def test_with_enough_room_it_is_the_full_text(kit, mode, settings) -> None:
    short = Case("c", CASE.document, ITEMS[:2])
    found = Retrieved(mode=mode, passage_tokens=24, **settings).respond(kit, short, 6)
    assert found.responses == Full().respond(kit, short, 6).responses


@pytest.mark.parametrize("mode", MODES)
def test_at_a_ratio_it_takes_the_positions_of_a_memory_at_that_ratio(kit, mode) -> None:
    answerer = Retrieved(mode=mode, ratio=4, passage_tokens=24)
    with answerer.laid(kit, CASE, ITEMS) as layout, Full().laid(kit, CASE, ITEMS) as full:
        tokens = len(kit.decoder.tokens(TEXT))
        saved = {len(whole) - len(part) for whole, part in zip(full.prompts, layout.prompts, strict=True)}
        vectors = 0 if mode == "bm25" else WIDTH * 4 * len(kit.passages(CASE.document, 24))
        assert layout.stored_bytes == len(TEXT.encode()) + vectors
    assert saved == {tokens - math.ceil(tokens / 4)}
    assert answerer.label == f"{mode} 4x"


@pytest.mark.parametrize("mode", MODES)
def test_each_question_reads_the_passage_that_answers_it(kit, mode) -> None:
    with Retrieved(mode=mode, passages=1, passage_tokens=LINE).laid(kit, CASE, ITEMS) as layout:
        for item, prompt in zip(ITEMS, layout.prompts, strict=True):
            text = kit.decoder.tokenizer.decode(prompt.ids)
            assert f"{item.id} kept the lighthouse" in text
            assert text.count("kept the lighthouse") == 1


@pytest.mark.parametrize("mode", MODES)
def test_it_ranks_as_the_product_does(kit, mode, tmp_path) -> None:
    vars(kit)["embedder"] = Embedder()  # hashed words tie, and a database breaks ties by rounding
    store = Store(tmp_path / "store")
    retriever = Retriever(store, kit.embedder)
    passages = kit.passages(CASE.document, LINE)
    store.commit("c", CASE.document, passages, retriever.vectors(passages), [{}] * len(passages), {})
    answerer = Retrieved(mode=mode, passages=3, passage_tokens=LINE)
    for item, ranking in zip(ITEMS, answerer.ranked(kit, CASE, ITEMS, 3), strict=True):
        hits = retriever.search("c", item.query, 3, mode)
        assert [passage.index for passage in ranking[: len(hits)]] == [hit.passage.index for hit in hits]


def test_the_instruction_behind_a_question_is_not_searched_for(kit) -> None:
    told = tuple(Item(item.id, item.question + " keeper ships pass day", (), query=item.query) for item in ITEMS)
    answerer = Retrieved(passage_tokens=24)
    assert answerer.ranked(kit, CASE, told, 3) == answerer.ranked(kit, CASE, ITEMS, 3)


def test_a_document_is_embedded_once_for_all_answerers(kit) -> None:
    for mode in MODES:
        for ratio in (2, 8):
            with Retrieved(mode=mode, ratio=ratio, passage_tokens=24).laid(kit, CASE, ITEMS):
                pass
    assert kit.embedder.passages == len(split(CASE.document, kit.decoder.tokenizer, 24))


def test_contexts_of_their_own_are_answered_as_alone_and_few_are_kept(kit, monkeypatch) -> None:
    engines = []

    class Watched(measuring.LocalEngine):
        def __init__(self, *args, **settings):
            super().__init__(*args, **settings)
            engines.append(self)

    monkeypatch.setattr(measuring, "LocalEngine", Watched)
    answerer = Retrieved(mode="bm25", passages=2, passage_tokens=LINE)
    together = answerer.respond(kit, CASE, 4).responses
    assert len(together) == len(ITEMS) > measuring.ROWS_AT_ONCE
    assert all(len(engine.prefixes._kept) <= measuring.ROWS_AT_ONCE for engine in engines)
    for item, found in zip(ITEMS, together, strict=True):
        [alone] = answerer.respond(kit, Case("c", CASE.document, (item,)), 4).responses
        assert (alone.answer, alone.positions) == (found.answer, found.positions)
        assert [one.nats for one in alone.references] == pytest.approx([one.nats for one in found.references])


@pytest.mark.parametrize("mode", MODES)
def test_of_running_text_the_far_passages_that_are_like_the_near_text_are_read(kit, mode) -> None:
    far, near = (tuple(kit.decoder.tokens(text).tolist()) for text in (TEXT, " Dora saw ships: Dora saw"))
    stretch = Stretch("s", "s", "", far, near, (5, 6))
    answerer = Retrieved(mode=mode, passages=1, passage_tokens=30)
    with answerer.continued(kit, stretch) as layout:
        [prompt] = layout.prompts
    assert len(prompt) <= len(kit.decoder.start_ids) + 30 + len(near)
    assert "Dora" in kit.decoder.tokenizer.decode(prompt.ids[: len(prompt) - len(near)])
    everything = Retrieved(mode=mode, passage_tokens=30)
    assert everything.losses(kit, stretch).nats.equal(Full().losses(kit, stretch).nats)


def test_running_text_that_comes_in_passages_is_ranked_by_them(kit) -> None:
    borders, far = [], []
    for line in TEXT.split("\n\n"):
        far += (ids := kit.decoder.tokens(line).tolist())
        borders.append((len(far) - len(ids), len(far)))
    near = tuple(kit.decoder.tokens(" What Hal saw").tolist())
    stretch = Stretch("s", "s", "", tuple(far), near, (5,), tuple(borders), (1.0,) * len(borders))
    with Retrieved(mode="bm25", passages=1).continued(kit, stretch) as layout:
        read = layout.prompts[0].ids[len(kit.decoder.start_ids) : -len(near)]
    assert kit.decoder.tokenizer.decode(read) == TEXT.split("\n\n")[NAMES.index("Hal")]


@pytest.mark.parametrize("mode", MODES)
def test_an_empty_document_is_no_context(kit, mode) -> None:
    empty = Case("c", Document("a", "a", ""), ITEMS[:1])
    assert Retrieved(mode=mode, ratio=4).respond(kit, empty, 4).responses == Full().respond(kit, empty, 4).responses


@pytest.mark.parametrize("settings", [{"passages": 0}, {"passages": 5, "ratio": 4}, {"passages": 5, "positions": 9}])
def test_passages_are_a_budget_of_their_own(settings) -> None:
    with pytest.raises(UsageError, match="passage"):
        Retrieved(**settings)
    assert Retrieved(passages=5, passage_tokens=512).label == "hybrid 5 x 512"
