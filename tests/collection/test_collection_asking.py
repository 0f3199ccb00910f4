"""Every answer says whose documents were asked, what of them was read, and whether they hold an answer at all."""

from __future__ import annotations

import json

import pytest

from preread import render
from preread.collection.memories import Memories
from preread.collection.settings import Settings
from preread.core.errors import UsageError
from preread.core.types import Sampling, Turn
from preread.retrieval.relevance import calibration

from ..conftest import SETTINGS, SHORT, story

HELD = "What met the storm number 35 on day 5?"
NOT_HELD = "Which enzyme splits lactose?"


@pytest.fixture
def add(tmp_path):
    """Put a text into a collection under a file name."""

    def put(collection, name, text):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return collection.add(path).entry

    return put


@pytest.fixture
def library(open_library, add):
    made = open_library()
    for name in ("schooner", "submarine"):
        add(made.collection(name, SETTINGS), f"{name}.md", story(name))
    kitchen = "Rye bread needs a sourdough, a hot oven and six hours.\n\nA roux of butter thickens every sauce.\n"
    add(made.collection("kitchen", SETTINGS), "kitchen.md", kitchen)
    return made


def chapters(count, sentences=6):
    """A document of sections, each larger than a passage."""
    return "\n\n".join(
        f"# Chapter {c}\n\n" + " ".join(f"On day {c}{i} the brig met wind {i} off cape {c}." for i in range(sentences))
        for c in range(count)
    )


def reads_all(collection, answer):
    """The three parts of each document are all of it, and every document is there."""
    entries = {entry.source: entry for entry in collection.documents()}
    assert {read.source for read in answer.read} == entries.keys()
    for read in answer.read:
        assert read.text.tokens + read.memory.tokens + read.unread.tokens == entries[read.source].tokens
        assert all(bool(part.tokens) == bool(part.places) for part in (read.text, read.memory, read.unread))
    assert sum(read.text.tokens + read.memory.tokens for read in answer.read) == answer.usage.tokens_of_source
    frame = answer.usage.tokens_read - sum(read.positions for read in answer.read)
    assert 0 < frame < 400


@pytest.mark.parametrize("method", ["text", "lloco"])
@pytest.mark.parametrize("mode", ["document", "passages"])
def test_what_was_read_and_what_was_not_make_up_the_collection(collection, add, method, mode):
    for number in range(3):
        add(collection, f"book-{number}.md", chapters(8).replace("brig", f"ship-{number}"))
    answer = collection.ask("What did ship-1 meet off cape 3?", method, mode, 2, SHORT)
    reads_all(collection, answer)
    first = answer.read[0]
    how = first.text if method == "text" else first.memory
    assert how.tokens > 0 == (first.memory if method == "text" else first.text).tokens
    if mode == "document":
        assert (how.places, first.unread.places) == ("all", "")
    else:
        assert how.places.startswith("section")
        assert "Chapter 7" in first.unread.places
    shown = render.sources(answer)
    assert f"as {'text' if method == 'text' else 'memory'}: {first.title}" in shown
    assert "not read: " in shown
    unread = sum(read.unread.tokens for read in answer.read if not read.positions)
    assert f"documents ({unread:,} tokens)" in shown


def test_several_documents_in_one_context_and_a_document_without_marks(collection, add):
    add(collection, "a.txt", "The brig met a storm. " * 20 + "A lamp burned. " * 20)
    add(collection, "b.txt", "The brig met a whale. " * 20 + "A bell rang. " * 20)
    answer = collection.ask("What did the brig meet?", "text", "passages", 4, SHORT)
    reads_all(collection, answer)
    assert {read.source[-5:] for read in answer.read if read.positions} == {"a.txt", "b.txt"}
    assert all(read.text.places.startswith("characters ") for read in answer.read if read.unread.tokens)


def test_a_fall_back_says_which_parts_it_left_out(collection, add):
    entry = add(collection, "long.md", chapters(60, 12))
    assert entry.tokens > collection.decoder.window
    answer = collection.ask("What did the brig meet off cape 40?", "text", "document", 3, SHORT)
    reads_all(collection, answer)
    [read] = answer.read
    assert read.unread.tokens > entry.tokens - collection.decoder.window
    assert "Chapter 40" in read.text.places
    assert any("best passages were read" in note for note in answer.notes)
    assert "not read: long" in render.sources(answer) or "not read: Chapter" in render.sources(answer)


def test_a_question_goes_to_the_collection_that_holds_it(library):
    for question, home in (
        (HELD.replace("What", "Which submarine"), "submarine"),
        ("What does rye bread need?", "kitchen"),
    ):
        answer = library.ask(question, sampling=SHORT)
        assert answer.collection == answer.route.collection == home
        assert answer.relevance == answer.route.relevance > answer.route.runner_up_relevance
        assert {cited.source.rpartition("/")[2] for cited in answer.citations} == {f"{home}.md"}
        assert f"collection {home}: relevance" in render.sources(answer)
        alone = library.collection(home).ask(question, sampling=SHORT)
        assert (alone.text, alone.relevance, alone.route) == (answer.text, answer.relevance, None)


def test_each_collection_answers_by_its_own_settings(open_library, add, decoders, tiny_decoder):
    decoders["other"] = tiny_decoder("qwen2")
    library = open_library()
    add(library.collection("sea", SETTINGS), "sea.md", story("schooner"))
    add(library.collection("land", Settings("other", "text", passage_tokens=80)), "land.md", story("wagon"))
    assert library.ask("What did the schooner meet?", sampling=SHORT).method == "lloco"
    assert library.ask("What did the wagon meet?", sampling=SHORT).method == "text"
    assert library.opened("land").decoder is decoders["other"]
    assert library.opened("land") is library.opened("land")


def test_one_collection_is_no_choice(open_library, add):
    library = open_library()
    add(library.collection("sea", SETTINGS), "sea.md", story("schooner"))
    answer = library.ask(NOT_HELD, sampling=SHORT)
    assert (answer.collection, answer.route) == ("sea", None)


def test_what_is_not_held_is_said_before_the_answer(library):
    said = []
    known, doubtful = library.ask(HELD, sampling=SHORT), library.ask(NOT_HELD, sampling=SHORT, on_doubt=said.append)
    threshold = calibration("word-counts").threshold
    assert known.relevance >= threshold > doubtful.relevance
    assert known.doubt == ""
    assert [doubtful.doubt] == said
    assert "do not seem to hold" in doubtful.doubt
    assert f"{threshold:.2f}" in doubtful.doubt
    assert doubtful.finish in ("stop", "length")
    assert render.answer(doubtful).startswith(doubtful.doubt)


def test_strict_withholds_and_loads_no_decoder(library, monkeypatch):
    monkeypatch.setattr("preread.library.Library.decoder", lambda *_: pytest.fail("a decoder was loaded"))
    collection = library.collection("kitchen")
    pieces = []
    answer = collection.ask(NOT_HELD, strict=True, on_text=pieces.append)
    assert (answer.text, answer.finish, pieces) == ("", "withheld", [])
    assert answer.citations
    assert all(read.unread.tokens and not read.positions for read in answer.read)
    assert sum(read.unread.tokens for read in answer.read) == sum(entry.tokens for entry in collection.documents())


def test_strict_changes_nothing_where_the_documents_hold_it(library):
    relaxed, strict = (library.ask(HELD, sampling=SHORT, strict=strict) for strict in (False, True))
    assert (relaxed.text, relaxed.finish, relaxed.citations) == (strict.text, strict.finish, strict.citations)


def test_turns_before_a_question_are_read_and_no_history_changes_nothing(collection, log):
    collection.add(log)
    bare = collection.ask(HELD, sampling=SHORT)
    assert collection.ask(HELD, sampling=SHORT, history=[]).text == bare.text
    turn = Turn("Who kept the lighthouse?", "A keeper did.")
    later = collection.ask(HELD, sampling=SHORT, history=[turn])
    handle = collection.handle("lloco")
    grown = len(handle.prompt(HELD, [], history=[turn])) - len(handle.prompt(HELD, []))
    assert later.usage.tokens_read == bare.usage.tokens_read + grown
    assert not any("left out" in note for note in later.notes)


@pytest.mark.parametrize(("method", "mode"), [("text", "document"), ("text", "passages"), ("lloco", "document")])
def test_the_oldest_turns_make_room_for_the_documents(collection, log, method, mode):
    collection.add(log)
    history = [Turn(f"What of day {i}? " * 8, f"The storm of day {i}. " * 8) for i in range(20)]
    answer = collection.ask(HELD, method, mode, 3, SHORT, history=history)
    bare = collection.ask(HELD, method, mode, 3, SHORT)
    assert answer.usage.tokens_of_source == bare.usage.tokens_of_source, "no document gave way to a turn"
    assert answer.usage.tokens_read <= collection.decoder.window - SHORT.max_tokens
    [note] = [note for note in answer.notes if "earlier turns" in note]
    dropped = int(note.split()[0])
    assert 0 < dropped < 20
    handle = collection.handle(method)
    one_more = len(handle.prompt(HELD, [], history=history[dropped - 1 :])) - len(handle.prompt(HELD, []))
    assert bare.usage.tokens_read + one_more > collection.decoder.window - SHORT.max_tokens, "none was dropped in vain"


def test_where_the_documents_fill_the_window_turns_keep_a_quarter_of_it(collection, add):
    add(collection, "long.md", chapters(60, 12))
    history = [Turn(f"And off cape {i}?", "The wind. " * 10) for i in range(40)]
    answer = collection.ask("What did the brig meet off cape 40?", "text", "document", 3, SHORT, history=history)
    window = collection.decoder.window
    read = answer.usage.tokens_of_source
    assert window // 2 < read < window * 3 // 4
    assert answer.usage.tokens_read <= window - SHORT.max_tokens
    assert any("earlier turns" in note for note in answer.notes)


def test_a_conversation_keeps_its_context_in_front(collection, log, monkeypatch):
    """What two turns share stands first, so that what was computed of it can be kept."""
    collection.add(log)
    prompts = []
    generate = collection.engine.generate

    def watched(asked, sampling, *rest):
        prompts.extend(asked)
        return generate(asked, sampling, *rest)

    monkeypatch.setattr(collection.engine, "generate", watched)
    first = collection.ask(HELD, sampling=SHORT)
    collection.ask("And on day 6?", sampling=SHORT, history=[Turn(HELD, first.text)])
    a, b = prompts
    assert a.shared == b.shared > 0
    assert a.ids[: a.shared].tolist() == b.ids[: b.shared].tolist()


def test_an_answer_is_whole_in_json(library):
    from dataclasses import asdict

    plain = json.loads(json.dumps(asdict(library.ask(HELD, sampling=Sampling(max_tokens=2)))))
    assert plain["read"][0]["memory"]["places"] == "all"
    assert plain["route"]["collection"] == plain["collection"]


@pytest.mark.parametrize("mode", ["document", "passages"])
def test_no_passages_are_none_to_ask_for(collection, log, mode):
    collection.add(log)
    with pytest.raises(UsageError, match="0 passages"):
        collection.ask(HELD, mode=mode, k=0)


def test_what_is_forgotten_while_a_decoder_loads_is_not_answered_from(collection, log, monkeypatch):
    collection.add(log)
    handle = collection.handle

    def forget_first(method):
        collection.forget(log)
        return handle(method)

    monkeypatch.setattr(collection, "handle", forget_first)
    with pytest.raises(UsageError, match="forgotten meanwhile"):
        collection.ask(HELD, sampling=SHORT)


def test_another_method_than_the_collections_makes_its_memories_for_the_answer(collection, add):
    """Of what it reads alone, unless they are in the store already; and nothing more is stored."""
    entry = add(collection, "book.md", chapters(8))
    stored = collection.store.stored("sea")
    best = collection.ask("What did the brig meet off cape 3?", "kv", k=2, sampling=SHORT)
    reads_all(collection, best)
    assert "sea keeps memories of lloco: 2 of kv were made for this once" in best.notes
    assert 0 < best.usage.tokens_of_source < entry.tokens
    whole = collection.ask("What did the brig meet off cape 3?", "kv", "document", sampling=SHORT)
    assert whole.usage.tokens_of_source == entry.tokens
    assert collection.store.stored("sea") == stored
    passages = [stored.passage for stored in collection.store.passages("sea", entry.source)]
    Memories(collection.store, collection.handle("kv")).make(passages, "passage")
    again = collection.ask("What did the brig meet off cape 3?", "kv", "document", sampling=SHORT)
    assert (again.text, again.usage.tokens_read) == (whole.text, whole.usage.tokens_read)
    assert not any("for this once" in note for note in again.notes)


def test_keys_and_values_are_put_to_passages_unless_told_otherwise_and_say_when_they_are_many(
    collection, add, monkeypatch
):
    entry = add(collection, "book.md", chapters(8))
    monkeypatch.setattr("preread.methods.kv.method.SIDE_BY_SIDE", 3)
    few = collection.ask("What did the brig meet off cape 3?", "kv", k=2, sampling=SHORT)
    assert 0 < few.usage.tokens_of_source < entry.tokens
    many = collection.ask("What did the brig meet off cape 3?", "kv", "document", sampling=SHORT)
    assert [note for note in many.notes if "side by side" in note]
    assert not [note for note in few.notes if "side by side" in note]
