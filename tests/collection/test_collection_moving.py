"""What a question attends to most is read as text and cited first, while there is room for it."""

from __future__ import annotations

import pytest

from preread import render
from preread.collection.settings import Settings
from preread.core.types import Sampling, Turn

from ..conftest import SHORT, story

HELD = "What met the storm number 35 on day 5?"
SHAPE = {"begin": "copied", "encoder": {"layers": 1}}


@pytest.fixture
def of(open_library, tmp_path):
    """A collection of two documents, with so many passages moved."""

    def make(moved, window=None):
        settings = Settings("tiny", "cepe", {"moved": moved, "shape": SHAPE}, 80, window)
        collection = open_library().collection(f"sea{window or ''}", settings)
        for ship in ("schooner", "brig"):
            path = tmp_path / f"{ship}.md"
            path.write_text(story(ship, 20), encoding="utf-8")
            collection.add(path)
        return collection

    return make


@pytest.fixture
def asked(monkeypatch):
    """Ask, with the prompt that the engine was given."""

    def ask(collection, mode=None, k=4, sampling=SHORT, **rest):
        seen, generate = [], collection.engine.generate

        def watched(prompts, *others):
            seen.extend(prompts)
            return generate(prompts, *others)

        with monkeypatch.context() as patch:
            patch.setattr(collection.engine, "generate", watched)
            answer = collection.ask(HELD, None, mode, k, sampling, **rest)
        return answer, seen[0]

    return ask


def shares(collection, prompt_of, passages):
    """The shares of all passages, as the handle itself gives them."""
    handle = collection.handle("cepe")
    memories = list(handle.encode(passages))
    return handle.moving(handle.prompt(prompt_of, memories), memories)


@pytest.mark.parametrize("mode", [None, "document"])
def test_the_passages_that_are_attended_to_most_stand_in_the_prompt_and_are_cited_first(of, asked, mode):
    collection = of(2)
    answer, prompt = asked(collection, mode)
    source = answer.citations[0].source
    passages = [stored.passage for stored in collection.store.passages("sea", source)]
    expected = shares(collection, HELD, passages)
    assert [(cited.start, cited.score) for cited in answer.citations[:2]] == [
        (passages[number].start, pytest.approx(share)) for number, share in expected.items()
    ]
    assert len({cited.start for cited in answer.citations}) == len(answer.citations) <= 4
    read = answer.read[0]
    moved = sum(len(passages[number].ids) for number in expected)
    assert (read.text.tokens, read.positions) == (moved, moved)
    assert len(prompt.states) == read.memory.tokens == sum(len(p.ids) for p in passages) - moved
    text = " ".join(map(str, prompt.ids.tolist()))
    places = [text.index(" ".join(map(str, passages[number].ids))) for number in sorted(expected)]
    assert places == sorted(places), "in the order of the document"
    assert any("attends to most" in note for note in answer.notes)


def test_of_the_best_passages_too(of, asked):
    collection = of(1)
    answer, prompt = asked(collection, "passages")
    [read, *_] = [one for one in answer.read if one.positions]
    cited = answer.citations[0]
    assert cited.source == read.source
    assert read.text.tokens == read.positions > 0
    assert len(answer.citations) == 4, "those that were found, of which one moved"
    assert len({(one.source, one.start) for one in answer.citations}) == 4
    memory = sum(one.memory.tokens for one in answer.read)
    assert len(prompt.states) == memory > 0


def test_none_moves_where_none_is_to_or_none_fits(of, asked):
    collection = of(0)
    answer, prompt = asked(collection)
    assert not any("attends" in note for note in answer.notes)
    assert answer.read[0].positions == 0
    assert len(prompt.states) == answer.read[0].memory.tokens
    shown = render.sources(answer)
    assert f"as memory: {answer.read[0].title}, all" in shown, "though it takes no position"
    short, tight = asked(of(2, window=len(prompt) + 60))
    assert (short.read[0].positions, len(tight.states)) == (0, len(prompt.states))


def test_a_follow_up_is_heard_with_the_questions_before_it(of, asked):
    collection = of(2)
    answer, _ = asked(collection, sampling=Sampling(2), history=[Turn("Where was the brig?", "At sea.")])
    passages = [stored.passage for stored in collection.store.passages("sea", answer.citations[0].source)]
    expected = shares(collection, f"Where was the brig?\n{HELD}", passages)
    assert [cited.score for cited in answer.citations[:2]] == [pytest.approx(share) for share in expected.values()]
