"""Metrics of written answers against references, from 0 to 100; the best reference counts."""

from __future__ import annotations

from collections.abc import Sequence


def score(name: str, answer: str, references: Sequence[str]) -> float:
    """A metric by name.

    Args:
        name: `em`.
        answer: as written.
        references: all that are right.
    """
    assert name
    return 100.0 * any(answer.strip() == one.strip() for one in references)
