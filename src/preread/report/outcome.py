"""What an evaluation shows, in sentences that are computed from its numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import exp, isfinite, log
from statistics import mean

from preread.eval.tables import Evaluation, Row, Table
from preread.report.families import FRAME, OTHERS, contenders, family, only
from preread.report.numbers import between, decimals, fixed
from preread.report.sheets import name

EQUAL = 1.25
"""Times as many positions still count as equal: a budget ends at whole passages, or at whole summary embeddings."""
FEWER = 0.5
"""Of the full text's positions: an answerer that reads more has not made the text short."""
MOST_LINES = 4
"""Of tasks that are told one by one."""
RUNNING_TEXT = ("language modelling", "general ability")


@dataclass(frozen=True, slots=True)
class Standing:
    """An answerer over all question sets of an evaluation.

    Args:
        row: its row in the first of them.
        share: mean over the sets of the share of the gap, in percent.
        positions: geometric mean over the sets of the positions read.
    """

    row: Row
    share: float
    positions: float


def with_shares(evaluation: Evaluation) -> list[Table]:
    """The question sets on which shares of the gap compare answerers."""
    asked = [table for table in evaluation.tasks if table.group not in RUNNING_TEXT]
    return [table for table in asked if any(_share(row) is not None for row in contenders(table.rows))]


def standings(tables: Sequence[Table]) -> list[Standing]:
    """Those that have a share on every one of the sets, and did every unit of it."""
    found = []
    for first in tables[0].rows if tables else ():
        rows = [row for table in tables for row in table.rows if row.answerer == first.answerer]
        shares = [share for row in rows if (share := _share(row)) is not None]
        if len(shares) == len(tables) and all(row.positions > 0 for row in rows):
            found.append(Standing(first, mean(shares), exp(mean(log(row.positions) for row in rows))))
    return found


def findings(evaluation: Evaluation) -> list[str]:
    """What it shows; nothing where its tables do not say."""
    tables = with_shares(evaluation)
    lines = [*_retrieval(tables), *_short(tables), *_own(tables)]
    rest = [table for table in evaluation.tasks if table not in tables]
    return lines + [line for table in rest[:MOST_LINES] for line in _alone(table)]


def _retrieval(tables: Sequence[Table]) -> Iterator[str]:
    """Memories against retrieved text at equal positions."""
    sets = [held for table in tables if (held := _pairs(table))]
    if not sets:
        return
    text = sum(all(ours < theirs for ours, theirs in held.values()) for held in sets)
    line = f"Retrieved text tells more than every memory at equal positions on {text or 'none'} of {_sets(len(sets))}"
    ahead = Counter(label for held in sets for label, (ours, theirs) in held.items() if ours > theirs)
    best = "".join(f"; best against it is {label}, which tells more on {n}" for label, n in ahead.most_common(1))
    yield f"{line}{best}."


def _pairs(table: Table) -> dict[str, tuple[float, float]]:
    """By memory: its share, and that of the best retrieval that reads no more than it."""
    found = {}
    for memory in (row for row in table.rows if family(row) == "memory"):
        rivals = [row for row in table.rows if row.kind == "retrieved" and row.positions <= EQUAL * memory.positions]
        shares = [share for row in rivals if (share := _share(row)) is not None]
        if shares and (own := _share(memory)) is not None:
            found[memory.answerer] = own, max(shares)
    return found


def _short(tables: Sequence[Table]) -> Iterator[str]:
    """Who keeps most, of those that made the text short."""
    best: list[tuple[Row, float]] = []
    for table in tables:
        full = only(table.rows, "full")
        short = [row for row in contenders(table.rows) if full and row.positions <= FEWER * full.positions]
        rows = [(row, share) for row in short if (share := _share(row)) is not None]
        best += [max(rows, key=lambda pair: pair[1])] if rows else []
    if not best:
        return
    counts = Counter(row.answerer for row, _ in best)
    label, times = counts.most_common(1)[0]
    kept = mean(share for row, share in best if row.answerer == label)
    line = f"Of what reads at most half of the text, {label} keeps most on {times} of {_sets(len(best))}"
    yield f"{line}: {kept:.0f}\N{NO-BREAK SPACE}% of what the full text tells."


def _own(tables: Sequence[Table]) -> Iterator[str]:
    """Whether memories know their own document."""
    clear: Counter[str] = Counter()
    held: Counter[str] = Counter()
    for table in tables:
        others = {row.answerer: row for row in table.rows if row.kind == "other"}
        for row in contenders(table.rows):
            other = others.get(row.answerer + OTHERS)
            if other and "share" in row.metrics and "share" in other.metrics:
                held[row.answerer] += 1
                clear[row.answerer] += row.metrics["share"].low > other.metrics["share"].high
    if held:
        first, *rest = [(label, f"on {clear[label]} of {_sets(number)}") for label, number in held.items()]
        told = "".join(f"; {label} {where}" for label, where in rest)
        yield f"{first[0]} tells clearly more than another document's memory {first[1]}{told}."


def _alone(table: Table) -> Iterator[str]:
    """A task without shares: its best."""
    metric = "perplexity" if all("perplexity" in row.metrics for row in table.rows) else table.headline
    rows = [row for row in contenders(table.rows) or table.rows if metric in row.metrics]
    rows = [row for row in rows if isfinite(row.metrics[metric].value) and not row.unfit]
    if not rows:
        return
    higher = table.higher and metric == table.headline
    first = sorted(rows, key=lambda row: row.metrics[metric].value, reverse=higher)[0]
    value = first.metrics[metric]
    places = decimals(metric, [value.value])
    told = f"{fixed(value.value, places)} ({between(value.low, value.high, places)})"
    yield f"{table.label}: {first.answerer} is {'best' if len(rows) > 1 else 'judged alone'}, {name(metric)} {told}."


def _share(row: Row) -> float | None:
    """Of an answerer that did every unit: shares of fewer do not compare with the others'."""
    if row.unfit and family(row) != FRAME:
        return None
    value = row.metrics.get("share")
    return value.value if value and isfinite(value.value) else None


def _sets(number: int) -> str:
    return "1 set" if number == 1 else f"{number} sets"
