"""A forgotten document is nowhere in the library's folder; its neighbours are untouched."""

from __future__ import annotations

import os

import pytest

from preread.core.types import sha256
from preread.store import passages as passages_module
from preread.store.receipt import search
from preread.store.store import Store

CANARY = "zyxwvutcanary"


def test_nothing_of_a_forgotten_document_is_left(store: Store, add_to, traces) -> None:
    crowd = [f"Ordinary sentence {i} about lamps. " for i in range(60)]
    kept = add_to(store, "c", "crowd", crowd)
    secret = add_to(store, "c", f"{CANARY}.pdf", [f"The {CANARY} sang. ", "It flew."])
    store.optimize()
    # In one file with rows that stay, in the index, in the payloads: a deletion alone would leave all of it.
    assert {place.split("/")[0] for place in traces(store, CANARY)} == {"documents.json", "passages.lance", "payloads"}
    assert [hit.source for hit in store.matching("c", CANARY, 5)] == [f"{CANARY}.pdf"]

    receipt = store.forget("c", f"{CANARY}.pdf")

    assert traces(store, CANARY) == traces(store, secret.hash) == traces(store, "It flew") == []
    assert (receipt.documents, receipt.passages, receipt.payloads) == (1, 2, 4)
    assert receipt.bytes_freed > 0
    assert store.matching("c", CANARY, 5) == store.passages("c", f"{CANARY}.pdf") == []
    assert store.document("c", "crowd") == kept
    assert len(store.matching("c", "lamp", 99)) == len(store.passages("c", "crowd")) == len(crowd)


@pytest.mark.parametrize("clean", ["forget", "optimize"])
def test_what_a_killed_writer_had_begun_to_write_goes(store: Store, add_to, traces, clean) -> None:
    """Lance writes a file under a name of its own before it counts, and never looks for it again."""
    document = add_to(store, "c", "a", [f"First {CANARY}."])
    (table,) = store.path.glob("*.lance")
    whole = next(file for file in (table / "data").iterdir() if CANARY.encode() in file.read_bytes())
    half = whole.with_name(passages_module.HALF_WRITTEN.replace("*", "Ab12"))
    half.write_bytes(whole.read_bytes())
    if clean == "forget":
        store.forget("c", "a")
        assert traces(store, CANARY) == traces(store, document.hash) == []
    else:
        store.optimize()
        assert store.document("c", "a") == document
    assert not half.exists()


def test_older_versions_of_a_forgotten_document_go_too(store: Store, add_to, traces) -> None:
    add_to(store, "c", "a", [f"First {CANARY}."])
    add_to(store, "c", "a", ["Second."])
    assert traces(store, CANARY)
    store.forget("c", "a")
    assert traces(store, CANARY) == []
    assert store.documents() == store.collections() == []
    add_to(store, "c", "a", ["Third, of an empty library."])
    assert [hit.source for hit in store.matching("c", "third", 1)] == ["a"]


def test_what_two_documents_share_stays_while_one_names_it(store: Store, add_to) -> None:
    for source in ("a", "b"):
        add_to(store, "c", source, ["The same sentence."])
    shared = sha256("memory", "The same sentence.")
    assert store.forget("c", "a").payloads == 2  # its text and its memory of the whole have its title in their keys
    assert store.missing([shared]) == set()
    assert store.forget("c", "b").payloads == 3
    assert store.missing([shared]) == {shared}


def test_a_collection_goes_with_its_settings(store: Store, add_to, traces) -> None:
    for source in ("a", "b"):
        add_to(store, CANARY, source, [f"A sentence of {source}."])
    add_to(store, "c", "a", ["A sentence that stays."])
    store.configure(CANARY, {"method": "text"})
    store.configure("c", {"method": "text"})
    assert store.forget(CANARY, None).documents == 2
    assert traces(store, CANARY) == []
    assert store.collections() == ["c"]
    assert store.settings(CANARY) == {}
    assert len(store.passages("c", "a")) == 1


def test_orphans_are_collected_and_the_named_stay(store: Store, add_to) -> None:
    add_to(store, "c", "a", ["Old."])
    add_to(store, "c", "a", ["New."])
    orphan = sha256("orphan")
    store.put({orphan: b"nobody names me"})
    assert store.collect() == 4
    assert store.collect() == 0
    assert store.missing([orphan]) == {orphan}
    assert store.document("c", "a").text == "New."
    assert store.payloads([sha256("memory", "New.")])


@pytest.mark.parametrize("collection", ["large", "small"])
def test_an_index_changes_no_answer(
    store: Store, add_to, make_document, vectors_of, collection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sentences = [f"Sentence number {i}. " for i in range(400)]
    add_to(store, "large", "a", sentences)
    add_to(store, "small", "a", sentences[:7])
    question = vectors_of(make_document("", ["A question."])[1])[0]
    scanned = store.nearest(collection, question, 5)
    monkeypatch.setattr(passages_module, "INDEX_FROM", 300)
    store.optimize()
    assert len(store._passages._table().list_indices()) == 2
    indexed = store.nearest(collection, question, 5)
    assert [hit.passage for hit in indexed] == [hit.passage for hit in scanned]
    store.forget("large", None)
    assert len(store._passages._table().list_indices()) == 1
    assert len(store.nearest("small", question, 5)) == 5


def test_files_of_others_may_go_while_they_are_searched(tmp_path) -> None:
    """Locks and journals of other processes come and go."""
    kept = tmp_path / "kept"
    kept.write_text("nothing of it")
    assert search([tmp_path / "gone", kept], {CANARY}) == 1


def test_files_of_others_may_go_while_they_are_measured(store: Store, add_to, monkeypatch) -> None:
    add_to(store, "c", "a", ["Words."])
    size, walk = store.size(), os.walk
    monkeypatch.setattr(os, "walk", lambda top: ((here, below, [*names, "gone"]) for here, below, names in walk(top)))
    assert store.size() == size > 0
    assert store.forget("c", "a").documents == 1
