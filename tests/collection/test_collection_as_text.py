"""Passages that stay text: kept and forgotten with their document, and read as text beside the memory of the rest."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from preread import render
from preread.collection.as_text import AsText
from preread.collection.settings import Settings
from preread.collection.states import statuses
from preread.core.types import MEMORY, Sampling
from preread.library import Library

from ..conftest import SETTINGS, SHORT, story

HELD = "What met the storm number 35 on day 5?"
RECURSIVE = replace(SETTINGS, options={"ratio": 4.0, "segments": "recursive", "segment_tokens": 200})
KV = Settings(model="tiny", method="kv", options={"ratio": 4.0}, passage_tokens=80)
CEPE = Settings("tiny", "cepe", {"moved": 0, "shape": {"begin": "copied", "encoder": {"layers": 1}}}, passage_tokens=80)
EACH = {"lloco": SETTINGS, "recursive": RECURSIVE, "kv": KV, "cepe": CEPE}
METHODS = pytest.mark.parametrize("settings", EACH.values(), ids=EACH)


@pytest.fixture
def of(open_library, tmp_path):
    """A collection of two documents, by its settings."""

    def make(settings: Settings = SETTINGS):
        collection = open_library().collection("sea", settings)
        for name in ("schooner", "brig"):
            path = tmp_path / f"{name}.md"
            path.write_text(story(name, 20), encoding="utf-8")
            collection.add(path)
        return collection

    return make


@pytest.fixture
def prompts(monkeypatch):
    """Every prompt that a collection's engine is given."""

    def watch(collection):
        seen, generate = [], collection.engine.generate

        def watched(asked, sampling, *rest):
            seen.extend(asked)
            return generate(asked, sampling, *rest)

        monkeypatch.setattr(collection.engine, "generate", watched)
        return seen

    return watch


def marked(collection, *numbers, name="schooner"):
    """Have passages of a document stay text."""
    entry = next(entry for entry in collection.documents() if name in entry.source)
    AsText(collection.store, collection.name).mark([(entry, numbers)])
    return entry


def parts(answer, name="schooner"):
    return next(read for read in answer.read if name in read.source)


@METHODS
@pytest.mark.parametrize("mode", ["document", "passages", None])
def test_what_is_found_and_stays_text_is_read_as_text_and_the_rest_as_memory(of, prompts, settings, mode):
    collection = of(settings)
    plain = collection.ask("What met the schooner on day 5?", mode=mode, sampling=SHORT)
    cited = next(one for one in plain.citations if "schooner" in one.source)
    stored = [one.passage for one in collection.store.passages("sea", cited.source)]
    stays = next(passage for passage in stored if passage.start == cited.start)
    entry = marked(collection, stays.index)
    seen = prompts(collection)
    mixed = collection.ask("What met the schooner on day 5?", mode=mode, sampling=SHORT)
    read = parts(mixed)
    assert read.text.tokens == len(stays.ids)
    assert read.memory.tokens == parts(plain).memory.tokens - len(stays.ids)
    assert read.text.tokens + read.memory.tokens + read.unread.tokens == entry.tokens
    assert mixed.usage.tokens_of_source == plain.usage.tokens_of_source
    [prompt] = seen
    words = list(stays.ids)
    ids = prompt.ids.tolist()
    assert any(ids[at : at + len(words)] == words for at in range(len(ids)))
    assert MEMORY in ids or prompt.states is not None
    assert sum(one.positions for one in mixed.read) < len(prompt)
    assert any("1 of the passages that were found stay text" in note for note in mixed.notes)
    assert "as text: " in render.sources(mixed)
    assert "as memory: " in render.sources(mixed)


@METHODS
def test_what_stays_text_and_is_not_found_costs_nothing(of, settings):
    collection = of(settings)
    before = collection.ask(HELD, k=1, sampling=SHORT)
    entry = next(entry for entry in collection.documents() if entry.source == before.citations[0].source)
    stored = [one.passage for one in collection.store.passages("sea", entry.source)]
    others = [passage.index for passage in stored if passage.start != before.citations[0].start]
    AsText(collection.store, "sea").mark([(entry, others)])
    after = collection.ask(HELD, k=1, sampling=SHORT)
    assert (after.text, after.usage.tokens_read, after.read) == (before.text, before.usage.tokens_read, before.read)


def test_text_where_all_is_text_anyway_changes_nothing(of):
    collection = of()
    before = collection.ask(HELD, "text", sampling=SHORT)
    marked(collection, *range(4))
    after = collection.ask(HELD, "text", sampling=SHORT)
    assert (after.text, after.read, after.notes) == (before.text, before.read, before.notes)


def test_marks_are_of_one_version_of_a_document_and_outlast_the_process(of, tmp_path):
    collection = of()
    entry = marked(collection, 1, 2)
    again = AsText(Library(tmp_path / "library").store, "sea")
    assert again.places() == {(entry.hash, 1), (entry.hash, 2)}
    assert AsText(collection.store, "sea").mark([(replace(entry, hash="another"), [0])]) == 0, "it is not held"
    assert again.places() == {(entry.hash, 1), (entry.hash, 2)}
    path = tmp_path / "schooner.md"
    path.write_text(story("schooner", 21), encoding="utf-8")
    collection.add(path)
    assert sum(status.as_text for status in statuses(collection.store)) == 0
    assert parts(collection.ask(HELD, mode="document", sampling=SHORT)).text.tokens == 0


def test_marks_of_one_document_leave_those_of_others_and_are_cleared(of):
    collection = of()
    first, second = marked(collection, 0), marked(collection, 1, name="brig")
    marked(collection, 2)
    held = AsText(collection.store, "sea")
    assert held.places() == {(first.hash, 2), (second.hash, 1)}
    assert held.clear([first.source]) == 1
    assert held.places() == {(second.hash, 1)}
    assert held.clear(None) == 1
    assert held.places() == frozenset()
    assert collection.store.settings("sea").keys() >= {"settings", "adapters"}, "nothing else went"


def test_forgetting_a_document_leaves_no_mark_of_it(of):
    collection = of()
    gone, kept = marked(collection, 0, 1), marked(collection, 3, name="brig")
    receipt = collection.forget(gone.source)
    assert receipt.searched > 0
    assert AsText(collection.store, "sea").places() == {(kept.hash, 3)}
    files = [file for file in collection.library.path.rglob("*") if file.is_file()]
    assert not [file for file in files if gone.hash.encode() in file.read_bytes()]


def test_a_document_with_marks_is_listed_with_them(of):
    collection = of()
    entry = marked(collection, 0, 2)
    rows = {status.source: status.as_text for status in statuses(collection.store)}
    assert rows[entry.source] == 2
    assert sum(rows.values()) == 2
    assert ", 2 as text" in render.statuses(statuses(collection.store))


@METHODS
def test_hybrid_reads_both_in_no_more_positions_than_the_passages_take_as_text(of, settings):
    collection = of(settings)
    text = collection.ask("What met the schooner on day 5?", "text", "passages", 4, SHORT)
    mixed = collection.ask("What met the schooner on day 5?", None, "hybrid", 4, SHORT)
    assert 0 < mixed.usage.tokens_read <= text.usage.tokens_read
    read = [(one.text.tokens, one.memory.tokens) for one in mixed.read]
    as_text, as_memory = map(sum, zip(*read, strict=True))
    assert min(as_text, as_memory) > 0
    assert mixed.usage.tokens_of_source > text.usage.tokens_of_source, "wider than the text alone"
    best = text.citations[0]
    assert mixed.citations[0].start == best.start
    assert any("as text, others as memory" in note for note in mixed.notes)


def test_hybrid_of_a_method_without_memories_is_its_passages(of):
    collection = of()
    hybrid, passages = (collection.ask(HELD, "text", mode, 3, SHORT) for mode in ("hybrid", "passages"))
    assert (hybrid.text, hybrid.read, hybrid.notes) == (passages.text, passages.read, passages.notes)


def test_hybrid_goes_with_turns_before_it_and_into_json(of):
    from dataclasses import asdict

    from preread.core.types import Turn

    collection = of()
    answer = collection.ask(HELD, None, "hybrid", 3, Sampling(max_tokens=2), history=[Turn("And?", "So.")])
    plain = json.loads(json.dumps(asdict(answer)))
    assert plain["read"][0]["text"]["tokens"] > 0 < plain["read"][0]["memory"]["tokens"]
