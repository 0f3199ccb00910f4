"""A result as files: tables with all that is needed to take them again, and the records behind them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Any

from preread.core.provenance import device
from preread.eval.cache import PROTOCOL
from preread.eval.gains import gains
from preread.eval.kit import Kit
from preread.eval.recipe import EvalRecipe
from preread.eval.runner import Judged
from preread.eval.summary import table
from preread.eval.tables import RESULTS, Table, plain

TUNED = frozenset({"tuned"})
"""Kinds of answerers that learn first, so that a table without them may be whole."""
HALF_WIDTH = 4.0
"""Points that an interval may reach to each side for a set to count as reported."""


def result(
    name: str, recipe: EvalRecipe, judged: Sequence[Judged], kit: Kit, command: str, at: str, limit: int | None
) -> dict[str, Any]:
    """A result as JSON has it.

    Args:
        name: of the recipe.
        recipe: what was run.
        judged: what came of it.
        kit: what it was run with.
        command: what to type to take it again.
        at: commit of the code when it began.
        limit: most units of a task, where there was one.
    """
    on_gpu = kit.decoder.device.type == "cuda"
    return {
        "name": name,
        "what": recipe.what,
        "recipe": asdict(recipe),
        "limit": limit,
        "command": command,
        "commit": at,
        "device": device(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "model": kit.decoder.name,
        "weights": kit.decoder.note,
        "window": kit.decoder.window,
        "protocol": PROTOCOL,
        "gains": [plain(gain) for gain in gains(judged)],
        "tasks": [plain(table(one, on_gpu)) for one in judged],
    }


def write(found: dict[str, Any], judged: Sequence[Judged], folder: Path) -> Path:
    """Write a result, and beside it every record, so that anyone can draw them again; the result's path.

    Args:
        found: as `result` gives it.
        judged: with the records.
        folder: of all results.
    """
    path = folder / RESULTS / f"{found['name']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"task": one.task.label, "answerer": label, **asdict(record)}, ensure_ascii=False)
        for one in judged
        for label, outcomes in one.outcomes.items()
        for outcome in outcomes
        for record in outcome.records
    ]
    # Without a time in its header the file depends on its content alone.
    _replace(path.with_suffix(".records.jsonl.gz"), gzip.compress("".join(f"{x}\n" for x in lines).encode(), mtime=0))
    _replace(path, (json.dumps(found, indent=1, ensure_ascii=False) + "\n").encode())
    return path


def sets_reported(tables: Sequence[Table], kinds: Sequence[str]) -> list[str]:
    """Question sets whose table has a row of each of the kinds, with intervals by document narrow enough to be read.

    Args:
        tables: of an evaluation.
        kinds: of answerers that a whole table has.
    """
    whole = [one for one in tables if one.kind == "qa" and {row.kind for row in one.rows} >= set(kinds) - TUNED]
    return [one.label for one in whole if widest(one) <= HALF_WIDTH]


def widest(one: Table) -> float:
    """Points that the widest interval of a table's headline reaches to each side; infinite where nothing bounds it."""
    headlines = [row.metrics[one.headline] for row in one.rows if one.headline in row.metrics]
    return max(((value.high - value.low) / 2 for value in headlines), default=inf)


def _replace(path: Path, raw: bytes) -> None:
    half = path.with_name(path.name + ".part")
    half.write_bytes(raw)
    half.replace(path)
