"""kill -9 at any moment of add, sync, study and forget: what was acknowledged is there, whole and once."""

from __future__ import annotations

import json
import os
import random
import re
import runpy
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from preread.collection.memories import Memories
from preread.collection.states import statuses
from preread.library import Library

ROOT = Path(__file__).parents[1]
WRITER = runpy.run_path(str(Path(__file__).with_name("writer.py")))
PHASES, text_of = list(WRITER["PHASES"]), WRITER["text_of"]
LEAST_IN_COMMIT = 10


class Writer:
    """The process that is killed again and again, and what it acknowledged before it died."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.phase_file = folder, folder / "phase"
        self.phase_file.write_bytes(b" " * WRITER["WIDTH"])
        self.round = {"model": str(model), "library": str(folder / "library"), "docs": str(folder / "docs")}
        self.round |= {"phase_file": str(self.phase_file)}
        (folder / "docs").mkdir()
        command = [sys.executable, str(Path(__file__).with_name("writer.py")), str(ROOT / "conftest.py")]
        quiet = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=quiet
        )
        self._send({"model": str(model)})
        assert "ready" in self._line()

    def live_and_die(self, plan: dict, held: dict[str, int]) -> tuple[dict[str, int], dict[str, int | None], str]:
        """One life: documents acknowledged at its end by version, those in hand, and the phase that the kill hit."""
        acknowledged, pending = dict(held), {}
        self._send(self.round | plan)
        while "end" not in (line := self._line()):
            if "error" in line:
                pytest.fail(f"{plan}: {line['error']}")
            if "begin" in line:
                pending = line["pending"]
            acknowledged |= line.get("done", {})
            if "over" in line:
                pending = {}
        assert line["signal"] == 9
        known = {name: version for name, version in acknowledged.items() if version is not None}
        return known, pending, self.phase_file.read_bytes().decode().strip()

    def _send(self, message: dict) -> None:
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def _line(self) -> dict:
        line = self.process.stdout.readline()
        assert line, "the writer's parent ended"
        return json.loads(line)


@pytest.fixture
def model(tmp_path, tiny_decoder):
    """A folder with a tiny decoder, which two processes load alike."""
    decoder, folder = tiny_decoder("llama"), tmp_path / "model"
    decoder.model.save_pretrained(folder)
    decoder.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def writer(tmp_path, model):
    made = Writer(tmp_path, model)
    yield made
    made.process.stdin.close()
    made.process.wait(timeout=30)
    made.process.stdout.close()


def plans(kills: int) -> list[dict]:
    """When each kill comes: a third in commits, a half in every other phase in turn, the others at any time at all."""
    draw, others, made = random.Random(7), [phase for phase in PHASES if phase != "commit"], []
    for number in range(kills):
        if number % 3 == 0:
            plan = {"phase": "commit", "number": draw.randint(1, 3), "delay_s": draw.uniform(0, 0.006)}
        elif number % 6 == 5:
            plan = {"phase": "read", "number": 1, "delay_s": draw.uniform(0, 0.6)}
        else:
            plan = {
                "phase": others[number % len(others)],
                "number": draw.randint(1, 2),
                "delay_s": draw.uniform(0, 0.004),
            }
        made.append(plan | {"seed": number, "version": 1000 * number})
    return made


def wrongs(library: Library, acknowledged: dict[str, int], pending: dict[str, int | None]) -> tuple[Counter, dict]:
    """How many documents are lost, half or doubled; and the version of each that is there."""
    collection, counted, found = library.collection("sea"), Counter(), {}
    store, entries = collection.store, library.collection("sea").documents()
    handle = collection.handle("lloco") if entries else None
    total = 0
    for entry in entries:
        name = Path(entry.source).name
        counted["doubled"] += name in found
        text = store.document("sea", entry.source).text
        stored = [one.passage for one in store.passages("sea", entry.source)]
        whole = "".join(passage.text for passage in stored) == text and len(stored) == entry.passages
        whole = whole and len(Memories(store, handle).load(stored)) == len(stored)
        found[name] = next(
            (v for v in (acknowledged.get(name), pending.get(name)) if v and text == text_of(name, v)), None
        )
        counted["half"] += not whole or found[name] is None
        total += len(stored)
    for name in acknowledged:
        counted["lost"] += name not in found and not (name in pending and pending[name] is None)
        counted["checked"] += 1
    counted["half"] += sum(name not in acknowledged and name not in pending for name in found)
    if entries:
        hits = store.nearest("sea", np.ones(64, np.float32), 10 * total)
        rows = [(hit.source, hit.passage.index) for hit in hits]
        counted["doubled"] += len(rows) - len(set(rows))
        counted["lost"] += total - len(set(rows))
        counted["lost"] += sum(not found_by_words(store, hit, total) for hit in hits)
    return counted, found


def found_by_words(store, hit, total: int) -> bool:
    """Whether a search for a passage's own words finds it; one of punctuation has none."""
    found = store.matching("sea", hit.passage.text, 10 * total)
    return not re.search(r"\w", hit.passage.text) or hit.passage in [other.passage for other in found]


def no_contradiction(library: Library) -> None:
    """What is listed as learned or stale is what the table holds, and no job is alive."""
    listed = statuses(library.store)
    learned = {status.source for status in listed if status.state in ("learned", "stale")}
    assert learned == {entry.source for entry in library.store.documents()}
    assert all(status.state == "queued" and status.reason for status in listed if status.source not in learned)


def no_half_adapter(library: Library) -> None:
    """The adapter in use is whole, and was taught by no document that is gone."""
    collection = library.collection("sea")
    if record := collection.adapters.record("lloco"):
        assert collection.adapters.intact(
            "lloco", record.version, collection.decoder, collection.library.retriever.embedder
        )
        assert record.documents.keys() <= {entry.source for entry in collection.documents()}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kill_9_at_any_moment_loses_nothing(writer, model, kills, outcome, monkeypatch, tiny_decoder, tmp_path):
    from preread.models.loading import load

    decoder = load(str(model))
    monkeypatch.setattr("preread.library.load", lambda name: decoder)
    monkeypatch.setattr("preread.library.Embedder", runpy.run_path(str(ROOT / "conftest.py"))["WordCounts"])
    counted, phases, held = Counter(), Counter(), {}
    slowest = most_work = 0.0
    for plan in plans(kills):
        acknowledged, pending, phase = writer.live_and_die(plan, held)
        phases[phase] += 1
        started, worked = time.monotonic(), time.process_time()
        library = Library(tmp_path / "library")
        library.store.documents()
        library.store.collect()  # a write: it finishes what a killed `forget` began
        slowest = max(slowest, time.monotonic() - started)
        most_work = max(most_work, time.process_time() - worked)
        found, held = wrongs(library, acknowledged, pending)
        counted += found
        assert not found["lost"] + found["half"] + found["doubled"], (plan, phase, acknowledged, pending, held, found)
        no_contradiction(library)
        no_half_adapter(library)
    outcome |= {"kills": kills, "phases": phases, "slowest_s": slowest, "checked": counted["checked"]}
    outcome |= {name: counted[name] for name in ("lost", "half", "doubled")}
    assert most_work < 5, "seconds of the processor, for a busy machine takes any time at all"
    assert phases["commit"] >= LEAST_IN_COMMIT * kills / 60
    assert len(phases) >= min(10, kills // 6), phases
    assert counted["checked"] > kills
    Library(tmp_path / "library").collection("sea").forget_all()
    assert Library(tmp_path / "library").store.documents() == []
