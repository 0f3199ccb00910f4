"""Figures of answer quality: which rows of which tasks they are made of, and whether a run is whole for them.

A figure is made only where every task and row that it speaks of was judged as its goal says; else it stays absent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from preread.bench.figures import Figure
from preread.eval.answerers import ANSWERERS
from preread.eval.pooled import pooled_share
from preread.eval.results import TUNED, sets_reported, widest
from preread.eval.runner import Judged
from preread.eval.summary import CEILING, table
from preread.eval.tables import Value

GAP_SETS = ("fairytaleqa", "hotpotqa_distractor", "squality", "qasper_subset")
GAP_RATIOS = (4, 8, 16, 30)
OTHER_RATIOS = (16, 30)


def figures(judged: Sequence[Judged], recipe: str, command: str, commit: str) -> list[Figure]:
    """Every figure that a run is whole for.

    Args:
        judged: all that was judged.
        recipe: path of the recipe.
        command: what to type to take it again.
        commit: of the code when it began.
    """
    made = [*_sets_reported(judged), *_gaps(judged)]
    return [
        Figure(id, value.value, value.low, value.high, unit, value.n, recipe, command, note, commit)
        for id, value, unit, note in made  # noqa: A001 as the figure has it
    ]


Made = tuple[str, Value, str, str]
"""A figure's id, value, unit and note."""


def _sets_reported(judged: Sequence[Judged]) -> Iterator[Made]:
    """How many question sets have a whole table, by a run that has every answerer that need not learn first."""
    asked = [found for one in judged if (found := table(one, on_gpu=False)).kind == "qa"]
    if not {row.kind for one in asked for row in one.rows} >= ANSWERERS.keys() - TUNED:
        return
    counted = sets_reported(asked, list(ANSWERERS))
    short = [
        f"{one.label} ({len(one.rows)} rows, half widths up to {widest(one):.1f})"
        for one in asked
        if one.label not in counted
    ]
    number = float(len(counted))
    note = f"counted: {', '.join(counted) or 'none'}; too few documents yet for: {', '.join(short) or 'none'}"
    yield "eval.sets_reported", Value(number, number, number, len(asked)), "sets", note


def _gaps(judged: Sequence[Judged]) -> Iterator[Made]:
    """The share of the gap that memories recover, and those of other documents."""
    sets = _of(judged, GAP_SETS)
    for ratio in GAP_RATIOS:
        row = f"lloco {ratio}x"
        if (value := _share(sets, row)) is not None:
            yield f"lloco.gap_recovered_{ratio}x", value, "share", _note(sets, row)
    others = [f"lloco {ratio}x, another document's" for ratio in OTHER_RATIOS]
    shares = {row: value for row in others if (value := _share(sets, row)) is not None}
    if len(shares) == len(others):
        worst = max(shares, key=lambda row: shares[row].value)
        told = ", ".join(f"{row} {value.value:.3f}" for row, value in shares.items())
        yield "lloco.gap_other_document", shares[worst], "share", f"the highest of {told}; {_note(sets, worst)}"


def _of(judged: Sequence[Judged], labels: Sequence[str]) -> list[Judged]:
    """The question sets of these names; none unless all were judged."""
    found = {one.task.label: one for one in judged if one.task.kind == "qa"}
    return [found[label] for label in labels] if set(labels) <= found.keys() else []


def _share(sets: Sequence[Judged], row: str) -> Value | None:
    return pooled_share(sets, row) if sets and all(row in one.outcomes for one in sets) else None


def _note(sets: Sequence[Judged], row: str) -> str:
    """How much of each set was judged, and what the row says of itself."""
    told = []
    for one in sets:
        full = [outcome for label, kind in one.kinds.items() if kind == CEILING for outcome in one.outcomes[label]]
        long = sum(bool(outcome.unfit) for outcome in full)
        questions = sum(len(outcome.records) for outcome in full)
        left_out = f", {long} longer than the window left out" if long else ""
        told.append(f"{one.task.label} {questions} questions of {len(full) - long} documents{left_out}")
    caveats = dict.fromkeys(caveat for one in sets for caveat in one.caveats[row])
    return "; ".join([*told, *caveats])
