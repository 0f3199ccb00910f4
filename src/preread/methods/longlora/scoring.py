"""How a layer's scores become weights, and what every backend of the attention computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Scoring:
    """How scores become weights, as the layer has it.

    Args:
        scale: what scores are multiplied by; None is 1 / sqrt(E).
        dropout: share of the weights that is dropped.
        softcap: bound of the scores (Gemma 2), or None.
    """

    scale: float | None = None
    dropout: float = 0.0
    softcap: float | None = None


class Kernel(Protocol):
    """What computes attention inside stretches; the modules `sdpa`, `flex` and `varlen` are such."""

    NEEDS: str
    """In words, what `possible` asks for."""

    def possible(self, query: Tensor, scoring: Scoring) -> bool:
        """Whether it can train such a layer on the device of its queries."""

    def within(self, query: Tensor, key: Tensor, value: Tensor, sizes: Sequence[int], scoring: Scoring) -> Tensor:
        """Causal attention inside stretches.

        Args:
            query: [H, N, E].
            key: [K, N, E], K a divisor of H.
            value: [K, N, E].
            sizes: of the stretches, which follow one another and are N tokens together.
            scoring: of the layer.

        Returns:
            [H, N, E].
        """
