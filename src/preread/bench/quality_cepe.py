"""Figures of what states beside the decoder tell it: far text, retrieved and further passages, pairs to recall."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from preread.bench.figures import Made
from preread.core.intervals import pooled_interval
from preread.eval.pooled import perplexity_ratio, pooled_share, records, whole
from preread.eval.runner import Judged
from preread.eval.tables import Value

ROW, MOVED_ROW = "cepe moved 0", "cepe moved 4"
ALONE, FULL = "no context", "full text"
"""The rows that read the near text alone, and all of it as text."""
SETS, LONG_SETS = ("books", "math_latex", "science_plos", "tech_docs"), ("books", "math_latex", "tech_docs")
"""Running text, and those of it that have documents of 32,768 tokens."""
GAP, BEYOND = "last 256 of 28 x 256 + 1,024", "last 256 of 96 x 256 + 8,192"
RETRIEVED = "{} retrieved passages of 12 more files by words"
FEW, MANY = 10, 50
"""Retrieved passages."""
OPEN_DOMAIN = "nq_oracle, hard distractors of 3 sets"
NEAR, ALL = 10, 60
"""Passages of a question: those in the decoder, and with those in the encoder."""
RECALL, RECALL_TOKENS = "key-value recall", 8192


def cepe_figures(judged: Sequence[Judged]) -> Iterator[Made]:
    """Those that a run is whole for.

    Args:
        judged: all that was judged.
    """
    by_label = {one.task.label: one for one in judged}

    def of(sets: Sequence[str], what: str, *rows: str) -> list[Judged]:
        """The tasks of some sets; none unless all are there and whole for the rows."""
        found = [by_label[label] for name in sets if (label := f"{name}, {what}") in by_label]
        return found if len(found) == len(sets) and all(whole(found, row) for row in rows) else []

    if gap := of(SETS, GAP, ROW, ALONE, FULL):
        value = pooled_share(gap, ROW)
        assert value is not None, "every task has all three rows"
        yield Made("cepe.gap_closed_8k", value, "share", _note(gap, ROW))
    if beyond := of(LONG_SETS, BEYOND, ROW, ALONE):
        ratio = perplexity_ratio([(one, ALONE) for one in beyond], [(one, ROW) for one in beyond])
        yield Made("cepe.beyond_window_32k", ratio, "x", _note(beyond, ROW))
    few, many = (of(SETS, RETRIEVED.format(count), ROW) for count in (FEW, MANY))
    if few and many:
        ratio = perplexity_ratio([(one, ROW) for one in few], [(one, ROW) for one in many])
        yield Made("cepe.rag_k50_over_k10", ratio, "x", _note(many, ROW))
    yield from _open_domain(by_label.get(OPEN_DOMAIN))
    for name, row in (("cepe.recall_8k", ROW), ("cepe.recall_8k_moved", MOVED_ROW)):
        yield from _recall(by_label.get(RECALL), name, row)


def _open_domain(judged: Judged | None) -> Iterator[Made]:
    """Exact match with all passages over that with the near ones alone, question by question."""
    if judged is None or not whole([judged], ROW):
        return
    at = {
        count: {one.unit: one.scores["em"] for one in records(judged, ROW) if dict(one.at)["passages"] == count}
        for count in (NEAR, ALL)
    }
    if not at[NEAR] or at[NEAR].keys() != at[ALL].keys():
        return
    value = Value(*pooled_interval([{unit: [(at[ALL][unit], em)] for unit, em in at[NEAR].items()}]), len(at[NEAR]))
    shares = {count: sum(own.values()) / len(own) for count, own in at.items()}
    told = f"exact match {shares[ALL]:.1f} with {ALL} passages, {shares[NEAR]:.1f} with {NEAR}; "
    yield Made("cepe.odqa_em_60_over_10", value, "x", told + _note([judged], ROW))


def _recall(judged: Judged | None, name: str, row: str) -> Iterator[Made]:
    """The share of values that are recalled."""
    if judged is None or not whole([judged], row):
        return
    units: dict[str, list[tuple[float, float]]] = {}
    for one in records(judged, row):
        if dict(one.at)["length"] == RECALL_TOKENS:
            units.setdefault(one.unit, []).append((one.scores["contains"] / 100, 1.0))
    if units:
        value = Value(*pooled_interval([units]), sum(map(len, units.values())))
        yield Made(name, value, "share", _note([judged], row))


def _note(judged: Sequence[Judged], row: str) -> str:
    """How much of each task was judged, and what the row says of itself."""
    told = []
    for one in judged:
        done = records(one, row)
        told.append(f"{one.task.label}: {len(done)} of {len({record.unit for record in done})} documents or questions")
    return "; ".join([*told, *dict.fromkeys(note for one in judged for note in one.caveats[row])])
