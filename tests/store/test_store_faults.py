"""What a killed process, a full disk, a second writer and a concurrent reader may do to a library."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from preread.core.errors import IntegrityError, LibraryBusy, ResourceError
from preread.core.types import sha256
from preread.store.store import Store

HELPERS = Path(__file__).with_name("conftest.py")
CHILD = """
import runpy, sys
from pathlib import Path
conftest = runpy.run_path(sys.argv[1])
store = conftest["Store"](Path(sys.argv[2]))
add_to = conftest["add_to"]
"""


def child(path: Path, body: str) -> list[str]:
    """Command of a process that has `store` and `add_to`."""
    return [sys.executable, "-c", CHILD + body, str(HELPERS), str(path)]


def run(path: Path, body: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(child(path, body), capture_output=True, text=True, timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("delay_s", [0.0, 0.004, 0.011, 0.05, 0.13])
def test_kill_9_leaves_exactly_the_acknowledged_documents(store: Store, add_to, delay_s: float) -> None:
    body = """
n = 0
while True:
    n += 1
    add_to(store, "c", f"d{n % 3}", [f"Sentence {i} of version {n}. " for i in range(1 + n % 5)])
    print(n, flush=True)
    if n % 4 == 0:
        store.optimize()
"""
    with subprocess.Popen(child(store.path, body), stdout=subprocess.PIPE, text=True) as writer:
        for _ in range(3):
            writer.stdout.readline()
        time.sleep(delay_s)
        writer.send_signal(signal.SIGKILL)
        acknowledged = 3 + len(writer.stdout.read().split())

    started = time.monotonic()
    again = Store(store.path)
    found = {entry.source: entry for entry in again.documents("c")}
    assert time.monotonic() - started < 5
    versions = {}
    for source, entry in found.items():
        text = again.document("c", source).text
        stored = again.passages("c", source)
        assert "".join(one.passage.text for one in stored) == text
        assert len(stored) == entry.passages
        again.payloads([key for one in stored for key in one.keys.values()])
        (versions[source],) = {int(one.passage.text.split("version ")[1].split(".")[0]) for one in stored}
    # The write under way may have been committed without having been acknowledged, but only as a whole.
    possible = [
        {f"d{n % 3}": n for n in range(max(1, last - 2), last + 1)} for last in (acknowledged, acknowledged + 1)
    ]
    assert versions in possible

    add_to(again, "c", "after", ["Life goes on."])
    again.collect()
    assert [hit.source for hit in again.matching("c", "life", 1)] == ["after"]


def test_kill_9_before_the_commit_keeps_the_payloads_for_the_next_try(store: Store) -> None:
    body = """
import os, signal
store.put({"a" * 64: b"kept"})
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert run(store.path, body).returncode == -signal.SIGKILL
    assert store.missing(["a" * 64, "b" * 64]) == {"b" * 64}
    assert store.documents() == []
    (store.path / "payloads" / "cc").mkdir()
    (store.path / "payloads" / "cc" / ("c" * 64 + ".part")).write_bytes(b"half")
    assert store.missing(["c" * 64]) == {"c" * 64}
    assert store.collect() == 1
    assert not [file for file in (store.path / "payloads").rglob("*") if file.is_file()]


def test_a_killed_forget_is_finished_by_the_next_write(store: Store, add_to, traces) -> None:
    add_to(store, "c", "secret", ["The canary zyxwvut sang."])
    add_to(store, "c", "open", ["Nothing to hide."])
    body = """
import os, signal
store._passages.scrub = lambda: os.kill(os.getpid(), signal.SIGKILL)
store.forget("c", "secret")
"""
    assert run(store.path, body).returncode == -signal.SIGKILL
    again = Store(store.path)
    assert [entry.source for entry in again.documents()] == ["open"]
    assert traces(again, "zyxwvut")
    add_to(again, "c", "next", ["The next write."])
    assert not traces(again, "zyxwvut")
    assert {entry.source for entry in again.documents()} == {"open", "next"}


def test_a_damaged_payload_is_told_and_made_again(store: Store) -> None:
    key = sha256("memory")
    store.put({key: b"0123456789"})
    (file,) = (file for file in (store.path / "payloads").rglob("*") if file.is_file())
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole + b"!", bytes([whole[0] ^ 1]) + whole[1:], whole[:-1] + b"8", b""):
        file.write_bytes(damaged)
        with pytest.raises(IntegrityError):
            store.payloads([key])
        assert store.missing([key]) == {key}
        store.put({key: b"0123456789"})
        assert store.payloads([key]) == {key: b"0123456789"}
    with pytest.raises(IntegrityError, match="no such payload"):
        store.payloads([sha256("other")])


@pytest.mark.parametrize("limit", [2_000, 12_000, 40_000])
def test_a_full_disk_is_a_clear_error_and_everything_before_is_there(store: Store, add_to, limit: int) -> None:
    kept = add_to(store, "c", "kept", ["The lamp burned."])
    body = f"""
import resource
from preread.core.errors import ResourceError
add = [f"A long sentence, number {{i}}, that no small file can hold. " * 9 for i in range(99)]
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    add_to(store, "c", "large", add)
except ResourceError as error:
    print(error.exit_code)
    print(sorted(entry.source for entry in store.documents()), store.document("c", "kept").text)
"""
    done = run(store.path, body)
    assert done.stdout.splitlines() == ["4", "['kept'] The lamp burned."], done.stderr
    assert store.document("c", "kept") == kept
    add_to(store, "c", "large", ["Now there is room."])
    assert [entry.source for entry in store.documents()] == ["kept", "large"]


def test_a_second_writer_is_told_who_writes(store: Store) -> None:
    impatient = Store(store.path, wait_s=0.05)
    holding, done = threading.Event(), threading.Event()

    def hold() -> None:
        with store.writing(), store.writing():
            holding.set()
            done.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert holding.wait(10)
    with pytest.raises(LibraryBusy, match=f"process {os.getpid()} on "):
        impatient.configure("c", {})
    assert impatient.documents() == []
    done.set()
    thread.join()
    impatient.configure("c", {"ratio": 8})
    assert store.settings("c") == {"ratio": 8}


def test_a_killed_writer_does_not_hold_the_library(store: Store) -> None:
    body = """
import os, signal
with store.writing():
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert run(store.path, body).returncode == -signal.SIGKILL
    Store(store.path, wait_s=0.05).configure("c", {})


def test_readers_see_whole_versions_while_another_process_replaces_and_forgets(store: Store, add_to) -> None:
    add_to(store, "c", "a", ["Version 0, one of 1. "])
    body = """
for n in range(1, 17):
    add_to(store, "c", "a", [f"Version {n}, one of {1 + n % 5}. "] * (1 + n % 5))
    add_to(store, "c", "b", ["Passing through."])
    store.optimize() if n % 3 else store.forget("c", "b")
"""
    seen = set()
    with subprocess.Popen(child(store.path, body)) as writer:
        while writer.poll() is None:
            passages = [one.passage.text for one in store.passages("c", "a")]
            assert passages == [passages[0]] * int(passages[0].split("of ")[1].split(".")[0])
            seen.add(passages[0])
            hits = store.nearest("c", np.ones(8, np.float32), 20) + store.matching("c", "version", 20)
            assert {hit.source for hit in hits} <= {"a", "b"}
            assert any(hit.source == "a" for hit in hits)
    assert writer.returncode == 0
    assert len(seen) > 3
    assert store.passages("c", "a")[0].passage.text.startswith("Version 16")


def test_settings_are_replaced_whole(store: Store) -> None:
    store.configure("c", {"method": "lloco", "ratio": 30})
    store.configure("c", {"method": "text"})
    assert store.settings("c") == {"method": "text"}
    assert store.collections() == ["c"]
    files = list((store.path / "collections").iterdir())
    assert [json.loads(file.read_text())["collection"] for file in files] == ["c"]


def test_room_leaves_other_errors_alone(tmp_path: Path) -> None:
    from preread.store.faults import room

    with pytest.raises(FileNotFoundError), room("a file"):
        (tmp_path / "absent" / "file").write_text("")
    with pytest.raises(ResourceError, match="to write a file; got No space left on device"), room("a file"):
        raise RuntimeError("lance error: LanceError(IO): No space left on device (os error 28), here.rs:1")


def test_a_writer_that_waits_says_for_whom_and_goes_on(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr("preread.store.folder.SILENT_S", 0.05)
    first, second = Store(tmp_path / "library"), Store(tmp_path / "library", wait_s=30)
    done = threading.Event()

    def write() -> None:
        second.configure("a", {"x": 1})
        done.set()

    with first.writing():
        thread = threading.Thread(target=write)
        thread.start()
        while "waiting for process" not in capsys.readouterr().err:
            assert thread.is_alive()
            time.sleep(0.01)
        assert not done.is_set()
    thread.join(timeout=30)
    assert second.settings("a") == {"x": 1}
