"""Memory and text together: as many positions as memory or retrieval alone, in document order, the best as text."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from preread.core.errors import UsageError
from preread.core.memory import Memory, Producer
from preread.core.types import MEMORY, Document, Passage
from preread.eval.answerers.hybrid import Hybrid, mixed
from preread.eval.answerers.memory import Remembered
from preread.eval.answerers.plain import Full
from preread.eval.answerers.retrieved import Retrieved
from preread.eval.case import Case, Item
from tests.conftest import WordCounts

SHAPE = {"max_summary": 64, "lora": {"rank": 2}}
READER = {"moved": 0, "fresh": True, "shape": {"begin": "copied", "encoder": {"layers": 1}}}
SENTENCES = ("The keeper of the lighthouse slept.", "In winter the storm reached the island.", "The lamp burned.")
TALE = Document("a", "a", "\n\n".join(f"{number}: {SENTENCES[number % 3]} " * 12 for number in range(9)))
ITEMS = (Item("1", "Who slept?", ("The keeper", "he")), Item("2", "What burned in 5?", ("the lamp",)))
CASE = Case("a", TALE, ITEMS)
METHODS = pytest.mark.parametrize(
    ("method", "settings"), [("kv", {"ratio": 16}), ("lloco", {"ratio": 16, "shape": SHAPE})], ids=["kv", "lloco"]
)
MAKER = Producer("made", "base", "", "{}", "float32")


class Plain:
    """Text of a passage as the text method has it, without a decoder."""

    @staticmethod
    def encode(passages):
        return iter([memory_of(p, {"ids": torch.tensor(p.ids, dtype=torch.int32)}) for p in passages])


def memory_of(passage, tensors):
    return Memory(MAKER, "passage", str(passage.index), len(passage.ids), tensors)


@pytest.fixture
def kit(kit_of, tiny_decoder):
    kit = kit_of(tiny_decoder("llama"))
    kit.__dict__["embedder"] = WordCounts()
    assert len(kit.passages(TALE)) > 4
    return kit


def answered(answerer, kit):
    return answerer.respond(kit, CASE, 2).responses


@given(st.data())
def test_a_budget_is_used_to_the_last_position_and_the_best_are_text(data):
    lengths = data.draw(st.lists(st.integers(2, 30), min_size=1, max_size=8))
    sizes = [data.draw(st.integers(1, length - 1)) for length in lengths]
    ranks = data.draw(st.permutations(range(len(lengths))))
    budget = data.draw(st.integers(0, sum(lengths) + 5))
    passages = [Passage("d", i, tuple(100 * i + t for t in range(n)), 0, 0, "", "", 0) for i, n in enumerate(lengths)]
    memories = [memory_of(p, {"embeds": torch.zeros(n, 2)}) for p, n in zip(passages, sizes, strict=True)]
    read = mixed([passages[i] for i in ranks], memories, Plain(), budget)

    taken = sum(memory.positions for memory in read)
    assert taken <= budget
    places = [int(memory.source) for memory in read]
    assert places == sorted(places), "in the order of the document"
    texts = {int(memory.source): memory.plain.tolist() for memory in read if memory.plain is not None}
    kept = [int(memory.source) for memory in read if memory.plain is None]
    assert len(set(kept)) == len(kept)
    assert list(ranks[: len(texts)]) == sorted(texts, key=ranks.index), "the best are text, and no others"
    for index, ids in texts.items():
        assert ids == list(passages[index].ids)[: len(ids)]
    assert sum(len(ids) < lengths[index] for index, ids in texts.items()) <= 1, "one is cut at most"
    if budget >= sum(sizes):
        assert {*texts, *kept} == set(range(len(lengths))), "every passage is read"
        assert taken == min(budget, sum(lengths))


def test_memories_that_fill_the_budget_stand_alone():
    passages = [Passage("d", i, tuple(range(8)), 0, 0, "", "", 0) for i in range(3)]
    memories = [memory_of(passage, {"embeds": torch.zeros(2, 2)}) for passage in passages]
    assert mixed(passages, memories, Plain(), 6) == memories


@METHODS
def test_positions_are_those_of_retrieved_text_and_about_those_of_memory(kit, method, settings):
    answerer = Hybrid(method, settings, ratio=4)
    mine = answerer.respond(kit, CASE, 2).responses
    retrieved = Retrieved(ratio=4).respond(kit, CASE, 2).responses
    memory = Remembered(method, {**settings, "ratio": 4}).respond(kit, CASE, 2).responses
    slack = len(kit.passages(TALE))
    for one, text, alone in zip(mine, retrieved, memory, strict=True):
        assert one.positions == text.positions
        assert 0 <= alone.positions - one.positions < slack, "a memory of each passage is rounded up"


@METHODS
def test_a_budget_of_the_whole_text_is_the_full_text(kit, method, settings):
    hybrid = Hybrid(method, settings, ratio=1).respond(kit, CASE, 4).responses
    full = Full().respond(kit, CASE, 4).responses
    for one, other in zip(hybrid, full, strict=True):
        assert (one.answer, one.positions) == (other.answer, other.positions)
        assert [r.nats for r in one.references] == pytest.approx([r.nats for r in other.references], rel=1e-5)


@METHODS
def test_memory_and_text_of_the_best_passages_stand_in_one_prompt(kit, method, settings):
    with Hybrid(method, settings, ratio=4).laid(kit, CASE, ITEMS) as layout:
        for prompt in layout.prompts:
            assert int((prompt.ids == MEMORY).sum()) > 0
            assert int((prompt.ids != MEMORY).sum()) > 0.5 * sum(len(p.ids) for p in kit.passages(TALE)) / 4


def test_beside_the_decoder_the_prompt_is_that_of_the_found_passages(kit):
    hybrid, retrieved = Hybrid("cepe", READER, passages=2), Retrieved(passages=2)
    with hybrid.laid(kit, CASE, ITEMS) as mine, retrieved.laid(kit, CASE, ITEMS) as found:
        assert [prompt.ids.tolist() for prompt in mine.prompts] == [prompt.ids.tolist() for prompt in found.prompts]
    for one, other in zip(answered(hybrid, kit), answered(retrieved, kit), strict=True):
        assert one.positions == other.positions
        assert one.references[0].nats != other.references[0].nats, "the states of the others are read"


@METHODS
def test_passages_are_a_budget_too(kit, method, settings):
    two, every = (Hybrid(method, settings, passages=count) for count in (2, 99))
    found, full = Retrieved(passages=2), Full()
    assert [one.positions for one in answered(two, kit)] == [one.positions for one in answered(found, kit)]
    assert [one.answer for one in answered(every, kit)] == [one.answer for one in answered(full, kit)]
    assert two.label.endswith("+ text, 2 passages in all")


def test_what_changes_its_answers_changes_its_key(kit):
    one = Hybrid("kv", {"ratio": 16}, 4)
    keys = [
        answerer.key(kit)
        for answerer in (
            one,
            replace(one, ratio=8.0),
            replace(one, ratio=None, passages=4),
            Hybrid("kv", {"ratio": 30}, 4),
        )
    ]
    assert len(set(keys)) == 4
    assert Remembered("kv", {"ratio": 16}).key(kit) in keys[0]
    assert one.label == "kv 16x + text, 4x in all"


def test_it_needs_memories_and_one_budget():
    good = {"method": "kv", "settings": {"ratio": 16}, "ratio": 4}
    for wrong in (
        {"method": "text", "settings": {}},
        {"method": "paper"},
        {"settings": {"rate": 1}},
        {"ratio": 0.5},
        {"ratio": None},
        {"passages": 2},
        {"ratio": None, "passages": 0},
    ):
        with pytest.raises(UsageError):
            Hybrid(**{**good, **wrong})
    Hybrid(**good)
