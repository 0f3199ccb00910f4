"""Records of jobs say what is true of them, whoever dies, and never more than the table."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from preread.collection.states import statuses, unlearned
from preread.core.errors import IntegrityError, ResourceError
from preread.core.types import sha256
from preread.store.jobs import Jobs, Seen
from preread.store.store import Store


def states(store: Store) -> dict[str, str]:
    return {status.source: status.state for status in statuses(store)}


def test_work_goes_from_queued_to_reading_to_done_or_failed(store: Store, monkeypatch) -> None:
    monkeypatch.setattr("preread.store.jobs._BETWEEN_S", 0.0)
    with store.jobs.running("c", ["a", "b", "c"]) as job:
        assert states(store) == dict.fromkeys("abc", "queued")
        job.reading("a")
        job.done("a")
        job.failed("b", "it is a picture")
        job.reading("c", 10, 40)
        assert states(store) == {"b": "failed", "c": "reading"}
        (failed, reading) = statuses(store)
        assert failed.reason == "it is a picture"
        assert (reading.done, reading.tokens) == (10, 40)
        assert "1 of the collection's documents are still" in unlearned(store, "c")[0]
        assert unlearned(store, "other") == ()
        job.done("c")
    assert states(store) == {"b": "failed"}
    assert unlearned(store, "c") == ()


def test_a_killed_job_is_seen_as_interrupted_and_taken_over(store: Store) -> None:
    body = """
import os, signal, sys
from pathlib import Path
from preread.store.jobs import Jobs
with Jobs(Path(sys.argv[1])).running("c", ["a", "b"]) as job:
    job.reading("a", 3, 9)
    print("here", flush=True)
    sys.stdin.read()
"""
    child = subprocess.Popen(
        [sys.executable, "-c", body, str(store.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "here\n"
    assert states(store) == {"a": "reading", "b": "queued"}
    assert len(unlearned(store, "c")) == 1
    child.send_signal(signal.SIGKILL)
    child.communicate()
    listed = statuses(store)
    assert [(s.state, s.done, s.tokens) for s in listed] == [("queued", 3, 9), ("queued", 0, 0)]
    assert all("interrupted" in status.reason for status in listed)
    assert "are not learned" in unlearned(store, "c")[0]
    assert store.jobs.cancel() == 0
    with store.jobs.running("c", ["a"]) as job:
        assert len(list((store.path / "jobs").iterdir())) == 1, "what the dead left of themselves is gone"
        job.done("a")
    assert states(store) == {"b": "queued"}
    assert list((store.path / "jobs").iterdir()) == []


def test_a_record_counts_only_for_the_document_that_the_table_holds(store: Store, add_to, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("New.")
    add_to(store, "c", str(file), ["Old."])
    stat = file.stat()
    new = sha256("a document that was never committed")
    store.jobs.note([Seen("c", str(file), new, stat.st_size, stat.st_mtime_ns, sha256("x"), "p", 0, 0)])
    os.utime(file, (0, 0))
    assert states(store) == {str(file): "learned"}, "its own record is not there: only the dates can be compared"
    file.touch()
    os.utime(file, (2**31, 2**31))
    assert states(store) == {str(file): "stale"}
    file.unlink()
    assert "gone" in statuses(store)[0].reason
    assert states(store) == {str(file): "stale"}


def test_forgetting_leaves_no_trace_in_the_records(store: Store, add_to, traces) -> None:
    name = "/home/zyxwvut/secret.pdf"
    add_to(store, "c", name, ["Nothing."])
    (entry,) = store.documents()
    store.jobs.note([Seen("c", name, entry.hash, 1, 1, "x", "p", 0, 0)])
    with store.jobs.running("c", [name, "/home/zyxwvut/bad.pdf"]) as job:
        job.failed("/home/zyxwvut/bad.pdf", "zyxwvut is a picture")
    store.optimize()
    assert {"jobs.sqlite", "documents.json"} <= set(traces(store, "zyxwvut"))
    store.forget("c", [name, "/home/zyxwvut/bad.pdf"])
    assert traces(store, "zyxwvut") == []


def test_the_search_behind_a_receipt_finds_what_is_left(store: Store, add_to, monkeypatch) -> None:
    add_to(store, "c", "a", ["Nothing."])
    add_to(store, "c", "b", ["Something."])
    with monkeypatch.context() as patch:
        patch.setattr("preread.store.passages.PassageTable.scrub", lambda self: None)
        with pytest.raises(IntegrityError, match="a trace of it in"):
            store.forget("c", "a")
    assert store.forget("c", "b").searched > 3


def test_a_damaged_file_of_records_loses_no_document(store: Store, add_to) -> None:
    add_to(store, "c", "a", ["Kept."])
    (store.path / "jobs.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(IntegrityError, match="no document is lost"):
        store.jobs.work()
    (store.path / "jobs.sqlite").unlink()
    assert store.jobs.work() == []
    assert store.document("c", "a").text == "Kept."


def test_the_list_is_a_copy_of_one_commit_and_of_no_other(store: Store, add_to) -> None:
    add_to(store, "c", "a", ["One."])
    store.optimize()
    other = Store(store.path)
    assert [entry.source for entry in other.documents()] == ["a"]
    assert "_database" not in vars(other._passages), "the table was not opened"
    add_to(store, "c", "b", ["Two."])
    assert [entry.source for entry in Store(store.path).documents()] == ["a", "b"]
    assert Store(store.path).documents() == store._passages.entries(None)
    store.optimize()
    (store.path / "documents.json").write_text("{")
    assert [entry.source for entry in Store(store.path).documents("c")] == ["a", "b"]


def test_listing_loads_neither_torch_nor_lancedb(store: Store, add_to) -> None:
    add_to(store, "c", "a", ["One."])
    store.configure("c", {"settings": {"model": "default", "method": "lloco", "options": {}}, "adapters": {}})
    store.optimize()
    body = (
        "import sys; from preread import cli; sys.argv = ['preread', 'list', '--library', sys.argv[1]]\n"
        "try: cli.main()\n"
        "except SystemExit: print([m for m in ('torch', 'transformers', 'lancedb', 'pyarrow') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", body, str(store.path)], capture_output=True, text=True, check=True
    ).stdout
    assert out.splitlines()[0].startswith("c ")
    assert out.splitlines()[-1] == "[]"


def test_what_was_acknowledged_was_told_to_the_disk(store: Store, add_to, monkeypatch) -> None:
    """Every file that a document needs was synced behind its last change, and so was its name."""
    synced, sync = {}, os.fsync

    def watched(handle: int) -> None:
        sync(handle)
        stat = os.fstat(handle)
        synced[stat.st_dev, stat.st_ino] = max(stat.st_mtime_ns, stat.st_ctime_ns)

    monkeypatch.setattr(os, "fsync", watched)
    store.configure("c", {"method": "text"})
    add_to(store, "c", "a", ["The lamp burned. ", "Nobody slept."])
    add_to(store, "c", "a", ["The lamp was out."])
    needed = [store.path / "payloads", store.path / "passages.lance", store.path / "collections"]
    for path in itertools.chain(needed, *(top.rglob("*") for top in needed)):
        stat = path.stat()
        assert synced.get((stat.st_dev, stat.st_ino), 0) >= stat.st_mtime_ns, path


@pytest.mark.parametrize("limit", [int(200 * 1.32**n) for n in range(20)])
def test_a_full_disk_at_any_point_of_an_add(store: Store, add_to, limit: int) -> None:
    """Files may not grow past the limit while a long document is added; 200 bytes to 40 kB: some writes fit."""
    kept = add_to(store, "c", "kept", ["The lamp burned."])
    sentences = [f"A long sentence, number {i}, that no small file can hold. " * 9 for i in range(60)]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(ResourceError, match="room on the disk") as failed, store.jobs.running("c", ["large"]):
            add_to(store, "c", "large", sentences)
        assert failed.value.exit_code == 4
        assert [entry.source for entry in store.documents()] == ["kept"]
        assert store.document("c", "kept") == kept
        assert [hit.source for hit in store.matching("c", "lamp", 3)] == ["kept"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    add_to(store, "c", "large", sentences)
    store.optimize()
    assert [entry.source for entry in Store(store.path).documents()] == ["kept", "large"]
    store.collect()
    assert len(store.passages("c", "large")) == 60
    assert list(store.path.rglob("*.part")) == []


def test_two_jobs_do_not_take_each_other_for_dead(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    with jobs.running("c", ["a"]), jobs.running("c", ["b"]) as second:
        assert [one.alive for one in jobs.work()] == [True, True]
        assert jobs.cancel() == 2
        assert second.cancelled()
