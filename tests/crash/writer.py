"""A process that adds, studies and forgets until it is killed, and says before and after what it does.

    python writer.py CONFTEST

reads a round a line, as JSON, from standard input. Each runs in a fork of this process, which has imported everything,
so that a round takes no longer than its work. The child writes a line before and after each operation; when it is dead,
this process writes `{"end": true}`. What the child is at is kept in a mapped file, which outlasts it.
"""

from __future__ import annotations

import functools
import json
import mmap
import os
import random
import runpy
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

PHASES = {
    "read": "preread.collection.intake:read",
    "embed": "preread.retrieval.retriever:Retriever.vectors",
    "compress": "preread.collection.memories:Memories.make",
    "payloads": "preread.store.payloads:Payloads.put",
    "records": "preread.store.jobs:Jobs.settle",
    "commit": "preread.store.passages:PassageTable.replace",
    "optimize": "preread.store.passages:PassageTable.optimize",
    "discard": "preread.store.payloads:Payloads.remove",
    "list": "preread.store.catalog:Catalog.write",
    "settings": "preread.store.folder:Folder.configure",
    "write": "preread.training.selfstudy:keep",
    "teach": "preread.collection.study:train",
    "publish": "preread.collection.adapters:CollectionAdapters.publish",
    "forget adapters": "preread.collection.adapters:CollectionAdapters.forget",
    "forget rows": "preread.store.passages:PassageTable.delete",
    "scrub": "preread.store.passages:PassageTable.scrub",
    "forget payloads": "preread.store.payloads:Payloads.keep_only",
}
"""What a kill can hit, by the function that is it."""
WIDTH = 32
NAMES = [f"d{i}.md" for i in range(5)]


def text_of(name: str, version: int) -> str:
    """The text of a document at a version; every sentence names both."""
    days = (
        f"On day {i} the {name[:2]} met storm {version} and the keeper wrote it down." for i in range(1 + version % 7)
    )
    return "\n\n".join(["# The log", *days]) + "\n"


class Watch:
    """Writes down which phase runs, and kills the process a while after a phase begins for the nth time."""

    def __init__(self, file: Path, phase: str, number: int, delay_s: float) -> None:
        self.phase, self.left, self.delay_s = phase, number, delay_s
        with file.open("r+b") as opened:
            self.now = mmap.mmap(opened.fileno(), WIDTH)
        self.depth: list[str] = []
        self.show("between")

    def show(self, name: str) -> None:
        self.now[:WIDTH] = name.encode().ljust(WIDTH)

    def wrap(self, name: str, where: str) -> None:
        module, _, path = where.partition(":")
        owner = __import__(module, fromlist=["x"])
        *outer, last = path.split(".")
        for part in outer:
            owner = getattr(owner, part)
        function = getattr(owner, last)

        @functools.wraps(function)
        def watched(*args, **kwargs):
            self.depth.append(name)
            self.show(name)
            self.left -= name == self.phase
            if name == self.phase and self.left == 0:
                threading.Thread(target=self.kill, daemon=True).start()
            try:
                return function(*args, **kwargs)
            finally:
                self.depth.pop()
                self.show(self.depth[-1] if self.depth else "between")

        setattr(owner, last, watched)

    def kill(self) -> None:
        time.sleep(self.delay_s)
        os.kill(os.getpid(), signal.SIGKILL)


def tell(**what) -> None:
    os.write(1, (json.dumps(what) + "\n").encode())


def operate(round_: dict, decoder, conftest: dict) -> None:
    """Operations of one round, in an order that its seed decides, until somebody kills us."""
    from preread import library
    from preread.collection.lessons import StudyConfig
    from preread.collection.settings import Settings
    from preread.training.loop import TrainingConfig

    library.load, library.Embedder = lambda name: decoder, conftest["WordCounts"]
    watch = Watch(Path(round_["phase_file"]), round_["phase"], round_["number"], round_["delay_s"])
    for name, where in PHASES.items():
        watch.wrap(name, where)
    settings = Settings(model=round_["model"], options={"ratio": 4.0}, passage_tokens=80)
    collection = library.Library(round_["library"]).collection("sea", settings)
    draw, docs, version = random.Random(round_["seed"]), Path(round_["docs"]), round_["version"]
    writes = 0.25 if round_["phase"] == "write" else 0.0  # it takes long
    taught = StudyConfig(training=TrainingConfig(steps=1, save_every=1), rows=1, written=writes, general=0.0)
    wants = dict.fromkeys(("write", "teach", "publish"), "study")
    wants |= {"forget rows": "forget", "forget adapters": "forget"}
    usual = wants.get(round_["phase"], "forget" if round_["phase"] in ("scrub", "forget payloads") else "add")
    if round_["phase"] == "settings":
        usual = "study"
    for _ in range(1000):
        kind = draw.choice(["add", "add", "again", "sync", "forget", usual, usual])
        held = {Path(entry.source).name for entry in collection.documents()}
        name = draw.choice(NAMES)
        version += 1
        if kind == "add" or not held:
            (docs / name).write_text(text_of(name, version))
            tell(begin="add", pending={name: version})
            collection.add(docs / name)
            tell(done={name: version})
        elif kind == "again":  # what an interrupted call left on disk may be taken over now
            pending = on_disk(docs)
            tell(begin="again", pending=pending)
            for each in pending:
                collection.add(docs / each)
            tell(done=pending)
        elif kind == "sync":
            for each in draw.sample(NAMES, 2):
                (docs / each).write_text(text_of(each, version))
            if draw.random() < 0.4:
                (docs / name).unlink(missing_ok=True)
            pending = dict.fromkeys(held) | on_disk(docs)
            tell(begin="sync", pending=pending)
            collection.sync([docs], remove=True, on_added=functools.partial(tell_one, pending))
            tell(done=pending)
        elif kind == "forget":
            name = draw.choice(sorted(held))
            tell(begin="forget", pending={name: None})
            collection.forget(docs / name)
            tell(done={name: None})
            (docs / name).unlink(missing_ok=True)
        else:
            tell(begin="study", pending={})
            collection.study(config=taught)
        tell(over=kind)
    raise AssertionError("nobody killed us")


def on_disk(docs: Path) -> dict[str, int]:
    """The version of each file as it stands in the folder."""
    return {file.name: int(file.read_text().split("storm ")[1].split()[0]) for file in docs.glob("*.md")}


def tell_one(pending: dict[str, int], added) -> None:
    name = Path(added.entry.source).name
    tell(done={name: pending[name]})


def main() -> None:
    import lance_namespace  # noqa: F401  # most of what lancedb imports; lancedb itself begins threads, which do not fork
    import pyarrow  # noqa: F401
    import torch

    from preread.models.loading import load

    torch.set_num_threads(1)
    conftest = runpy.run_path(sys.argv[1])
    first = json.loads(sys.stdin.readline())
    decoder = load(first["model"])
    tell(ready=True)
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        if (child := os.fork()) == 0:
            try:
                operate(json.loads(line), decoder, conftest)
            except BaseException as error:
                tell(error=repr(error))
            os._exit(1)
        _, status = os.waitpid(child, 0)
        tell(end=True, signal=os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0)


if __name__ == "__main__":
    main()
