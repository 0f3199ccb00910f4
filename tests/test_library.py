"""The flow from file to answer, on a tiny decoder and an embedder of word counts."""

from __future__ import annotations

import pytest

from preread.collection.context import best_passages
from preread.collection.memories import BEFORE_A_PAUSE, Memories
from preread.collection.settings import Settings
from preread.core.errors import FingerprintMismatch, IntegrityError, UnreadableDocument, UsageError, WindowExceeded
from preread.core.types import Sampling
from preread.methods.lloco.method import LlocoHandle
from preread.methods.lloco.shape import Trained
from preread.nn.hf import INSTRUCTION

from .conftest import SETTINGS, SHORT, story


def test_a_document_is_added_once_and_replaced_when_it_changes(collection, log, monkeypatch):
    first = collection.add(log)
    assert first.change == "added"
    assert first.entry.tokens / first.positions == pytest.approx(4.0, rel=0.15)
    with monkeypatch.context() as patch:
        patch.setattr(LlocoHandle, "encode", lambda *_: pytest.fail("an unchanged document was compressed again"))
        assert collection.add(log).change == "unchanged"
    log.write_text(story("brig"), encoding="utf-8")
    changed = collection.add(log)
    assert changed.change == "replaced"
    assert [entry.hash for entry in collection.documents()] == [changed.entry.hash] != [first.entry.hash]


@pytest.mark.parametrize("method", ["text", "lloco"])
@pytest.mark.parametrize("mode", ["document", "passages", None])
def test_an_answer_cites_real_places_and_counts_what_was_read(collection, log, method, mode):
    added = collection.add(log)
    entry, written = added.entry, []
    answer = collection.ask("What met storm number 35?", method, mode, 3, SHORT, written.append)
    text = collection.store.document("sea", entry.source).text
    assert answer.text == "".join(written).strip()
    assert len(answer.citations) == 3
    assert "35" in answer.citations[0].text
    for cited in answer.citations:
        assert text[cited.start : cited.end] == cited.text
        assert (cited.place, cited.source) == ('section "The log"', str(log))
    frame = len(collection.handle(method).prompt("What met storm number 35?", []))
    frame += len(collection.decoder.tokens(INSTRUCTION))
    assert answer.usage.tokens_of_documents == entry.tokens
    assert answer.usage.tokens_written <= 4
    assert answer.usage.first_token_s > 0
    if method == "text" and mode == "document":
        assert answer.usage.tokens_read == frame + entry.tokens
    all_read = mode == "document" or (mode is None and method == "lloco")
    assert (answer.usage.tokens_of_source == entry.tokens) == all_read
    if method == "lloco" and mode != "passages":
        assert answer.usage.tokens_read == frame + added.positions
    if method == "lloco":
        assert any("not trained" in note for note in answer.notes)


def test_a_memory_past_the_window_falls_back_to_passages_and_says_so(collection, log):
    log.write_text(story("schooner", 700), encoding="utf-8")
    entry = collection.add(log).entry
    assert entry.tokens / 4 > collection.decoder.window
    for method in ("lloco", "text"):
        answer = collection.ask("What met storm number 350?", method, "document", 3, SHORT)
        assert collection.decoder.window - 600 < answer.usage.tokens_read <= collection.decoder.window - 4
        notes = " ".join(answer.notes)
        assert "best passages were read" in notes
        [read] = answer.read
        assert read.unread.tokens == entry.tokens - answer.usage.tokens_of_source > 0
        assert (read.text.tokens, read.memory.tokens)[method == "lloco"] == answer.usage.tokens_of_source


def test_an_interrupted_add_shows_nothing_and_goes_on_where_it_stopped(collection, log, monkeypatch):
    log.write_text(story("schooner", 160), encoding="utf-8")
    encode, seen = LlocoHandle.encode, []

    def interrupted(self, passages, scope="passage"):
        for number, memory in enumerate(encode(self, passages, scope)):
            if number == BEFORE_A_PAUSE + 5:
                raise KeyboardInterrupt
            yield memory

    def counted(self, passages, scope="passage"):
        for memory in encode(self, passages, scope):
            seen.append(memory)
            yield memory

    monkeypatch.setattr(LlocoHandle, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        collection.add(log)
    assert collection.documents() == []
    monkeypatch.setattr(LlocoHandle, "encode", counted)
    entry = collection.add(log).entry
    assert 0 < len(seen) == entry.passages - BEFORE_A_PAUSE


def test_a_bad_file_loses_nothing(collection, log, tmp_path):
    collection.add(log)
    before = collection.documents()
    log.write_bytes(b"\x00\x01\x02")
    with pytest.raises(UnreadableDocument):
        collection.add(log)
    assert collection.documents() == before
    assert collection.ask("What met the storm?", sampling=SHORT).citations


def test_a_library_is_there_when_it_is_opened_again(open_library, collection, log):
    collection.add(log)
    a = collection.ask("What met storm number 35?", sampling=SHORT)
    again = open_library().collection("sea")
    assert again.settings == SETTINGS
    b = again.ask("What met storm number 35?", sampling=SHORT)
    assert (a.text, a.citations, a.usage.tokens_read) == (b.text, b.citations, b.usage.tokens_read)


def test_other_settings_and_unknown_names_are_refused(open_library, collection, log):
    assert open_library().collection("sea", Settings("tiny")).settings == Settings("tiny"), "nothing is in it yet"
    collection.add(log)
    with pytest.raises(UsageError, match="was made with"):
        open_library().collection("sea", Settings(model="tiny", options={"ratio": 8.0}))
    with pytest.raises(UsageError, match="a method"):
        collection.ask("Who?", "magic")
    with pytest.raises(UsageError, match="documents in bay"):
        open_library().collection("bay", SETTINGS).ask("Who?")
    with pytest.raises(UsageError, match="a document of sea"):
        collection.forget("nothing.txt")


def test_memories_of_other_weights_are_refused_not_read(open_library, collection, log, decoders, tiny_decoder):
    collection.add(log)
    decoders["tiny"] = tiny_decoder("llama", seed=1)
    other = open_library().collection("sea")
    with pytest.raises(FingerprintMismatch, match="again"):
        other.ask("What met the storm?", sampling=SHORT)
    assert other.ask("What met the storm?", "text", sampling=SHORT).citations, "text has no memory that could be wrong"


def test_a_forgotten_document_is_gone_and_the_others_stay(collection, log, tmp_path):
    other = tmp_path / "other.md"
    other.write_text(story("submarine").replace("log", "diary"), encoding="utf-8")
    collection.add(log)
    collection.add(other)
    receipt = collection.forget(log)
    assert receipt.documents == 1
    assert [entry.source for entry in collection.documents()] == [str(other)]
    answer = collection.ask("What did the schooner meet?", sampling=SHORT)
    assert {cited.source for cited in answer.citations} == {str(other)}


def test_only_what_was_read_is_cited_and_counted(collection, log, tmp_path):
    entries = {}
    for name in ("schooner", "submarine", "brig"):
        path = tmp_path / f"{name}.md"
        path.write_text(story(name), encoding="utf-8")
        entries[str(path)] = collection.add(path).entry
    answer = collection.ask("What did the submarine meet?", k=4, sampling=SHORT)
    assert {cited.source for cited in answer.citations} == {str(tmp_path / "submarine.md")}
    assert answer.usage.tokens_of_documents == entries[str(tmp_path / "submarine.md")].tokens
    unread = sum(entry.tokens for entry in entries.values()) - answer.usage.tokens_of_source
    assert sum(read.unread.tokens for read in answer.read) == unread


def test_passages_are_read_in_the_order_of_the_document(collection, log):
    log.write_text(story("schooner", 60), encoding="utf-8")
    collection.add(log)
    hits = collection.library.retriever.search("sea", "storm number 287 7 140", 6)
    assert [hit.passage.index for hit in hits] != sorted(hit.passage.index for hit in hits)
    memories = Memories(collection.store, collection.handle("text"))
    loaded = memories.load([hit.passage for hit in hits])
    context = best_passages(hits, loaded, room=10**6)
    in_order = sorted((hit.passage for hit in hits), key=lambda passage: passage.index)
    assert [tuple(m.tensors["ids"].tolist()) for m in context.memories] == [passage.ids for passage in in_order]
    assert context.hits == hits
    tight = best_passages(hits, loaded, room=len(hits[0].passage.ids))
    assert [hit.passage.index for hit in tight.hits] == [hits[0].passage.index], "the best one stays"
    assert any("only 1 of 6" in note for note in tight.notes)


def test_no_answer_is_made_of_nothing(collection, log):
    collection.add(log)
    with pytest.raises(WindowExceeded, match="shorter question"):
        collection.ask("What met the storm?", "text", sampling=Sampling(max_tokens=1980))


def test_a_damaged_memory_is_refused_and_add_repairs_it(collection, log):
    collection.add(log)
    whole = collection.ask("What met storm number 35?", sampling=SHORT)
    for payload in (collection.library.path / "payloads").rglob("*"):
        if payload.is_file():
            payload.write_bytes(payload.read_bytes()[:-3])
    with pytest.raises(IntegrityError):
        collection.ask("What met storm number 35?", sampling=SHORT)
    collection.add(log)
    again = collection.ask("What met storm number 35?", sampling=SHORT)
    assert again.text == whole.text
    assert again.usage.tokens_read == whole.usage.tokens_read


def test_a_collection_is_made_by_its_first_document_and_by_nothing_else(open_library, log):
    library = open_library()
    with pytest.raises(UsageError, match="documents in new"):
        library.collection("new", SETTINGS).ask("Who?")
    with pytest.raises(UsageError, match="a ratio"):
        library.collection("new", Settings("tiny", options={"ratio": 0.5})).add(log)
    assert library.collections() == []
    assert library.collection("new", SETTINGS).add(log).change == "added"
    assert library.collections() == ["new"]


def test_replacing_one_document_leaves_what_an_interrupted_add_made(collection, log, tmp_path, monkeypatch):
    collection.add(log)
    other = tmp_path / "other.md"
    other.write_text(story("submarine", 160), encoding="utf-8")
    encode, seen = LlocoHandle.encode, []

    def interrupted(self, passages, scope="passage"):
        for number, memory in enumerate(encode(self, passages, scope)):
            if number == BEFORE_A_PAUSE:
                raise KeyboardInterrupt
            yield memory

    monkeypatch.setattr(LlocoHandle, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        collection.add(other)
    monkeypatch.setattr(LlocoHandle, "encode", encode)
    payloads = collection.library.path / "payloads"
    log.write_text(story("brig"), encoding="utf-8")
    before = {path.name for path in payloads.rglob("*") if path.is_file()}
    assert collection.add(log).change == "replaced"
    after = {path.name for path in payloads.rglob("*") if path.is_file()}
    assert before - after, "what only the old version used is gone"

    def counted(self, passages, scope="passage"):
        for memory in encode(self, passages, scope):
            seen.append(memory)
            yield memory

    monkeypatch.setattr(LlocoHandle, "encode", counted)
    assert len(seen) == 0
    entry = collection.add(other).entry
    assert len(seen) == entry.passages - BEFORE_A_PAUSE


def test_an_add_that_ends_at_its_commit_binds_nothing(open_library, log, monkeypatch):
    def broken(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("preread.store.store.Store.commit", broken)
        with pytest.raises(KeyboardInterrupt):
            open_library().collection("new", SETTINGS).add(log)
    other = Settings("tiny", options={"ratio": 8.0}, passage_tokens=80)
    assert open_library().collection("new", other).add(log).change == "added"
    assert open_library().collection("new").settings == other


def test_two_that_open_a_new_collection_agree_or_the_second_is_refused(open_library, log, tmp_path):
    library = open_library()
    first = library.collection("new", SETTINGS)
    second = library.collection("new", Settings("tiny", options={"ratio": 16.0}, passage_tokens=80))
    first.add(log)
    other = tmp_path / "other.md"
    other.write_text(story("submarine"), encoding="utf-8")
    with pytest.raises(UsageError, match="made with meanwhile"):
        second.add(other)
    assert len(first.documents()) == 1


def test_one_file_is_one_document_by_any_path(collection, log, monkeypatch):
    collection.add(log)
    monkeypatch.chdir(log.parent)
    assert collection.add("log.md").change == "unchanged"
    (log.parent / "aside").mkdir()
    assert collection.add(log.parent / "aside" / ".." / "log.md").change == "unchanged"
    collection.forget("./log.md")
    assert collection.documents() == []


def test_going_past_the_training_is_said_in_the_answer(collection, log):
    collection.add(log)
    trained = Trained(segments=1, segment_tokens=200, positions=5, ratios=(8.0, 16.0), tokens=1, note="")
    handle = collection.handle("lloco")
    memories = Memories(collection.store, handle)
    passages = [stored.passage for stored in collection.store.passages("sea", str(log))]
    read = memories.load(passages)
    assert handle.caveats(read)[0] == "compressor: not trained"
    handle.compressor.trained = trained
    notes = " ".join(handle.caveats(read))
    assert "summary embeddings at once (trained: 5)" in notes
    assert "ratio 4 (trained: 8 to 16)" in notes


def test_recursive_collections_keep_a_memory_of_the_whole_document(open_library, log):
    options = {"ratio": 4.0, "segments": "recursive", "segment_tokens": 50}
    collection = open_library().collection("deep", Settings("tiny", options=options, passage_tokens=80))
    added = collection.add(log)
    assert added.entry.keys.keys() == {"lloco"}
    whole = collection.ask("What met storm number 35?", sampling=SHORT)
    pieces = collection.ask("What met storm number 35?", mode="passages", k=2, sampling=SHORT)
    assert pieces.usage.tokens_read < whole.usage.tokens_read < added.entry.tokens


def test_a_method_that_makes_another_decoder_of_the_shared_one_is_refused(open_library, log):
    collection = open_library().collection("sea", Settings(model="tiny", method="longlora", options={"length": 4096}))
    before = collection.decoder.window
    with pytest.raises(UsageError, match="Export the altered decoder"):
        collection.handle("longlora")
    assert collection.decoder.window == before


def test_longlora_reads_the_whole_document_as_text(open_library, log):
    collection = open_library().collection("sea", Settings(model="tiny", method="longlora"))
    collection.add(log)
    answer = collection.ask("Who met the storm?", sampling=SHORT)
    whole = collection.documents()[0].tokens
    assert answer.usage.tokens_of_source == answer.usage.tokens_of_documents == whole < answer.usage.tokens_read
    assert answer.citations
