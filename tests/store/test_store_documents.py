"""What goes in comes out, as wholes, for any name, and only where it belongs."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preread.core.errors import FingerprintMismatch, IntegrityError, UsageError
from preread.core.types import sha256
from preread.store.store import Store

WIDTH = 8
HOSTILE = [
    "o'brien",
    'a"b',
    "x'; DROP TABLE passages; --",
    "' OR '1'='1",
    "\\",
    "\\'",
    "%",
    "_",
    "`text`",
    "true",
    "NULL",
    " ",
    "a\nb",
    "\x00",
    "../../etc/passwd",
    "日本語 \U0001f600",
    "e\u0301",
    "\u00e9",
]


def test_a_document_comes_back_bit_for_bit(store: Store, make_document, vectors_of) -> None:
    before = datetime.now(UTC)
    document, passages = make_document("a.pdf", ["The lamp burned. ", "Nobody\tslept.\n", "Ünïcödé 日本 \U0001f600"])
    keys = [{"lloco": sha256("memory", passage.text), "text": sha256("t")} for passage in passages]
    contents = {key: bytes([i]) * 1000 for i, key in enumerate(sorted({key for own in keys for key in own.values()}))}
    store.put(contents)
    store.commit("c", document, passages, vectors_of(passages), keys, {"lloco": sha256("t")})

    again = Store(store.path)
    stored = again.passages("c", "a.pdf")
    assert [one.passage for one in stored] == passages
    assert [one.keys for one in stored] == keys
    assert again.document("c", "a.pdf") == document
    assert again.payloads(list(contents)) == contents
    (entry,) = again.documents("c")
    assert (entry.collection, entry.source, entry.title, entry.hash) == (
        "c",
        "a.pdf",
        document.title,
        document.hash,
    )
    assert (entry.tokens, entry.passages, entry.keys) == (8, 3, {"lloco": sha256("t")})
    assert timedelta(0) <= entry.added - before < timedelta(minutes=1)


def test_an_empty_library_answers_everything_with_nothing(store: Store) -> None:
    assert store.documents() == store.passages("c", "s") == store.collections() == []
    assert store.nearest("c", np.ones(WIDTH, np.float32), 3) == store.matching("c", "lamp", 3) == []
    assert store.settings("c") == {}
    assert store.collect() == 0
    store.optimize()


def test_a_second_commit_replaces_the_first_whole(store: Store, add_to, make_document) -> None:
    add_to(store, "c", "other", ["Kept."])
    add_to(store, "c", "a", [f"Old {i}. " for i in range(9)])
    new = add_to(store, "c", "a", ["New 0. ", "New 1. "])
    assert [one.passage.text for one in store.passages("c", "a")] == ["New 0. ", "New 1. "]
    assert [(entry.source, entry.hash, entry.passages) for entry in store.documents()] == [
        ("a", new.hash, 2),
        ("other", make_document("other", ["Kept."])[0].hash, 1),
    ]
    assert store.matching("c", "old", 9) == []
    assert {hit.passage.text for hit in store.matching("c", "new", 9)} == {"New 0. ", "New 1. "}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_reach_only_their_own(store: Store, name: str, add_to, make_document, vectors_of) -> None:
    add_to(store, "plain", "plain", ["The plain lamp."])
    add_to(store, name, name, ["The hostile lamp.", " And more."])
    add_to(store, name, name, ["The replaced lamp."])
    add_to(store, name, "plain", ["The neighbour's lamp."])
    vector = vectors_of(make_document("", ["The plain lamp."])[1])[0]
    for found in (store.nearest(name, vector, 9), store.matching(name, "lamp", 9)):
        assert {hit.passage.text for hit in found} == {"The replaced lamp.", "The neighbour's lamp."}
    assert [hit.passage.text for hit in store.matching("plain", "lamp", 9)] == ["The plain lamp."]
    store.configure(name, {"k": name})
    assert store.settings(name) == {"k": name}
    assert store.settings("plain") == {}
    assert store.collections() == sorted(["plain", name])
    assert store.forget(name, name).documents == 1
    assert {(entry.collection, entry.source) for entry in store.documents()} == {
        ("plain", "plain"),
        (name, "plain"),
    }


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.text(max_size=80), name=st.text(min_size=1, max_size=30))
def test_any_text_may_be_a_question_and_any_text_a_name(store: Store, words: str, name: str, add_to) -> None:
    add_to(store, name, name, ["The lighthouse keeper slept."])
    store.matching(name, words, 3)
    (hit,) = store.matching(name, f"keeper {words}", 3)
    assert (hit.source, hit.passage.text) == (name, "The lighthouse keeper slept.")


@pytest.mark.parametrize("words", ['"', "AND OR NOT", "(((", "text:lamp^9~", "*", "", "the \ud800 lamp", "[1 TO 2]"])
def test_query_syntax_is_only_words(store: Store, words: str, add_to) -> None:
    add_to(store, "c", "a", ["Nothing of the kind."])
    assert all(hit.score > 0 for hit in store.matching("c", words, 3))


def test_a_lone_surrogate_in_a_name_is_refused(store: Store, add_to) -> None:
    with pytest.raises(UsageError, match="surrogate"):
        add_to(store, "caf\udce9", "a", ["Text."])
    assert store.documents() == []


def test_neighbours_are_ordered_by_cosine_and_ties_by_place(store: Store, make_document) -> None:
    document, passages = make_document("a", ["One. ", "Two. ", "Three. ", "Four. "])
    vectors = np.zeros((4, WIDTH), np.float32)
    vectors[0, 1] = vectors[1, 0] = vectors[2, 0] = 1
    vectors[3, :2] = np.sqrt(0.5)
    store.commit("c", document, passages, vectors, [{}] * 4, {})
    question = np.zeros(WIDTH, np.float32)
    question[0] = 5
    hits = store.nearest("c", question, 3)
    assert [hit.passage.index for hit in hits] == [1, 2, 3]
    assert [hit.score for hit in hits] == pytest.approx([1, 1, np.sqrt(0.5)], abs=1e-6)


def test_words_match_by_stem_before_and_after_the_index_is_folded(store: Store, add_to) -> None:
    add_to(store, "c", "a", ["A ship passed. ", "The keepers were writing. "])
    before = store.matching("c", "keeper writes", 2)
    store.optimize()
    after = store.matching("c", "keeper writes", 2)
    assert [hit.passage.index for hit in before] == [hit.passage.index for hit in after] == [1]


def test_a_commit_whose_payloads_are_not_stored_is_refused(store: Store, make_document, vectors_of) -> None:
    document, passages = make_document("a", ["Text."])
    with pytest.raises(IntegrityError, match="payloads"):
        store.commit("c", document, passages, vectors_of(passages), [{"lloco": sha256("absent")}], {})
    assert store.documents() == []


def test_vectors_of_another_width_are_refused(store: Store, add_to, make_document) -> None:
    add_to(store, "c", "a", ["Text."])
    document, passages = make_document("b", ["Text."])
    with pytest.raises(FingerprintMismatch):
        store.commit("c", document, passages, np.ones((1, WIDTH + 1), np.float32), [{}], {})
    assert [entry.source for entry in store.documents()] == ["a"]


def test_a_library_takes_one_embedder(store: Store) -> None:
    assert store.embedder is None
    store.bind("first")
    store.bind("first")
    assert Store(store.path).embedder == "first"
    with pytest.raises(FingerprintMismatch):
        store.bind("second")
    assert store.embedder == "first"


def test_a_document_that_is_not_there(store: Store) -> None:
    with pytest.raises(UsageError, match="a document"):
        store.document("c", "a")
    with pytest.raises(UsageError, match="a document"):
        store.forget("c", "a")
    with pytest.raises(UsageError, match="a collection"):
        store.forget("c", None)


def test_a_newer_library_and_a_strange_folder_are_left_alone(store: Store, tmp_path: Path) -> None:
    library = store.path / "library.json"
    about = json.loads(library.read_text())
    library.write_text(json.dumps({**about, "schema": about["schema"] + 1}))
    with pytest.raises(UsageError, match="Update preread"):
        Store(store.path)
    library.write_text("{")
    with pytest.raises(IntegrityError):
        Store(store.path)
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "thesis.doc").touch()
    with pytest.raises(UsageError, match=r"thesis\.doc"):
        Store(strange)
    assert {file.name for file in strange.iterdir()} <= {"thesis.doc", "writer.lock"}


def test_a_library_may_be_moved(store: Store, tmp_path: Path, add_to) -> None:
    document = add_to(store, "c", "a", ["The lamp burned."])
    shutil.copytree(store.path, tmp_path / "copy")
    copy = Store(tmp_path / "copy")
    assert copy.document("c", "a") == document
    assert [hit.passage.text for hit in copy.matching("c", "lamp", 1)] == ["The lamp burned."]


def test_a_manifest_that_is_pruned_while_a_reader_looks_is_not_an_empty_library(store: Store, add_to, monkeypatch):
    add_to(store, "c", "a", ["Words."])
    looks, scandir = [], os.scandir

    class Pruned:
        name = "1.manifest"

        def stat(self):
            raise FileNotFoundError

    @contextmanager
    def pruning(folder):
        looks.append(folder)
        with scandir(folder) as files:
            yield [*files, *([Pruned()] if len(looks) == 1 else [])]

    monkeypatch.setattr(os, "scandir", pruning)
    assert [entry.source for entry in store.documents()] == ["a"]
    assert len(looks) == 2


def test_settings_that_go_while_they_are_listed_are_none(store: Store, add_to) -> None:
    add_to(store, "c", "a", ["Words."])
    store.configure("c", {"k": 1})
    (store.path / "collections" / "gone.json").symlink_to("nowhere")
    assert store.collections() == ["c"]


@pytest.mark.parametrize("content", ["{", "[]", '{"collection": "c"}'])
def test_damaged_settings_are_one_message(store: Store, content) -> None:
    store.configure("c", {"k": 1})
    next((store.path / "collections").iterdir()).write_text(content)
    for look in (store.collections, lambda: store.settings("c")):
        with pytest.raises(IntegrityError, match="settings of a collection"):
            look()
