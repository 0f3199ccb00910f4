"""LLoCO's claim at small size: a document 32 times the window is answered from memory, and what is left out is said."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from preread.collection.settings import Settings
from preread.collection.stamps import stamp
from preread.core.errors import UsageError

from ..conftest import SHORT, story

WINDOW = 256


def asked(open_library, tmp_path, ratio, tokens, window=WINDOW):
    """A document of at least so many tokens, asked of a collection of that ratio; the collection and the answer."""
    settings = Settings("tiny", options={"ratio": ratio}, passage_tokens=80, window=window)
    collection = open_library().collection(f"sea-{ratio}", settings)
    path = tmp_path / "log.md"
    sentence = len(collection.decoder.tokens(story("schooner", 100))) // 100
    path.write_text(story("schooner", tokens // sentence + 20), encoding="utf-8")
    entry = collection.add(path).entry
    assert entry.tokens >= tokens
    return collection, collection.ask("What met storm number 350?", sampling=SHORT), entry


def adds_up(answer, entry):
    [read] = answer.read
    assert read.text.tokens + read.memory.tokens + read.unread.tokens == entry.tokens
    return read


def test_a_document_of_many_windows_is_read_whole_where_its_memory_fits(open_library, tmp_path):
    collection, answer, entry = asked(open_library, tmp_path, 40.0, 16 * WINDOW)
    assert collection.decoder.window == WINDOW
    assert answer.usage.tokens_read <= WINDOW
    read = adds_up(answer, entry)
    assert (read.memory.tokens, read.unread.tokens) == (entry.tokens, 0), "all of it was read"
    assert not any("best passages" in note for note in answer.notes)


def test_of_a_document_of_32_windows_all_of_the_window_is_used_and_the_rest_named(open_library, tmp_path):
    """At 30x such a document takes more positions than there are."""
    _, answer, entry = asked(open_library, tmp_path, 30.0, 32 * WINDOW)
    assert entry.tokens / 30 > WINDOW
    read = adds_up(answer, entry)
    assert read.unread.tokens > 0
    assert read.unread.places, "what was left out is named"
    one = 80 // 30 + 1  # positions of a passage
    room = WINDOW - SHORT.max_tokens
    assert room - one < answer.usage.tokens_read <= room, "not one more memory would fit"
    told = re.search(r"only (\d+) of (\d+) passages fit", " ".join(answer.notes))
    assert int(told[1]) < int(told[2]) == entry.passages, "of all, not of those that a search looks at"


def test_what_is_left_out_is_furthest_from_the_question(open_library, tmp_path):
    _, answer, _ = asked(open_library, tmp_path, 30.0, 32 * WINDOW)
    assert "350" in answer.citations[0].text
    [read] = answer.read
    assert read.memory.tokens > 0


def test_memories_do_not_depend_on_the_window(open_library, tmp_path):
    """So none is made again where it changes, and what was made before there was one is as valid as ever."""
    narrow = Settings("default", window=WINDOW)
    assert stamp(vars(narrow)) == stamp({k: v for k, v in vars(narrow).items() if k != "window"})
    collection, _, _ = asked(open_library, tmp_path, 30.0, 4 * WINDOW)
    whole = open_library().collection("whole", replace(collection.settings, window=None))
    assert collection.handle("lloco").producer("passage") == whole.handle("lloco").producer("passage")


def test_a_window_past_the_decoders_is_refused(open_library, log):
    wide = open_library().collection("wide", Settings("tiny", window=10**6))
    with pytest.raises(UsageError, match="a window of 1 to"):
        wide.add(log)
