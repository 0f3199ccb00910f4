"""A folder and its collection become alike, cheaply, and never at the price of a collection."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from preread.collection.memories import BEFORE_A_PAUSE
from preread.collection.settings import Settings
from preread.collection.states import statuses
from preread.core.errors import Interrupted, UnreadableDocument
from preread.library import Library
from preread.methods.lloco.method import LlocoHandle

from ..conftest import SETTINGS, story


@pytest.fixture
def folder(tmp_path) -> Path:
    """Four documents, one of them below, and things that are none."""
    made = tmp_path / "papers"
    (made / "old").mkdir(parents=True)
    for name in ("a.md", "b.txt", "c.md", "old/d.md"):
        (made / name).write_text(story(name[:-3].replace("/", " ")))
    (made / "photo.png").write_bytes(b"\x89PNG")
    (made / ".hidden.md").write_text("Nobody sees this.")
    return made


def names(sources) -> list[str]:
    return sorted(Path(source).name for source in sources)


def test_new_changed_and_removed_files_are_taken_over(collection, folder):
    first = collection.sync([folder])
    assert names(first.added) == ["a.md", "b.txt", "c.md", "d.md"]
    assert first.skipped == {".png": 1}
    (folder / "a.md").write_text(story("brig"))
    (folder / "b.txt").unlink()
    (folder / "new.md").write_text(story("ketch"))
    plan = collection.sync([folder], dry_run=True)
    assert names(entry.source for entry in collection.documents()) == ["a.md", "b.txt", "c.md", "d.md"]
    second = collection.sync([folder])
    assert plan == second.__class__(**{**{f: getattr(second, f) for f in second.__slots__}, "seconds": plan.seconds})
    assert (names(second.added), names(second.replaced)) == (["new.md"], ["a.md"])
    assert (names(second.unchanged), names(second.forgotten)) == (["c.md", "d.md"], ["b.txt"])
    assert names(entry.source for entry in collection.documents()) == ["a.md", "c.md", "d.md", "new.md"]


def test_only_documents_of_the_folder_are_removed_from_it(collection, folder, log):
    collection.sync([folder, log])
    neighbour = folder.parent / "papers2"
    neighbour.mkdir()
    shutil.copy(log, neighbour / "n.md")
    collection.add(neighbour / "n.md")
    collection.add(folder / ".hidden.md")  # named, and so wanted, though a folder's own are left out
    (neighbour / "n.md").unlink()
    log.unlink()
    assert collection.sync([folder]).forgotten == []
    assert len(collection.documents()) == 7


@pytest.mark.parametrize("how", ["folder gone", "empty", "most gone", "closed below"])
def test_a_folder_that_vanished_wipes_nothing(collection, folder, how, monkeypatch):
    collection.sync([folder])
    if how == "folder gone":
        shutil.rmtree(folder)
    elif how == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    elif how == "most gone":
        for name in ("a.md", "b.txt", "c.md"):
            (folder / name).unlink()
    else:
        scandir, closed = os.scandir, str(folder / "old")

        def refuse(path):
            if str(path) == closed:
                raise PermissionError(13, "Permission denied")
            return scandir(path)

        shutil.rmtree(folder / "old")
        (folder / "old").mkdir()
        monkeypatch.setattr(os, "scandir", refuse)
    failed = []
    result = collection.sync([folder], on_failed=lambda source, error: failed.append(error))
    assert result.forgotten == []
    assert len(collection.documents()) == 4
    assert all(isinstance(error, UnreadableDocument) and "was forgotten" in str(error) for error in failed)
    assert len(failed) == (how in ("folder gone", "closed below"))
    assert len(result.kept) == {"empty": 4, "most gone": 3}.get(how, 0)
    if how in ("empty", "most gone"):
        gone = collection.sync([folder], remove=True).forgotten
        assert gone == result.kept
        assert len(collection.documents()) == 4 - len(gone)


def test_a_file_that_moved_keeps_its_memories(collection, folder, monkeypatch):
    collection.sync([folder])
    (folder / "c.md").rename(folder / "old" / "e.md")
    monkeypatch.setattr(LlocoHandle, "encode", lambda *_: pytest.fail("what was compressed was compressed again"))
    moved = collection.sync([folder])
    assert (names(moved.added), names(moved.forgotten)) == (["e.md"], ["c.md"])


def test_unchanged_files_are_told_without_a_decoder(tmp_path, folder, decoders, open_library, monkeypatch):
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_bytes(b"first")
    decoders[str(model)] = decoders["tiny"]
    settings = Settings(model=str(model), options={"ratio": 4.0}, passage_tokens=80)
    open_library().collection("sea", settings).sync([folder])
    (folder / "b.txt").touch()  # another time, the same bytes
    with monkeypatch.context() as patch:
        patch.setattr(Library, "decoder", lambda *_: pytest.fail("a decoder was loaded"))
        again = open_library().collection("sea").sync([folder, folder / "a.md"])
        assert len(again.unchanged) == 4
        (folder / "a.md").write_text(
            (folder / "a.md").read_text().replace("storm", "squal")
        )  # as long, and other words
        assert names(open_library().collection("sea").sync([folder], dry_run=True).replaced) == ["a.md"]
    (model / "weights").write_bytes(b"others")  # so it must be loaded to know whether anything changed
    assert len(open_library().collection("sea").sync([folder]).unchanged) == 3


def test_other_weights_make_documents_stale_and_a_sync_learns_them_again(
    tmp_path, folder, decoders, open_library, tiny_decoder
):
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_bytes(b"first")
    decoders[str(model)] = decoders["tiny"]
    settings = Settings(model=str(model), options={"ratio": 4.0}, passage_tokens=80)
    open_library().collection("sea", settings).sync([folder])
    (model / "weights").write_bytes(b"other weights")
    decoders[str(model)] = tiny_decoder("llama", seed=1)
    library = open_library()
    assert {s.state for s in statuses(library.store)} == {"learned"}, "nobody knows the new weights yet"
    library.collection("sea").sync([folder], dry_run=True)
    assert {(s.state, "weights" in s.reason) for s in statuses(library.store)} == {("stale", True)}
    assert len(library.collection("sea").sync([folder]).replaced) == 4
    assert {s.state for s in statuses(library.store)} == {"learned"}


def test_a_truncated_payload_is_noticed_by_its_size(collection, folder):
    collection.sync([folder])
    payload = max(
        (f for f in (collection.store.path / "payloads").rglob("*") if f.is_file()), key=lambda f: f.stat().st_size
    )
    payload.write_bytes(payload.read_bytes()[:-1])
    assert collection.store.missing([payload.name])
    collection.sync([folder])
    assert not collection.store.missing([payload.name])


def test_a_bad_file_is_told_once_kept_as_failed_and_stops_nothing(collection, folder):
    (folder / "aa.md").write_bytes(b"")
    told = []
    result = collection.sync([folder, "nowhere.md"], on_failed=lambda source, error: told.append(source))
    assert names(told) == names(result.failed) == ["aa.md", "nowhere.md"]
    assert len(result.added) == 4
    failed = [status for status in statuses(collection.store) if status.state == "failed"]
    assert [(Path(s.source).name, "empty" in s.reason) for s in failed] == [("aa.md", True)]
    (folder / "aa.md").write_text(story("ketch"))
    assert names(collection.sync([folder]).added) == ["aa.md"]
    assert {status.state for status in statuses(collection.store)} == {"learned"}
    (folder / "aa.md").write_bytes(b"")
    collection.sync([folder])
    (stale,) = [status for status in statuses(collection.store) if status.state == "stale"]
    assert stale.entry is not None
    assert "could not be read again" in stale.reason
    (folder / "zz.md").write_bytes(b"")
    collection.sync([folder])
    (folder / "zz.md").unlink()
    collection.sync([folder])
    assert "zz.md" not in names(status.source for status in statuses(collection.store))


@pytest.mark.parametrize("how", ["cancel", "error"])
def test_a_stopped_sync_goes_on_where_it_was(collection, tmp_path, monkeypatch, how):
    folder = tmp_path / "papers"
    folder.mkdir()
    (folder / "a.md").write_text(story("ketch"))
    (folder / "b.md").write_text(story("schooner", 3 * BEFORE_A_PAUSE))
    encode, made = LlocoHandle.encode, []

    def slowly(self, passages, scope="passage"):
        for memory in encode(self, passages, scope):
            made.append(memory)
            if len(made) == 20 + BEFORE_A_PAUSE:
                if how == "error":
                    raise KeyboardInterrupt
                reading = next(s for s in statuses(collection.store) if s.state == "reading")
                assert (Path(reading.source).name, reading.tokens > 0) == ("b.md", True)
                assert collection.store.jobs.cancel() == 1
                time.sleep(0.6)
            yield memory

    monkeypatch.setattr(LlocoHandle, "encode", slowly)
    with pytest.raises((Interrupted, KeyboardInterrupt)):
        collection.sync([folder])
    monkeypatch.setattr(LlocoHandle, "encode", encode)
    states = {Path(s.source).name: s.state for s in statuses(collection.store)}
    assert states == {"a.md": "learned", "b.md": "queued"}
    assert "interrupted" in next(s.reason for s in statuses(collection.store) if s.state == "queued")
    assert len(list((collection.store.path / "payloads").rglob("*"))) > BEFORE_A_PAUSE, "what was finished is kept"
    again = collection.sync([folder])
    assert (names(again.added), names(again.unchanged)) == (["b.md"], ["a.md"])
    assert {s.state for s in statuses(collection.store)} == {"learned"}


def test_links_are_followed_once_and_loops_end(collection, folder):
    (folder / "old" / "loop").symlink_to(folder)
    (folder / "also").symlink_to(folder / "old")
    (folder / "broken.md").symlink_to(folder / "nothing.md")
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / "far.md").write_text(story("ketch"))
    (folder / "link").symlink_to(outside)
    added = collection.sync([folder]).added
    assert names(added) == ["a.md", "b.txt", "c.md", "d.md", "far.md"]
    assert str(folder / "old" / "d.md") in added, "by the path without links"


def test_the_library_may_lie_in_the_folder(folder, open_library, decoders):
    library = Library(folder / "library")
    collection = library.collection("sea", SETTINGS)
    collection.sync([folder])
    assert collection.sync([folder]).skipped == {".png": 1}


def test_readers_ask_while_a_sync_goes_on(collection, folder, open_library):
    collection.add(folder / "a.md")
    seen, done = [], threading.Event()

    def read() -> None:
        reader = open_library()
        while not done.is_set():
            seen.append(len(reader.store.matching("sea", "keeper", 100)))

    thread = threading.Thread(target=read)
    thread.start()
    collection.sync([folder])
    done.set()
    thread.join()
    assert seen == sorted(seen)
    assert seen


def test_a_whole_collection_is_forgotten_with_its_failures_and_adapters(collection, folder):
    (folder / "aa.md").write_bytes(b"")
    collection.sync([folder])
    adapter = collection.adapters.folder("lloco", "v1") / "weights.bin"
    adapter.parent.mkdir(parents=True)
    adapter.write_bytes(bytes(100_000))
    receipt = collection.forget_all()
    assert receipt.documents == 4
    assert receipt.bytes_freed > 100_000
    assert receipt.searched > 0
    assert statuses(collection.store) == []
    assert collection.library.collections() == []
    assert [f for f in collection.store.path.rglob("*") if b"papers" in (f.read_bytes() if f.is_file() else b"")] == []


def test_what_could_not_be_read_may_be_forgotten_too(collection, folder):
    (folder / "aa.md").write_bytes(b"")
    collection.sync([folder / "aa.md"])
    assert collection.forget(folder / "aa.md").documents == 0
    assert statuses(collection.store) == []
