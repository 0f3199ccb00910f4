"""Figures of answer quality: which rows of which tasks they are made of, and whether a run is whole for them.

A figure is made only where every task and row that it speaks of was judged as its goal says; else it stays absent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite

from preread.bench.figures import Figure, Made
from preread.bench.quality_cepe import cepe_figures
from preread.core.intervals import interval
from preread.eval.answerers import ANSWERERS
from preread.eval.pooled import mean_difference, mean_score, pooled_share, records, whole
from preread.eval.results import TUNED, sets_reported, widest
from preread.eval.runner import Judged
from preread.eval.summary import CEILING, table
from preread.eval.tables import Value

GAP_SETS = ("fairytaleqa", "hotpotqa_distractor", "squality", "qasper_subset")
GAP_RATIOS = (4, 8, 16, 30)
OTHER_RATIOS = (16, 30)
TUNED_SETS = ("qmsum", "squality", "fairytaleqa", "hotpotqa_distractor", "narrativeqa_literary")
TUNED_ROW = "lloco 30x, tuned"
RIVALS: Mapping[str, Sequence[str]] = {
    "lloco.tuned_30x_minus_text_tuned": ("full text, tuned", "head, tuned", "head 2048, tuned"),
    "lloco.tuned_30x_minus_retrieval": ("hybrid 30x, tuned",),
    "lloco.tuned_30x_minus_lora_no_context": ("no context, tuned",),
}
"""Figure -> the rows of which the best is what the tuned memory is held against."""
STUDIED_SETS = ("fairytaleqa", "hotpotqa_distractor", "squality")
UNTUNED_ROW = "lloco 16x"
STUDIED_ROW = "lloco 16x, tuned by self-study distil 1"
LABELLED_ROW = "lloco 16x, tuned distil 1"
NEEDLES = {"needle, fixed": "lloco 30x", "needle, random": "lloco 30x, tuned on needle, random (train)"}
"""Task -> the row that counts: the fixed needle as the memory comes, the random one with continued tuning."""
WINDOWS = 16


def figures(judged: Sequence[Judged], window: int, recipe: str, command: str, commit: str) -> list[Figure]:
    """Every figure that a run is whole for.

    Args:
        judged: all that was judged.
        window: positions that the decoder reads.
        recipe: path of the recipe.
        command: what to type to take it again.
        commit: of the code when it began.
    """
    asked = [one for one in judged if one.task.kind == "qa"]
    made = [*_sets_reported(asked), *_gaps(asked), *_tuned(asked), *_studied(asked), *_needles(judged, window)]
    made += cepe_figures(judged)
    return [
        Figure(
            one.id,
            one.value.value,
            one.value.low,
            one.value.high,
            one.unit,
            one.value.n,
            recipe=recipe,
            command=command,
            note=one.note,
            commit=commit,
        )
        for one in made
        if isfinite(one.value.value)  # where full text tells nothing, or labels teach nothing, there is no share of it
    ]


def _sets_reported(asked: Sequence[Judged]) -> Iterator[Made]:
    """How many question sets have a whole table, by a run that has every answerer that need not learn first."""
    if not {kind for one in asked for kind in one.kinds.values()} >= ANSWERERS.keys() - TUNED:
        return
    tables = [table(one, on_gpu=False) for one in asked]
    counted = sets_reported(tables, list(ANSWERERS))
    short = [
        f"{one.label} ({len(one.rows)} rows, half widths up to {widest(one):.1f})"
        for one in tables
        if one.label not in counted
    ]
    number = float(len(counted))
    note = f"counted: {', '.join(counted) or 'none'}; too few documents yet for: {', '.join(short) or 'none'}"
    yield Made("eval.sets_reported", Value(number, number, number, len(tables)), "sets", note)


def _gaps(asked: Sequence[Judged]) -> Iterator[Made]:
    """The share of the gap that memories recover, and those of other documents."""
    sets = _of(asked, GAP_SETS)
    for ratio in GAP_RATIOS:
        row = f"lloco {ratio}x"
        if (value := pooled_share(sets, row)) is not None:
            yield Made(f"lloco.gap_recovered_{ratio}x", value, "share", _note(sets, row))
    others = [f"lloco {ratio}x, another document's" for ratio in OTHER_RATIOS]
    shares = {row: value for row in others if (value := pooled_share(sets, row)) is not None}
    if len(shares) == len(others):
        worst = max(shares, key=lambda row: shares[row].value)
        told = ", ".join(f"{row} {value.value:.3f}" for row, value in shares.items())
        note = f"the highest of {told}; {_note(sets, worst)}"
        yield Made("lloco.gap_other_document", shares[worst], "share", note)


def _tuned(asked: Sequence[Judged]) -> Iterator[Made]:
    """By how much the tuned memory leads each kind of rival, in points of the sets' mean score."""
    sets = _of(asked, TUNED_SETS)
    if not whole(sets, TUNED_ROW):
        return
    for name, rows in RIVALS.items():
        scores = {row: mean_score(sets, row) for row in rows if whole(sets, row)}
        if not scores:
            continue
        best = max(scores, key=lambda row: scores[row])
        told = ", ".join(f"{row} {score:.2f}" for row, score in scores.items())
        unfit = [row for row in rows if row not in scores]
        left_out = f"; not every document fits {', '.join(unfit)}" if unfit else ""
        note = f"{TUNED_ROW} {mean_score(sets, TUNED_ROW):.2f} against {best} (of {told}){left_out}; "
        yield Made(name, mean_difference(sets, TUNED_ROW, best), "points", note + _counts(sets, TUNED_ROW))


def _studied(asked: Sequence[Judged]) -> Iterator[Made]:
    """What an adapter gains without labels over what it gains with them."""
    sets = _of(asked, STUDIED_SETS)
    value = pooled_share(sets, STUDIED_ROW, UNTUNED_ROW, LABELLED_ROW)
    if value is not None:
        yield Made("lloco.selfstudy_share_of_labels", value, "share", _note(sets, STUDIED_ROW))


def _needles(judged: Sequence[Judged], window: int) -> Iterator[Made]:
    """The lower share of needles that are found in texts of 16 times the window."""
    found: dict[str, Value] = {}
    for one in judged:
        row, length = NEEDLES.get(one.task.label, ""), WINDOWS * window
        far = (
            [record for record in records(one, row) if dict(record.at).get("length") == length]
            if row in one.outcomes
            else []
        )
        if far and whole([one], row):
            units: dict[str, list[tuple[float, float]]] = {}
            for record in far:
                units.setdefault(record.unit, []).append((record.scores[one.task.headline] / 100, 1.0))
            found[one.task.label] = Value(*interval(units), len(far))
    if len(found) == len(NEEDLES):
        least = min(found, key=lambda label: found[label].value)
        told = ", ".join(f"{label} {value.value:.2f} ({NEEDLES[label]})" for label, value in found.items())
        note = f"{WINDOWS * window:,} tokens; the lower of {told}"
        yield Made("lloco.needle_16x_window", found[least], "share", note)


def _of(asked: Sequence[Judged], labels: Sequence[str]) -> list[Judged]:
    """The question sets of these names; none unless all were judged."""
    found = {one.task.label: one for one in asked}
    return [found[label] for label in labels] if set(labels) <= found.keys() else []


def _note(sets: Sequence[Judged], row: str) -> str:
    """How much of each set was judged where the full text fits, and what the row says of itself."""
    return "; ".join([_counts(sets, CEILING), *dict.fromkeys(note for one in sets for note in one.caveats[row])])


def _counts(sets: Sequence[Judged], row: str) -> str:
    """Questions and documents of each set that a row, named by label or kind, was judged on."""
    told = []
    for one in sets:
        label = next(label for label, kind in one.kinds.items() if row in (label, kind))
        done = [outcome for outcome in one.outcomes[label] if not outcome.unfit]
        left_out = len(one.outcomes[label]) - len(done)
        long = f", {left_out} longer than the window left out" if left_out else ""
        questions = sum(len(outcome.records) for outcome in done)
        told.append(f"{one.task.label} {questions} questions of {len(done)} documents{long}")
    return "; ".join(told)
