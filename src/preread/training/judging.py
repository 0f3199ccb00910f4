"""Whether an adapter helps: the likelihood of answers that it was never taught, against the bare decoder.

The token that ends an answer is not judged: to end is learned first, from any answers at all, and short ones are half
made of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from preread.core.intervals import interval
from preread.core.progress import progress
from preread.core.types import Lesson
from preread.nn.hf import Decoder
from preread.nn.judging import answer_nats


@dataclass(frozen=True, slots=True)
class Verdict:
    """Negative log-likelihood of the answers to held-out questions, in nats a token, each question counting alike.

    Args:
        questions: how many there are.
        before: mean by the bare decoder, which reads the same memories.
        after: mean with the adapter.
        in_use: mean with the adapter that was in use so far, or None where none was.
        gain: mean of before less after, and the ends of its 95 % interval; None where the questions do not bound it.
        better: how many of the answers became likelier.
        kinds: number, mean before and mean after, by kind of question.
    """

    questions: int
    before: float
    after: float
    in_use: float | None
    gain: tuple[float, float | None, float | None]
    better: int
    kinds: dict[str, tuple[int, float, float]]

    @property
    def helps(self) -> bool:
        """Whether the adapter gained on the bare decoder, and lost nothing to the one in use."""
        return self.gain[0] > 0 and (self.in_use is None or self.after <= self.in_use)


def judge(
    decoder: Decoder,
    lessons: Sequence[Lesson],
    kinds: Sequence[str],
    units: Sequence[str],
    adapter: str,
    in_use: str | None = None,
) -> Verdict:
    """Hold an adapter against the bare decoder, and against the one in use.

    Args:
        decoder: with the adapters attached.
        lessons: held-out ones, at least one; each answer has a token before the one that ends it.
        kinds: of each lesson's question.
        units: what each lesson's question is about; questions of one unit rise and fall together.
        adapter: name of what is judged.
        in_use: name of the adapter that it would replace.
    """
    columns: dict[str | None, list[float]] = {name: [] for name in dict.fromkeys((None, adapter, in_use))}
    with progress("judging the adapter", len(columns) * len(lessons)) as advance:
        for name, found in columns.items():
            for lesson in lessons:
                prompt, answer = replace(lesson.prompt, adapter=name), lesson.answer[:-1]
                found.append(answer_nats(decoder, [prompt], [answer])[0] / len(answer))
                advance()
    before, after = np.array(columns[None]), np.array(columns[adapter])
    gains: dict[str, list[tuple[float, float]]] = {}
    for unit, gain in zip(units, before - after, strict=True):
        gains.setdefault(unit, []).append((float(gain), 1.0))
    gain, *ends = interval(gains)
    low, high = (end if np.isfinite(end) else None for end in ends)
    rows = {kind: np.array([one == kind for one in kinds]) for kind in dict.fromkeys(kinds)}
    return Verdict(
        len(lessons),
        float(before.mean()),
        float(after.mean()),
        None if in_use is None else float(np.mean(columns[in_use])),
        (gain, low, high),
        int((after < before).sum()),
        {kind: (int(own.sum()), float(before[own].mean()), float(after[own].mean())) for kind, own in rows.items()},
    )
