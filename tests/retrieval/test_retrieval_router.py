"""A question goes where it is answered, and one that nobody answers is known for one."""

from __future__ import annotations

from pathlib import Path

import pytest

from preread.core.types import Document, Passage
from preread.retrieval.embedder import Embedder
from preread.retrieval.retriever import Retriever
from preread.retrieval.router import route
from preread.store.store import Store

SHELVES = {
    "kitchen": [
        "Rye bread needs a sourdough, a hot oven and six hours of patience.",
        "A roux of butter and flour thickens the sauce before the milk is added.",
    ],
    "law": [
        "Either party may end the contract with three months' notice in writing.",
        "The tenant pays for repairs of up to two hundred euros a year.",
    ],
    "sea": [
        "The keeper of the lighthouse lit the lamp at dusk and wound its clockwork twice a night.",
        "The schooner Amalia ran onto the northern reef in the storm of 1871.",
    ],
}
HELD = {
    "How long does rye bread take?": "kitchen",
    "What thickens the sauce?": "kitchen",
    "Who may end the contract, and how?": "law",
    "Which repairs does the tenant pay for?": "law",
    "When was the lighthouse lamp lit?": "sea",
    "On which reef did the Amalia run?": "sea",
}
NOT_HELD = ["Who won the chess championship in 1972?", "Which enzyme splits lactose?", "How tall is Mount Kenya?"]


@pytest.fixture(scope="module")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    store = Store(tmp_path_factory.mktemp("library"))
    made = Retriever(store, Embedder())
    for name, texts in SHELVES.items():
        document = Document(name, name, "".join(texts))
        passages, start = [], 0
        for index, text in enumerate(texts):
            passages.append(Passage(document.hash, index, (1,), start, start + len(text), text, "", index))
            start += len(text)
        store.commit(name, document, passages, made.vectors(passages), [{}] * len(passages), {})
    return made


@pytest.mark.parametrize(("question", "home"), HELD.items())
def test_a_question_goes_home_and_is_not_doubted(retriever, question, home):
    chosen = route(retriever, question, sorted(SHELVES))
    assert chosen.collection == home
    found = retriever.find(home, question, 2)
    assert chosen.relevance == found.relevance >= found.threshold
    others = {name: retriever.find(name, question).relevance for name in SHELVES if name != home}
    assert chosen.runner_up == max(others, key=others.__getitem__)
    assert chosen.runner_up_relevance == max(others.values()) <= chosen.relevance


@pytest.mark.parametrize("question", NOT_HELD)
def test_what_nobody_holds_is_doubted_everywhere(retriever, question):
    least = min(retriever.find(home, asked).relevance for asked, home in HELD.items())
    for name in SHELVES:
        found = retriever.find(name, question)
        assert found.relevance < min(least, found.threshold)


def test_relevance_does_not_depend_on_how_many_passages_are_wanted(retriever):
    few, many = (retriever.find("sea", "Who wound the clockwork?", k) for k in (1, 40))
    assert few.relevance == many.relevance
    assert many.hits[:1] == few.hits


def test_without_earlier_questions_it_is_a_search(retriever):
    question = "Who wound the clockwork?"
    assert retriever.find("sea", question).hits == retriever.search("sea", question)


def test_a_follow_up_is_understood_by_what_came_before(tmp_path: Path, retriever):
    """Alone it fits either ship; behind a question about one of them it fits that one."""
    earlier = {"rudder": "What do we know about the brig Hesper?", "mast": "What do we know about the cutter Wren?"}
    texts = ["The brig Hesper lost her rudder on the way.", "The cutter Wren lost her mast on the way."]
    store = Store(tmp_path)
    ships = Retriever(store, Embedder())
    document = Document("ships", "ships", "".join(texts))
    passages = [Passage(document.hash, i, (1,), 0, len(text), text, "", i) for i, text in enumerate(texts)]
    store.commit("ships", document, passages, ships.vectors(passages), [{}, {}], {})
    for lost, before in earlier.items():
        for history in ([before], ["How is the weather?", before]):
            found = ships.find("ships", "And what did she lose on the way?", 1, history)
            assert lost in found.hits[0].passage.text
    assert len({hit.passage.index for hit in ships.find("ships", "What was lost?", 5, ["Who?"]).hits}) == 2
