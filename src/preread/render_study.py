"""What `study` gave, as text for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from preread.collection.study import Studied


def studied(result: Studied) -> str:
    """What `study` gave on the questions that it did not teach."""
    verdict, outcome = result.verdict, result.outcome
    if verdict is None:
        return f"stopped after {outcome.step:,} steps; the same command goes on"
    gain, low, high = verdict.gain
    between = "too few to bound it" if low is None or high is None else f"95 % {low:.3f} to {high:.3f}"
    use = "in use" if result.published else "not used"
    if not result.published:
        use += ": it did not help" if result.lost else ": documents went or changed meanwhile, study again"
    lines = [
        f"{outcome.step:,} steps in {outcome.seconds:.0f} s; taught: {_counted(result.questions)}",
        f"{verdict.questions:,} held-out questions, nats a token of the answers: without the adapter "
        f"{verdict.before:.3f}, with it {verdict.after:.3f}, gain {gain:.3f} ({between}), "
        f"better on {verdict.better}; the adapter is {use}",
    ]
    lines += [f"  {kind}: {n} questions, {b:.3f} -> {a:.3f}" for kind, (n, b, a) in verdict.kinds.items()]
    if verdict.in_use is not None:
        lines.append(f"the adapter that was in use so far: {verdict.in_use:.3f}")
    if result.replayed:
        lines.append(f"taught further from it, which knew {result.replayed:,} of the documents")
    if result.dropped:
        lines.append(f"questions by the model that were dropped: {_counted(result.dropped)}")
    return "\n".join(lines)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in counts.items())
