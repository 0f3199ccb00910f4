"""The oracle reads what holds the answer, by evidence or by the words of the references, and no more."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preread.core.types import Document
from preread.eval.answerers.oracle import Oracle
from preread.eval.case import Case, Item, Stretch, Unfit
from preread.retrieval.relevance import stems

NAMES = ("Ada", "Bela", "Cyril", "Dora", "Egon", "Fay", "Gus", "Hal")
LINES = [
    f"{name} kept the lighthouse on day {i} and saw {'no' if i % 2 else 'many'} ships." for i, name in enumerate(NAMES)
]
DOCUMENT = Document("a", "a", "\n\n".join(LINES))
SIZE = 27
"""Tokens of a passage that is a line."""


def chosen(kit, item: Item) -> list[str]:
    [ranking] = Oracle(passage_tokens=SIZE).ranked(kit, Case("c", DOCUMENT, (item,)), [item], 1)
    return [passage.text for passage in ranking]


@settings(max_examples=60)
@given(st.data())
def test_evidence_is_read_whole_and_nothing_beside_it(shared_kit, data) -> None:
    ends = st.integers(0, len(DOCUMENT.text))
    spans = data.draw(st.lists(st.tuples(ends, ends).map(sorted).filter(lambda s: s[0] < s[1]), min_size=1, max_size=3))
    item = Item("1", "Who?", (), evidence=tuple(map(tuple, spans)))
    [ranking] = Oracle(passage_tokens=SIZE).ranked(shared_kit, Case("c", DOCUMENT, (item,)), [item], 1)
    touched = {i for start, end in spans for i in range(start, end)}
    read = [set(range(passage.start, passage.end)) for passage in ranking]
    assert touched <= set().union(*read)
    assert all(own & touched for own in read)
    held = [sum(max(0, min(p.end, e) - max(p.start, s)) for s, e in spans) for p in ranking]
    assert held == sorted(held, reverse=True)


def test_without_evidence_the_references_words_are_covered_and_the_question_breaks_ties(kit) -> None:
    assert any("Dora" in text for text in chosen(kit, Item("1", "Who?", ("Dora",))))
    both = " ".join(chosen(kit, Item("2", "Who?", ("Bela and Hal",))))
    assert "Bela" in both
    assert "Hal" in both
    [only] = chosen(kit, Item("3", "What did Egon see?", ("many ships",)))
    assert "Egon" in only
    assert chosen(kit, Item("4", "Who?", ("zebra",))) == []


def test_passages_cover_every_word_of_the_references_that_any_has(kit) -> None:
    item = Item("1", "Who?", ("Ada, Cyril and Gus saw many zebras on day 7",))
    had = frozenset().union(*(stems(text) for text in chosen(kit, item)))
    assert stems(item.answers[0]) & had == stems(item.answers[0]) & stems(DOCUMENT.text)


def test_an_item_without_an_answer_has_its_evidence_or_what_is_nearest_to_the_question(kit) -> None:
    at = DOCUMENT.text.index("Fay")
    assert "Fay" in chosen(kit, Item("1", "Who sang?", (), evidence=((at, at + 3),)))[0]
    [nearest] = chosen(kit, Item("2", "What did Cyril sing?", ()))
    assert "Cyril" in nearest


def test_the_budget_holds_for_evidence_too(kit) -> None:
    item = Item("1", "Who?", ("Ada",), evidence=((0, len(DOCUMENT.text)),))
    case = Case("c", DOCUMENT, (item,))
    with Oracle().laid(kit, case, [item]) as whole, Oracle(positions=25).laid(kit, case, [item]) as part:
        assert len(whole.prompts[0]) - len(part.prompts[0]) == len(kit.decoder.tokens(DOCUMENT.text)) - 25
    assert [Oracle().label, Oracle(ratio=16).label, Oracle(passages=1).label] == [
        "oracle",
        "oracle 16x",
        "oracle 1 x 240",
    ]


def test_it_says_how_it_cheats_and_has_nothing_to_say_of_running_text(kit) -> None:
    assert any("reference" in caveat for caveat in Oracle().caveats(kit))
    with pytest.raises(Unfit):
        Oracle().losses(kit, Stretch("s", "s", "", (4, 5), (6,), (7,)))


@pytest.fixture(scope="module")
def shared_kit(tiny_decoder, tmp_path_factory):
    """One for all examples, because hypothesis wants no fixture of a single function."""
    from preread.eval.kit import Kit

    folder = tmp_path_factory.mktemp("kit")
    return Kit(tiny_decoder("llama"), folder, folder)
