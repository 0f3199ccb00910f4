"""Whatever is added, changed, synced, forgotten, and wherever the process dies: the store equals the model.

A crash is the disk as it is at one moment: the library's folder is copied between two effects on it, the operation is
abandoned, and life goes on with the copy. Nothing that a dying process could still tidy up is in the copy.

`PREREAD_MACHINE_RUNS=2000 pytest tests/crash/test_crash_machine.py --timeout 0` makes the long run.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from preread.collection.memories import Memories
from preread.collection.settings import Settings
from preread.collection.states import statuses
from preread.core.errors import UsageError
from preread.core.types import Passage
from preread.library import Collection, Library
from preread.store.rows import text_key

RUNS = int(os.environ.get("PREREAD_MACHINE_RUNS", "100"))
SETTINGS = Settings(model="tiny", options={"ratio": 4.0}, passage_tokens=40)
NAMES = st.sampled_from(["x.md", "y.txt", "deep/z.md"])
COLLECTIONS = st.sampled_from(["sea", "land"])
VERSIONS = st.integers(0, 4)
EFFECT = st.integers(1, 30)
EFFECTS = (
    "preread.store.payloads.replace",
    "preread.store.folder.replace",
    "preread.store.catalog.replace",
    "preread.store.jobs.Jobs.note",
    "preread.store.jobs.Jobs.settle",
    "preread.store.jobs.Jobs.forget",
    "preread.store.jobs.Job._write",
    "lancedb.table.LanceTable.add",
    "lancedb.table.LanceTable.delete",
    "lancedb.table.LanceTable.update",
    "lancedb.table.LanceTable.create_index",
    "lancedb.table.LanceTable.optimize",
    "lancedb.merge.LanceMergeInsertBuilder.execute",
    "pathlib.Path.unlink",
    "pathlib.Path.touch",
)
"""All that changes the library's folder."""


class CrashError(BaseException):
    """The process is gone."""


def text_of(version: int) -> str:
    """Some versions begin alike, and any two documents of one version share everything that is stored of them."""
    if version == 0:
        return "The keeper slept by the lamp."
    return " ".join(
        f"On day {i} the storm {max(2, version)} met the {'lamp' if i else version}." for i in range(3 * version)
    )


@contextmanager
def crash_after(effects: int, library: Path, image: Path) -> Iterator[None]:
    """Die before or behind the effect of this number, leaving the disk of that moment in `image`."""
    left = effects

    def moment() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            shutil.copytree(library, image)
            raise CrashError

    with pytest.MonkeyPatch.context() as patch:
        for name in EFFECTS:
            _around(patch, name, moment)
        yield


def _around(patch: pytest.MonkeyPatch, name: str, moment: Callable[[], None]) -> None:
    import lancedb.merge  # so that the names lead somewhere
    import lancedb.table  # noqa: F401

    before = _found(name)

    def watched(*args, **kwargs):
        moment()
        result = before(*args, **kwargs)
        moment()
        return result

    patch.setattr(name, watched)


def _found(name: str) -> Callable:
    import importlib

    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        with suppress(ImportError):
            found = importlib.import_module(".".join(parts[:end]))
            for part in parts[end:]:
                found = getattr(found, part)
            return found
    raise AssertionError(name)


class Life(RuleBasedStateMachine):
    """Two collections in one library, each with a folder of files; the model is a dictionary of texts."""

    handle = None
    deaths = 0

    @initialize()
    def begin(self) -> None:
        self.top = Path(tempfile.mkdtemp())
        self.lives = 0
        self.library = self.open()
        self.files: dict[str, dict[str, int]] = {"sea": {}, "land": {}}
        self.held: dict[str, dict[str, int]] = {"sea": {}, "land": {}}

    def open(self) -> Library:
        return Library(self.top / f"library{self.lives}")

    def collection(self, name: str) -> Collection:
        opened = self.library.collection(name, SETTINGS)
        opened._handles["lloco"] = self.handle
        return opened

    def file(self, collection: str, name: str) -> Path:
        return self.top / collection / name

    def write(self, collection: str, name: str, version: int) -> None:
        file = self.file(collection, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text_of(version))
        self.files[collection][name] = version

    # What users do: each changes the model after the library did it.

    def add(self, collection: str, name: str) -> None:
        self.collection(collection).add(self.file(collection, name))
        self.held[collection][name] = self.files[collection][name]

    def sync(self, collection: str) -> None:
        (self.top / collection).mkdir(exist_ok=True)
        self.collection(collection).sync([self.top / collection], remove=True)
        self.held[collection] = dict(self.files[collection])

    def forget(self, collection: str, name: str) -> None:
        self.collection(collection).forget(self.file(collection, name))
        del self.held[collection][name]

    def forget_all(self, collection: str) -> None:
        self.collection(collection).forget_all()
        self.held[collection] = {}

    @rule(collection=COLLECTIONS, name=NAMES, version=VERSIONS)
    def a_file_is_written_and_added(self, collection: str, name: str, version: int) -> None:
        self.write(collection, name, version)
        self.add(collection, name)

    @rule(collection=COLLECTIONS, name=NAMES, version=VERSIONS)
    def a_file_changes(self, collection: str, name: str, version: int) -> None:
        self.write(collection, name, version)

    @rule(collection=COLLECTIONS, name=NAMES)
    def a_file_is_removed(self, collection: str, name: str) -> None:
        self.file(collection, name).unlink(missing_ok=True)
        self.files[collection].pop(name, None)

    @rule(collection=COLLECTIONS)
    def a_folder_is_synced(self, collection: str) -> None:
        self.sync(collection)

    @rule(collection=COLLECTIONS, name=NAMES)
    def a_document_is_forgotten(self, collection: str, name: str) -> None:
        if name in self.held[collection]:
            self.forget(collection, name)
        else:
            self.forget_records(collection, name)

    def forget_records(self, collection: str, name: str) -> None:
        """Nothing is held of it; what an interrupted `add` left of it may go, and only that."""
        with suppress(UsageError):
            assert self.collection(collection).forget(self.file(collection, name)).documents == 0

    @precondition(lambda self: any(self.held.values()))
    @rule()
    def a_collection_is_forgotten(self) -> None:
        self.forget_all(next(name for name, held in self.held.items() if held))

    @rule()
    def the_library_is_reopened(self) -> None:
        self.library = self.open()

    @rule(collection=COLLECTIONS, name=NAMES, version=VERSIONS, effects=EFFECT)
    def the_process_dies_in_add(self, collection: str, name: str, version: int, effects: int) -> None:
        self.write(collection, name, version)
        self.die("add", effects, collection, name)

    @rule(collection=COLLECTIONS, name=NAMES, version=VERSIONS, effects=EFFECT)
    def the_process_dies_in_sync(self, collection: str, name: str, version: int, effects: int) -> None:
        self.write(collection, name, version)
        self.die("sync", effects, collection, name)

    @precondition(lambda self: any(self.held.values()))
    @rule(what=st.sampled_from(["forget", "forget_all"]), effects=EFFECT)
    def the_process_dies_in_forget(self, what: str, effects: int) -> None:
        collection = next(name for name, held in self.held.items() if held)
        self.die(what, effects, collection, next(iter(self.held[collection])))

    def die(self, what: str, effects: int, collection: str, name: str) -> None:
        before = {key: dict(held) for key, held in self.held.items()}
        here, image = self.library.path, self.top / f"library{self.lives + 1}"
        arguments = (collection,) if what in ("sync", "forget_all") else (collection, name)
        try:
            with crash_after(effects, here, image):
                getattr(self, what)(*arguments)
        except CrashError:
            pass
        else:
            return  # it was done before that many effects
        Life.deaths += 1
        self.lives += 1
        self.library = self.open()
        self.held = before
        self.adopt(collection, self.wanted(collection, name, what))
        shutil.rmtree(here)

    def wanted(self, collection: str, name: str, what: str) -> dict[str, int]:
        """The collection as it had been, had the process lived."""
        if what == "sync":
            return self.files[collection]
        if what == "forget_all":
            return {}
        rest = {key: version for key, version in self.held[collection].items() if key != name}
        return rest if what == "forget" else rest | {name: self.files[collection][name]}

    def adopt(self, collection: str, wanted: dict[str, int]) -> None:
        """Take each document as it was or as it was to be, and nothing else."""
        found = {self.name(entry.source) for entry in self.library.store.documents(collection)}
        old, now = self.held[collection], {}
        for name in old.keys() | wanted.keys():
            if name in found:
                text = self.library.store.document(collection, str(self.file(collection, name))).text
                allowed = {held[name] for held in (old, wanted) if name in held}
                (now[name],) = {version for version in allowed if text_of(version) == text}
            else:
                assert name not in old or name not in wanted, "it was there, it was to stay, and it is gone"
        assert found == now.keys()
        self.held[collection] = now

    def name(self, source: str) -> str:
        return "/".join(Path(source).relative_to(self.top).parts[1:])

    @invariant()
    def the_store_equals_the_model(self) -> None:
        store, named = self.library.store, set()
        entries = store.documents()
        assert [(entry.collection, self.name(entry.source)) for entry in entries] == sorted(
            (collection, name) for collection, held in self.held.items() for name in held
        )
        for collection, held in self.held.items():
            every, total = [], 0
            for name, version in held.items():
                source = str(self.file(collection, name))
                stored = store.passages(collection, source)
                assert store.document(collection, source).text == text_of(version)
                assert "".join(one.passage.text for one in stored) == text_of(version)
                assert [one.passage.index for one in stored] == list(range(len(stored)))
                passages = [one.passage for one in stored]
                every += passages
                assert len(Memories(store, self.handle).load(passages)) == len(stored)
                named |= {one.keys["lloco"] for one in stored} | {text_key(store.document(collection, source).hash)}
                total += len(stored)
            if total:
                rows = [
                    (h.source, h.passage.index) for h in store.nearest(collection, np.ones(64, np.float32), 3 * total)
                ]
                assert len(rows) == len(set(rows)) == total
                assert all(self.found_by_words(collection, passage, total) for passage in every)
        assert store.missing(named) == set()
        listed = {(s.collection, s.source) for s in statuses(store) if s.state in ("learned", "stale")}
        assert listed == {(entry.collection, entry.source) for entry in entries}
        self.named = named

    def found_by_words(self, collection: str, passage: Passage, total: int) -> bool:
        found = self.library.store.matching(collection, passage.text, 3 * total)
        return not re.search(r"\w", passage.text) or passage in [hit.passage for hit in found]

    @rule()
    def nothing_is_left_over_after_collecting(self) -> None:
        self.library.store.collect()
        files = {file.name for file in (self.library.path / "payloads").rglob("*") if file.is_file()}
        assert files == self.named

    def teardown(self) -> None:
        if hasattr(self, "named"):
            self.nothing_is_left_over_after_collecting()
        if hasattr(self, "top"):
            shutil.rmtree(self.top)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_store_equals_the_model_whatever_happens(monkeypatch, open_library, collection):
    Life.handle = collection.handle("lloco")
    configured = settings(
        max_examples=RUNS,
        stateful_step_count=10,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # ten steps are read as they are: making them fewer takes longer than all the runs
        derandomize=RUNS <= 100,
        suppress_health_check=list(HealthCheck),
    )
    Life.deaths = 0
    run_state_machine_as_test(Life, settings=configured)
    assert Life.deaths > 2 * RUNS, "too few runs met a crash"
