"""Outcomes by content: what was judged once is not judged again, whichever recipe asks for it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from preread.core.config import build
from preread.core.errors import PrereadError
from preread.core.types import sha256
from preread.eval.answerer import Answerer
from preread.eval.case import Outcome
from preread.eval.kit import Kit
from preread.eval.task import Task

PROTOCOL = 1
"""Raised whenever the harness would judge the same thing otherwise; older outcomes are then not found."""


class Cache:
    """Outcomes in a folder, a file for each task and answerer, a line for each unit.

    A line is appended when its unit is done, so a process that is killed loses the unit at hand and nothing else; a
    line that was cut is not read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, kit: Kit, task: Task, answerer: Answerer) -> dict[str, Outcome]:
        """What is known, by the key of its unit."""
        try:
            lines = self._file(kit, task, answerer).read_text(encoding="utf-8").splitlines()
        except OSError:
            return {}
        found = [outcome for line in lines if (outcome := _outcome(line))]
        return {outcome.unit: outcome for outcome in found}

    def write(self, kit: Kit, task: Task, answerer: Answerer, outcome: Outcome) -> None:
        """Keep an outcome."""
        path = self._file(kit, task, answerer)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            file.seek(0, 2)
            if file.tell():
                file.seek(-1, 2)
                cut = file.read(1) != b"\n"  # by a kill; the next line must not be lost with it
                file.write(b"\n" * cut)
            file.write(json.dumps(asdict(outcome), ensure_ascii=False).encode() + b"\n")

    def _file(self, kit: Kit, task: Task, answerer: Answerer) -> Path:
        decoder = kit.decoder
        device = decoder.device.type
        parts = (str(PROTOCOL), kit.reader, str(decoder.dtype), device, task.key, answerer.key(kit))
        return self.folder / f"{sha256(*parts)[:32]}.jsonl"


def _outcome(line: str) -> Outcome | None:
    try:
        return build(Outcome, json.loads(line))
    except (ValueError, TypeError, PrereadError):
        return None
